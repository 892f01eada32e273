"""The ladder's measurements as tables, a plot for the terminal, and a record for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gpt2c
from ladder.steps import Proof, Rung, Token, estimated_ms
from shared.greedy import Case, multiply_adds
from shared.harness import Origin, Samples, Spread, bullets, cpu_share, markdown_table, on_cpu_share
from shared.machine_limits import Limits

Ids = list[int]

ONE_ROUND = 0.05
"""How far to either side of a single measurement another might have been."""


@dataclass(frozen=True)
class Climbed:
    """The ladder on one model. tokens: what each rung's trace says; sizes: bytes of weights in memory."""

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

    def ms(self, rung: str) -> Spread:
        """Per new token: a whole run, the prompt's pass included, by the number of new tokens."""
        return Spread.of(seconds * 1e3 / self.case.n_new for seconds in self.samples[rung].seconds)

    def in_doubt(self, a: str, b: str) -> bool:
        """Whether their order may be chance."""
        return self._range(a).overlaps(self._range(b))

    def _range(self, rung: str) -> Spread:
        found = self.ms(rung)
        if len(self.samples[rung].seconds) > 1:
            return found
        return Spread(found.median, found.median * (1 - ONE_ROUND), found.median * (1 + ONE_ROUND))

    def multiply_adds(self, rung: str) -> float:
        return multiply_adds(self.config, self.plans[rung].options, self.case)

    def working_set(self, rung: str) -> float:
        """Bytes that are read again for the next token: the weights, or what is needed of them."""
        return min(self.sizes[rung], self.tokens[rung].n_bytes)


@dataclass(frozen=True)
class Ladder:
    """Everything that was measured."""

    origin: Origin
    rungs: tuple[Rung, ...]
    limits: Limits
    climbed: tuple[Climbed, ...]

    def limit(self, on: Climbed, rung: Rung) -> tuple[float, str]:
        """The least ms a token, and what it waits for then.

        The peak is that of float32: weights in another format are multiplied faster, and only read here.
        """
        plan = on.plans[rung.name]
        operations = 2 * on.multiply_adds(rung.name) if plan.weights == "f32" else 0.0
        n_bytes = on.tokens[rung.name].n_bytes
        return self.limits.ms(n_bytes, operations, on.working_set(rung.name), plan.threads)

    def estimate(self, on: Climbed, rung: Rung) -> float:
        """ms a token, from the rung before."""
        names = [r.name for r in self.rungs]
        return estimated_ms(
            rung,
            on.ms(rung.before).median,
            {name: on.multiply_adds(name) for name in names},
            {name: on.tokens[name].n_bytes for name in names},
            on.plans[rung.name].threads,
            self.limit(on, rung)[0],
        )

    def figures(self, on: Climbed, rung: Rung) -> dict[str, Any]:
        """All that a table, a plot or a document says of a rung; None where it has no rung before."""
        ms, (limit_ms, waits_for) = on.ms(rung.name), self.limit(on, rung)
        n_bytes, proof = on.tokens[rung.name].n_bytes, on.proofs[rung.name]
        first = rung.before == ""
        before = None if first else on.ms(rung.before)
        estimate = None if first else self.estimate(on, rung)
        return {
            "name": rung.name,
            "step": rung.step,
            "before": rung.before,
            "aside": rung.aside,
            "options": rung.options,
            "plan": str(on.plans[rung.name]),
            "isa": rung.isa,
            "threads": on.plans[rung.name].threads,
            "ms": asdict(ms),
            "rounds": len(on.samples[rung.name].seconds),
            "gain": None if before is None else before.median / ms.median,
            "in_doubt": not first and on.in_doubt(rung.name, rung.before),
            "estimated_gain": None if before is None or estimate is None else before.median / estimate,
            "estimated_from": rung.estimate,
            "ratio": on.ms("none").median / ms.median,
            "multiply_adds": on.multiply_adds(rung.name),
            "n_bytes": n_bytes,
            "gb_per_s": n_bytes / ms.median / 1e6,
            "gflops": 2 * on.multiply_adds(rung.name) / ms.median / 1e6,
            "limit_ms": limit_ms,
            "waits_for": waits_for,
            "share": limit_ms / ms.median,
            "proof": asdict(proof),
            "operations_ms": operations_ms(on.tokens[rung.name]),
        }


def operations_ms(token: Token) -> dict[str, float]:
    """Milliseconds of the traced pass by operation, all layers together."""
    spent: dict[str, float] = {}
    for op in token.operations:
        spent[op.name] = spent.get(op.name, 0.0) + (op.end_ns - op.begin_ns) / 1e6
    return spent


# ---- Tables ----

COLUMNS = (
    "rung",
    "ms/token",
    "min..max",
    "threads",
    "isa",
    "step: napkin",
    "was",
    "ratio to none",
    "MB/token",
    "GB/s",
    "share of limit",
    "waits for",
    "bits",
)


