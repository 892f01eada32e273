"""The steps of the ladder, from naive C to the fastest engine, one option each: a run of a step, the check of
its outputs, the bytes it moves, and the estimate of its gain.

bench/test_ladder.py measures them; report.py, plots.py and tour.py make tables, pictures and docs/tour.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import gpt2c
from gpt2c.options import PLAIN_ISAS, SWITCHES, WEIGHTS
from gpt2c.trace import Feed, Operation
from shared.greedy import Case, check_rows, prompt_of, require

# ---- Steps ----

Estimate = Literal["multiply-adds", "bytes", "threads", "kernels", "none"]
"""What the gain of a step is estimated from: multiply-adds or bytes that it avoids, threads that share the
work, kernels that compute more at once (`gain`), or nothing."""


@dataclass(frozen=True)
class Step:
    """A plan: the options of the step named `before`, and one more.

    adds: that option, "" for the first step; aside: whether the next step starts from `before` and not from
    this one; gain: the estimated gain of its kernels, if that is the estimate.
    """

    name: str
    options: tuple[str, ...]
    isa: str
    adds: str = ""
    before: str = ""
    estimate: Estimate = "none"
    gain: float = 1.0
    aside: bool = False

    def load(self, folder: Path | None) -> gpt2c.Model:
        return gpt2c.load(folder, opts=self.options or "none", isa=self.isa)


UNROLLED = 4.0
"""The unrolled kernels load and store a sum once for four additions."""

SIMD_GAINS = {"avx2": 4.0, "neon": 2.0}
WIDER = 2.0
"""Gains of avx2 and neon over the unrolled kernels, for which compilers use four lanes and no fused
multiply-add; WIDER: of avx512 over avx2, whose registers are half as wide."""

PLAIN = tuple(PLAIN_ISAS)


def ladder(isas: Sequence[str], formats: Sequence[str] = WEIGHTS) -> tuple[Step, ...]:
    """The steps for a machine with these instruction sets, from slow to fast, and these weight formats."""
    steps = [Step("none", (), "ref")]

    def add(added: str, estimate: Estimate, isa: str, gain: float = 1.0, aside: bool = False) -> None:
        before = next(step for step in reversed(steps) if not step.aside)
        option = next(o for o in gpt2c.OPTIONS if o.name == added.partition("=")[0])
        replaced = {*option.replaces, *(formats if option.name in formats else ())}
        chosen = {*before.options, option.name} - replaced | {option.name}
        name = f"{before.name}&{added}" if aside else added
        options = tuple(o.name for o in gpt2c.OPTIONS if o.name in chosen)
        steps.append(Step(name, options, isa, added, before.name, estimate, gain, aside))

    for switch in SWITCHES:
        add(switch, "multiply-adds", "ref")
    add("gelu_table", "none", "ref", aside=True)
    add("aligned", "none", "ref")
    add("unroll", "kernels", "unroll", gain=UNROLLED)
    simd = [isa for isa in isas if isa not in PLAIN]
    for isa in dict.fromkeys([*simd[:1], *simd[-1:]]):
        add(f"simd={isa}", "kernels", isa, gain=SIMD_GAINS.get(isa, WIDER))
    fastest = isas[-1]
    add("threads", "threads", fastest)
    add("gelu_table", "none", fastest, aside=True)
    add("fused", "bytes", fastest)
    if simd:
        add("head_screen", "bytes", fastest)
        add("kv_f16", "bytes", fastest)
        for weights in formats[1:]:
            add(weights, "bytes", fastest)
    return tuple(steps)


# ---- One run ----


def generate(model: gpt2c.Model, case: Case) -> list[int]:
    """The timed run: greedy ids. An end-of-text token does not end it."""
    ids: list[int] = []
    feed = prompt_of(model, case)
    with model.session() as session:
        for _ in range(case.n_new):
            feed = [session.feed_greedy(feed)]
            ids += feed
    return ids


# ---- What the outputs must prove ----

TOLERANCES = {"gelu_table": 2.0**-10, "kv_f16": 2.0**-10, "bf16": 2.0**-6, "q8": 2.0**-5, "q4": 0.375}
"""How far an option that rounds may move a logit, relative to the largest logit. This is not a proof (the
tests have those), but a wrong kernel moves logits further."""

REORDERED = 2.0**-17
"""The same for instruction sets that sum in another order."""


@dataclass(frozen=True)
class Proof:
    """The check of a step. same_bits_as: an earlier step with the same logits, bit for bit, "" if none has;
    difference: the largest of any logit from the first step, on one text; limit: the largest allowed.
    """

    same_bits_as: str
    difference: float
    limit: float


def kind_of(step: Step) -> tuple[object, ...]:
    """Steps of the same kind have the same bits: the row contract."""
    rounding = tuple(name for name in step.options if name in TOLERANCES)
    return ("plain" if step.isa in PLAIN else step.isa, rounding)


def tolerance(step: Step) -> float:
    return sum(TOLERANCES.get(name, 0.0) for name in step.options) + REORDERED * (step.isa not in PLAIN)


def verify(steps: Sequence[Step], folder: Path | None, case: Case) -> dict[str, Proof]:
    """Check every step on the first step's text, token by token and in one pass. Raises Disagreement."""
    proofs: dict[str, Proof] = {}
    first_of: dict[tuple[object, ...], tuple[str, NDArray[np.float32]]] = {}
    with steps[0].load(folder) as naive:
        text = [*prompt_of(naive, case), *generate(naive, case)]
        expected = naive.logits(text)
    largest = float(np.abs(expected).max())
    for step in steps:
        with step.load(folder) as model:
            logits = step_by_step(model, text, case, step)
            at_once = model.logits(text)[case.n_prompt - 1 :]
        require(np.array_equal(logits, at_once), f"{step.name}: token by token and one pass differ in bits")
        same_as, same = first_of.setdefault(kind_of(step), (step.name, logits))
        require(np.array_equal(logits, same), f"{step.name} does not have the bits of {same_as}")
        difference = float(np.abs(logits - expected[case.n_prompt - 1 :]).max())
        limit = tolerance(step) * largest
        require(difference <= limit, f"{step.name} moved a logit by {difference:.3g}, more than {limit:.3g}")
        proofs[step.name] = Proof(same_as if same_as != step.name else "", difference, limit)
    return proofs


