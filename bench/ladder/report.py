"""The ladder's measurements as tables, a plot for the terminal, and a record for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gpt2c
from ladder.steps import Proof, Step, Token, estimated_ms
from shared.greedy import Case, multiply_adds
from shared.harness import Origin, Samples, Spread, bullets, cpu_share, markdown_table, on_cpu_share
from shared.machine_limits import Limits

Ids = list[int]

ONE_ROUND = 0.05
"""How far, in both directions, a second measurement may be from a single one."""


@dataclass(frozen=True)
class OnModel:
    """The ladder on one model. tokens: cost of a token by step; sizes: bytes of weights in memory by step."""

    name: str
    title: str
    folder: Path | None
    config: gpt2c.ModelConfig
    case: Case
    verified: Case
    plans: Mapping[str, gpt2c.Plan]
    proofs: Mapping[str, Proof]
    tokens: Mapping[str, Token]
    sizes: Mapping[str, int]
    samples: Mapping[str, Samples[Ids]]

    def ms(self, step: str) -> Spread:
        """Per new token: the time of a whole run, prompt included, divided by the number of new tokens."""
        return Spread.of(seconds * 1e3 / self.case.n_new for seconds in self.samples[step].seconds)

    def in_doubt(self, a: str, b: str) -> bool:
        """Whether their order may be chance."""
        return self._range(a).overlaps(self._range(b))

    def _range(self, step: str) -> Spread:
        found = self.ms(step)
        if len(self.samples[step].seconds) > 1:
            return found
        return Spread(found.median, found.median * (1 - ONE_ROUND), found.median * (1 + ONE_ROUND))

    def multiply_adds(self, step: str) -> float:
        return multiply_adds(self.config, self.plans[step].options, self.case)

    def working_set(self, step: str) -> float:
        """Bytes that are read again for the next token: the weights, or the part of them that is needed."""
        return min(self.sizes[step], self.tokens[step].n_bytes)


@dataclass(frozen=True)
class Ladder:
    """All measurements."""

    origin: Origin
    steps: tuple[Step, ...]
    limits: Limits
    on_models: tuple[OnModel, ...]

    def limit(self, on: OnModel, step: Step) -> tuple[float, str]:
        """The minimum ms per token on this machine, and what it is spent waiting for.

        The peak is that of float32. Other weights are multiplied faster, so only reading them counts.
        """
        plan = on.plans[step.name]
        operations = 2 * on.multiply_adds(step.name) if plan.weights == "f32" else 0.0
        n_bytes = on.tokens[step.name].n_bytes
        return self.limits.ms(n_bytes, operations, on.working_set(step.name), plan.threads)

    def estimate(self, on: OnModel, step: Step) -> float:
        """Estimated ms per token, from the step before."""
        names = [r.name for r in self.steps]
        return estimated_ms(
            step,
            on.ms(step.before).median,
            {name: on.multiply_adds(name) for name in names},
            {name: on.tokens[name].n_bytes for name in names},
            on.plans[step.name].threads,
            self.limit(on, step)[0],
        )

    def figures(self, on: OnModel, step: Step) -> dict[str, Any]:
        """All figures of a step for tables, plots and documents; None where they need a step before."""
        ms, (limit_ms, waits_for) = on.ms(step.name), self.limit(on, step)
        n_bytes, proof = on.tokens[step.name].n_bytes, on.proofs[step.name]
        first = step.before == ""
        before = None if first else on.ms(step.before)
        estimate = None if first else self.estimate(on, step)
        return {
            "name": step.name,
            "step": step.adds,
            "before": step.before,
            "aside": step.aside,
            "options": step.options,
            "plan": str(on.plans[step.name]),
            "isa": step.isa,
            "threads": on.plans[step.name].threads,
            "ms": asdict(ms),
            "rounds": len(on.samples[step.name].seconds),
            "gain": None if before is None else before.median / ms.median,
            "in_doubt": not first and on.in_doubt(step.name, step.before),
            "estimated_gain": None if before is None or estimate is None else before.median / estimate,
            "estimated_from": step.estimate,
            "ratio": on.ms("none").median / ms.median,
            "multiply_adds": on.multiply_adds(step.name),
            "n_bytes": n_bytes,
            "gb_per_s": n_bytes / ms.median / 1e6,
            "gflops": 2 * on.multiply_adds(step.name) / ms.median / 1e6,
            "limit_ms": limit_ms,
            "waits_for": waits_for,
            "share": limit_ms / ms.median,
            "proof": asdict(proof),
            "operations_ms": operations_ms(on.tokens[step.name]),
        }


def operations_ms(token: Token) -> dict[str, float]:
    """Milliseconds of the traced pass by operation, summed over layers."""
    spent: dict[str, float] = {}
    for op in token.operations:
        spent[op.name] = spent.get(op.name, 0.0) + (op.end_ns - op.begin_ns) / 1e6
    return spent


# ---- Tables ----

COLUMNS = (
    "step",
    "ms/token",
    "min..max",
    "threads",
    "isa",
    "estimated gain",
    "measured gain",
    "ratio to none",
    "MB/token",
    "GB/s",
    "share of limit",
    "waits for",
    "bits",
)


def table(done: Ladder, on: OnModel) -> str:
    rows = []
    for step in done.steps:
        f = done.figures(on, step)
        rows.append(
            [
                label(step),
                digits(f["ms"]["median"]),
                f"{digits(f['ms']['min'])}..{digits(f['ms']['max'])}",
                str(f["threads"]),
                f["isa"],
                "" if f["gain"] is None else f"{f['estimated_gain']:.2f}x",
                "" if f["gain"] is None else f"{'~' * f['in_doubt']}{f['gain']:.2f}x",
                f"{f['ratio']:.1f}x",
                f"{f['n_bytes'] / 1e6:.1f}",
                f"{f['gb_per_s']:.1f}",
                f"{f['share']:.0%}",
                f["waits_for"],
                bits(f),
            ]
        )
    return markdown_table(COLUMNS, rows)


def label(step: Step) -> str:
    return "none" if not step.adds else f"({step.adds})" if step.aside else f"+{step.adds}"


def bits(figures: Mapping[str, Any]) -> str:
    proof = figures["proof"]
    if proof["same_bits_as"]:
        return f"as {proof['same_bits_as']}"
    return "reference" if not proof["difference"] else f"within {proof['difference']:.1e}"


def digits(ms: float) -> str:
    """At least three significant digits."""
    decimals = 0 if ms >= 1000 else 1 if ms >= 100 else 2 if ms >= 1 else 3
    return f"{ms:.{decimals}f}"


# ---- A plot of characters ----

PLOT_WIDTH = 50


def text_plot(done: Ladder, on: OnModel) -> str:
    """Bars of ms/token on a logarithmic scale; | marks the machine's limit for the step's work."""
    figures = [done.figures(on, step) for step in done.steps]
    low = math.log(min(min(f["limit_ms"], f["ms"]["median"]) for f in figures)) - 0.1
    high = math.log(max(f["ms"]["median"] for f in figures))

    def place(ms: float) -> int:
        return round((math.log(ms) - low) / (high - low) * PLOT_WIDTH)

    lines = []
    for step, f in zip(done.steps, figures, strict=True):
        bar = ["#"] * place(f["ms"]["median"]) + [" "] * (PLOT_WIDTH - place(f["ms"]["median"]))
        bar[min(PLOT_WIDTH - 1, place(f["limit_ms"]))] = "|"
        lines.append(f"{label(step):>18} {''.join(bar)} {digits(f['ms']['median'])}")
    return "\n".join(lines)


# ---- Whole documents ----


def setting(done: Ladder) -> Iterator[str]:
    yield from done.origin.lines()
    yield (
        "Each step adds one option to the step above it. A step in brackets is measured, but the next step "
        "does not include it. Greedy, from end-of-text tokens. ms/token is the time of a whole run, prompt "
        "included, divided by its new tokens: median, minimum and maximum of interleaved rounds, fewer "
        "rounds for slow steps."
    )
    yield (
        "Estimated gain: from the multiply-adds or bytes that the step avoids, the threads that share the "
        "work, or what its kernels compute at once, limited by what the machine allows. Measured gain: ~ "
        f"means that the ranges of the two steps overlap (with one round, {ONE_ROUND:.0%} in both "
        "directions)."
    )
    yield (
        "MB/token: weights, K and V, inputs and results of all operations, each counted once, from traces "
        "of the C core; weights in a cache count, too. The limit is the longer of two times: reading those "
        "bytes as fast as this machine reads that many bytes repeatedly, and, where weights are float32, "
        "doing the "
        "multiply-adds at its peak. Measured: " + "; ".join(limits_text(done.limits)) + "."
    )
    yield on_cpu_share([samples for on in done.on_models for samples in on.samples.values()])


def limits_text(limits: Limits) -> Iterator[str]:
    for (megabytes, threads), rate in limits.bandwidth.items():
        yield f"{megabytes} MB, {threads} thread{'s' * (threads > 1)}: {rate / 1e9:.0f} GB/s"
    for threads, rate in limits.peak.items():
        yield f"{threads} thread{'s' * (threads > 1)}: {rate / 1e9:.0f} GFLOP/s"


def proof(on: OnModel) -> str:
    return (
        f"Verified first, on {on.verified} of the first step's text: every step gives the same logits, bit "
        "for bit, token by token and in one pass; steps of one instruction set that do not round have the "
        "same bits; the logits of all others are within their limit of the first step's. Each switch that is "
        "on computed one row per token, and each switch that is off all rows."
    )


def as_markdown(done: Ladder, pictures: Mapping[str, str]) -> str:
    """pictures: files by title."""
    parts = ["# The ladder: from naive C to the fastest engine, one option per step", bullets(setting(done))]
    for on in done.on_models:
        parts += [f"## {on.title}", table(done, on), bullets([proof(on)])]
        parts += ["```\n" + text_plot(done, on) + "\n```"]
    parts += [f"![{title}]({file})" for title, file in pictures.items()]
    return "\n\n".join(parts) + "\n"


def as_record(done: Ladder) -> dict[str, Any]:
    """For JSON: the figures and the measurements."""
    samples = [s for on in done.on_models for s in on.samples.values()]
    return {
        "benchmark": "ladder",
        **vars(done.origin),
        "cpu_share": cpu_share(samples),
        "limits": {
            "bandwidth": [
                {"megabytes": n, "threads": threads, "bytes_per_s": rate}
                for (n, threads), rate in done.limits.bandwidth.items()
            ],
            "peak": [{"threads": n, "operations_per_s": rate} for n, rate in done.limits.peak.items()],
        },
        "models": {on.name: model_record(done, on) for on in done.on_models},
    }


def model_record(done: Ladder, on: OnModel) -> dict[str, Any]:
    fastest = min(done.steps, key=lambda step: on.ms(step.name).median)
    return {
        "title": on.title,
        "config": on.config,
        "case": on.case,
        "fastest": fastest.name,
        "rungs": [{**done.figures(on, r), "seconds": on.samples[r.name].seconds} for r in done.steps],
        "token": [op._asdict() for op in on.tokens[fastest.name].operations],
    }
