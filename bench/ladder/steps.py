"""The ladder's rungs, from naive C to the fastest engine, one option each; what one run of a rung is; what
its outputs must prove; the bytes it moves and the estimate of what it should gain.

How it is measured is in bench/test_ladder.py, what is written of it in report.py and plots.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import gpt2c
from gpt2c.options import SWITCHES, WEIGHTS
from gpt2c.trace import Operation
from shared.greedy import Case, check_rows, prompt_of, require

# ---- Rungs ----

Estimate = Literal["multiply-adds", "bytes", "threads", "kernels", "none"]
"""What a step should save, by a calculation on a napkin: multiply-adds or bytes that are left out, threads
that share the work, kernels that do more at once (`gain`), or nothing."""


@dataclass(frozen=True)
class Rung:
    """A plan, and the step that leads to it from the rung named `before`.

    step: the option added, "" for the first; aside: a step to the side, on which none other is built; gain:
    what the kernels of this rung should gain, if that is the estimate.
    """

    name: str
    options: tuple[str, ...]
    isa: str
    step: str = ""
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
"""avx2 and neon against the unrolled kernels, in which compilers find four lanes and no fused multiply-add;
avx512 against avx2, whose registers are half as wide."""

PLAIN = ("ref", "unroll")


def ladder(isas: Sequence[str], formats: Sequence[str] = WEIGHTS) -> tuple[Rung, ...]:
    """For a machine with these instruction sets, from slow to fast, and these weight formats."""
    rungs = [Rung("none", (), "ref")]

    def add(step: str, estimate: Estimate, isa: str, **more: object) -> None:
        before = next(rung for rung in reversed(rungs) if not rung.aside)
        option = next(o for o in gpt2c.OPTIONS if o.name == step.partition("=")[0])
        replaced = {*option.replaces, *(formats if option.name in formats else ())}
        chosen = {*before.options, option.name} - replaced | {option.name}
        name = step if not more.get("aside") else f"{before.name}&{step}"
        options = tuple(o.name for o in gpt2c.OPTIONS if o.name in chosen)
        rungs.append(Rung(name, options, isa, step, before.name, estimate, **more))  # type: ignore[arg-type]

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
    return tuple(rungs)


# ---- One run ----


def generate(model: gpt2c.Model, case: Case) -> list[int]:
    """What is timed: greedy ids; the end-of-text token does not end it."""
    ids: list[int] = []
    feed = prompt_of(model, case)
    with model.session() as session:
        for _ in range(case.n_new):
            feed = [session.feed_greedy(feed)]
            ids += feed
    return ids


# ---- What the outputs must prove ----

TOLERANCES = {"gelu_table": 2.0**-10, "kv_f16": 2.0**-10, "bf16": 2.0**-6, "q8": 2.0**-5, "q4": 0.375}
"""How far an option that rounds may move a logit, as a share of the largest. No proof (the tests have those),
but a wrong kernel is further off."""

REORDERED = 2.0**-17
"""The same for instruction sets, which sum in another order."""


@dataclass(frozen=True)
class Proof:
    """same_bits_as: the rung whose logits a rung's have to the bit, "" if it is the first of its kind;
    difference: the largest of any logit from the first rung's, on one text; limit: what is let pass.
    """

    same_bits_as: str
    difference: float
    limit: float


def kind_of(rung: Rung) -> tuple[object, ...]:
    """Rungs of a kind have the same bits: the row contract."""
    rounding = tuple(name for name in rung.options if name in TOLERANCES)
    return ("plain" if rung.isa in PLAIN else rung.isa, rounding)


def tolerance(rung: Rung) -> float:
    return sum(TOLERANCES.get(name, 0.0) for name in rung.options) + REORDERED * (rung.isa not in PLAIN)


def verify(rungs: Sequence[Rung], folder: Path | None, case: Case) -> dict[str, Proof]:
    """Every rung on the first rung's text, token by token and at once. Raises Disagreement."""
    proofs: dict[str, Proof] = {}
    first_of: dict[tuple[object, ...], tuple[str, NDArray[np.float32]]] = {}
    with rungs[0].load(folder) as naive:
        text = [*prompt_of(naive, case), *generate(naive, case)]
        expected = naive.logits(text)
    largest = float(np.abs(expected).max())
    for rung in rungs:
        with rung.load(folder) as model:
            logits = step_by_step(model, text, case, rung)
            at_once = model.logits(text)[case.n_prompt - 1 :]
        require(np.array_equal(logits, at_once), f"{rung.name}: one by one and at once give other bits")
        same_as, same = first_of.setdefault(kind_of(rung), (rung.name, logits))
        require(np.array_equal(logits, same), f"{rung.name} has not the bits of {same_as}")
        difference = float(np.abs(logits - expected[case.n_prompt - 1 :]).max())
        limit = tolerance(rung) * largest
        require(difference <= limit, f"{rung.name} moved a logit by {difference:.3g}, more than {limit:.3g}")
        proofs[rung.name] = Proof(same_as if same_as != rung.name else "", difference, limit)
    return proofs


def step_by_step(model: gpt2c.Model, text: Sequence[int], case: Case, rung: Rung) -> NDArray[np.float32]:
    """Logits [n_new + 1, n_vocab] behind the prompt and each token after it; rows are checked as well."""
    with model.session() as session:
        found = [session.feed(text[: case.n_prompt])]
        found += [session.feed([token]) for token in text[case.n_prompt :]]
        check_rows(rung.options, session.rows, Case(case.n_new + 1, case.n_prompt))
    return np.array(found)


# ---- What a token takes ----


@dataclass(frozen=True)
class Token:
    """n_bytes: that a new token moves, the mean of a case; operations: of the pass in its middle."""

    n_bytes: float
    operations: tuple[Operation, ...]


def look_inside(model: gpt2c.Model, case: Case) -> Token:
    """From traces of the case's first, middle and last pass.

    Bytes of a pass grow linearly with its position (rows recomputed, K and V read), so Simpson's rule over
    the three has the mean of all between them; the prompt's pass is added where it is more than a token.
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
"""A pass that is shorter is done so often, and the quickest counts: the first finds nothing in the caches."""


def traced_pass(model: gpt2c.Model, ids: Sequence[int], n_past: int) -> tuple[Operation, ...]:
    """The pass over ids[n_past:], greedy, behind those before it."""
    with model.trace(n_best=0) as trace, model.session() as session:
        if n_past:
            session.feed(ids[:n_past])
        passes = []
        while len(passes) < PASSES and (not passes or passes[-1].ms < SHORT_MS):
            session.rewind(n_past)
            session.feed_greedy(ids[n_past:])
            passes.append(trace.feeds[-1])
    return tuple(min(passes, key=lambda feed: feed.ms).operations)


def estimated_ms(
    rung: Rung,
    before_ms: float,
    multiply_adds: Mapping[str, float],
    n_bytes: Mapping[str, float],
    threads: int,
    limit_ms: float,
) -> float:
    """By the napkin, from the rung before; nothing is faster than the machine's limit."""
    gains = {
        "multiply-adds": multiply_adds[rung.before] / multiply_adds[rung.name],
        "bytes": n_bytes[rung.before] / n_bytes[rung.name],
        "threads": float(threads),
        "kernels": rung.gain,
        "none": 1.0,
    }
    return max(before_ms / gains[rung.estimate], min(limit_ms, before_ms))