def step_by_step(model: gpt2c.Model, text: Sequence[int], case: Case, step: Step) -> NDArray[np.float32]:
    """Logits [n_new + 1, n_vocab] after the prompt and after each later token. Checks the rows, too."""
    with model.session() as session:
        found = [session.feed(text[: case.n_prompt])]
        found += [session.feed([token]) for token in text[case.n_prompt :]]
        check_rows(step.options, session.rows, Case(case.n_new + 1, case.n_prompt))
    return np.array(found)


# ---- The cost of a token ----


@dataclass(frozen=True)
class Token:
    """The cost of a new token. n_bytes: moved, mean over a case; operations: of the pass in its middle."""

    n_bytes: float
    operations: tuple[Operation, ...]


def look_inside(model: gpt2c.Model, case: Case) -> Token:
    """The cost of a token, from traces of the case's first, middle and last pass.

    The bytes of a pass grow linearly with its position (rows recomputed, K and V read), so Simpson's rule
    over the three passes gives the mean of all passes after the prompt. The prompt's own pass is added.
    """
    prompt = prompt_of(model, case)
    first, last = case.n_prompt, case.last_n - 1  # tokens before the pass
    middle = (first + last) // 2
    prompt_pass = traced_pass(model, prompt, 0)
    at = {n: traced_pass(model, (prompt * (n + 1))[: n + 1], n) for n in {first, middle, last}}
    n_bytes = {n: sum(op.n_bytes for op in operations) for n, operations in at.items()}
    mean = (n_bytes[first] + 4 * n_bytes[middle] + n_bytes[last]) / 6
    total = sum(op.n_bytes for op in prompt_pass) + mean * (case.n_new - 1)
    return Token(total / case.n_new, at[middle])


SHORT_MS, PASSES = 50.0, 7
"""A pass shorter than SHORT_MS is repeated up to PASSES times and the fastest counts, since the first one
finds nothing in the caches."""


def traced_pass(model: gpt2c.Model, ids: Sequence[int], n_past: int) -> tuple[Operation, ...]:
    """Trace the greedy pass over ids[n_past:] after ids[:n_past]."""
    with model.trace(n_best=0) as trace, model.session() as session:
        if n_past:
            session.feed(ids[:n_past])
        passes: list[Feed] = []
        while len(passes) < PASSES and (not passes or passes[-1].ms < SHORT_MS):
            session.rewind(n_past)
            session.feed_greedy(ids[n_past:])
            passes.append(trace.feeds[-1])
    return tuple(min(passes, key=lambda feed: feed.ms).operations)


def estimated_ms(
    step: Step,
    before_ms: float,
    multiply_adds: Mapping[str, float],
    n_bytes: Mapping[str, float],
    threads: int,
    limit_ms: float,
) -> float:
    """The estimated time of a step, from the time of the step before it and the machine's limit."""
    gains = {
        "multiply-adds": multiply_adds[step.before] / multiply_adds[step.name],
        "bytes": n_bytes[step.before] / n_bytes[step.name],
        "threads": float(threads),
        "kernels": step.gain,
        "none": 1.0,
    }
    return max(before_ms / gains[step.estimate], min(limit_ms, before_ms))