def table(done: Ladder, on: Climbed) -> str:
    rows = []
    for rung in done.rungs:
        f = done.figures(on, rung)
        rows.append(
            [
                label(rung),
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


def label(rung: Rung) -> str:
    return "none" if not rung.step else f"({rung.step})" if rung.aside else f"+{rung.step}"


def bits(figures: Mapping[str, Any]) -> str:
    proof = figures["proof"]
    if proof["same_bits_as"]:
        return f"as {proof['same_bits_as']}"
    return "the first" if not proof["difference"] else f"within {proof['difference']:.1e}"


def digits(ms: float) -> str:
    """Three significant ones at least."""
    decimals = 0 if ms >= 1000 else 1 if ms >= 100 else 2 if ms >= 1 else 3
    return f"{ms:.{decimals}f}"


# ---- A plot of characters ----

PLOT_WIDTH = 50


def text_plot(done: Ladder, on: Climbed) -> str:
    """Bars of ms/token on a logarithmic scale; | is the machine's limit for the rung's work."""
    figures = [done.figures(on, rung) for rung in done.rungs]
    least = math.log(min(min(f["limit_ms"], f["ms"]["median"]) for f in figures)) - 0.1
    most = math.log(max(f["ms"]["median"] for f in figures))

    def place(ms: float) -> int:
        return round((math.log(ms) - least) / (most - least) * PLOT_WIDTH)

    lines = []
    for rung, f in zip(done.rungs, figures, strict=True):
        bar = ["#"] * place(f["ms"]["median"]) + [" "] * (PLOT_WIDTH - place(f["ms"]["median"]))
        bar[min(PLOT_WIDTH - 1, place(f["limit_ms"]))] = "|"
        lines.append(f"{label(rung):>18} {''.join(bar)} {digits(f['ms']['median'])}")
    return "\n".join(lines)


# ---- Whole documents ----


def setting(done: Ladder) -> Iterator[str]:
    yield from done.origin.lines()
    yield (
        "Each rung adds one option to the rung above it; one in brackets is a step to the side, on which "
        "none is built. Greedy, from end-of-text tokens. ms/token is a whole run by its new tokens, the "
        "prompt's pass included: median, least and most of interleaved rounds, fewer where they take long."
    )
    yield (
        "napkin: what the step should gain by the multiply-adds or bytes that it leaves out, the threads "
        "that share the work, or what its kernels do at once, but no more than the machine allows; was: what "
        f"it gained, ~ where the two rungs' ranges overlap (of one round: {ONE_ROUND:.0%} to either side)."
    )
    yield (
        "MB/token: weights, K and V, inputs and results of all operations, each counted once, from traces of "
        "the C core; weights that lie in a cache count too. The limit is the longer of reading those bytes "
        "as fast as this machine reads that much again and again, and of multiplying and adding at its peak "
        "where weights are float32: " + "; ".join(limits_text(done.limits)) + "."
    )
    yield on_cpu_share([samples for on in done.climbed for samples in on.samples.values()])


def limits_text(limits: Limits) -> Iterator[str]:
    for (megabytes, threads), rate in limits.bandwidth.items():
        yield f"{megabytes} MB by {threads} thread{'s' * (threads > 1)} {rate / 1e9:.0f} GB/s"
    for threads, rate in limits.peak.items():
        yield f"{rate / 1e9:.0f} GFLOP/s of {threads}"


def proof(on: Climbed) -> str:
    return (
        f"Verified first, on {on.verified} of the first rung's text: "
        "every rung gives the same logits token by token as at once, to the bit; rungs of one instruction "
        "set that do not round have the same bits; the others are within their limit of the first rung's "
        "logits. Each switch that is on computed one row for a token, each that is off all of them."
    )


def as_markdown(done: Ladder, pictures: Mapping[str, str]) -> str:
    """pictures: files by title."""
    parts = ["# The ladder: from naive C to the fastest engine, one option a rung", bullets(setting(done))]
    for on in done.climbed:
        parts += [f"## {on.title}", table(done, on), bullets([proof(on)])]
        parts += ["```\n" + text_plot(done, on) + "\n```"]
    parts += [f"![{title}]({file})" for title, file in pictures.items()]
    return "\n\n".join(parts) + "\n"


def as_record(done: Ladder) -> dict[str, Any]:
    """For JSON: the figures, and what was measured."""
    samples = [s for on in done.climbed for s in on.samples.values()]
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
        "models": {on.name: model_record(done, on) for on in done.climbed},
    }


def model_record(done: Ladder, on: Climbed) -> dict[str, Any]:
    fastest = min(done.rungs, key=lambda rung: on.ms(rung.name).median)
    return {
        "title": on.title,
        "config": on.config,
        "case": on.case,
        "fastest": fastest.name,
        "rungs": [{**done.figures(on, r), "seconds": on.samples[r.name].seconds} for r in done.rungs],
        "token": [op._asdict() for op in on.tokens[fastest.name].operations],
    }
