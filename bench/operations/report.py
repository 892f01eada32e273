"""The kernels' measurements as tables with remarks, in Markdown and as a record for JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from operations.cases import LIMITS, WEIGHT_BYTES, Case, Limits, cold_bytes, counted
from shared.harness import Origin, Samples, Spread, bullets, cpu_share, markdown_table, on_cpu_share

Key = tuple[Case, str]
"""A case and an instruction set; "" for a limit."""

NEAR = 0.8
"""From this share of the limit on, two kernels wait for the same resource."""

TOLERANCE = 0.05
"""How far a kernel may be measured above its limit without a remark."""

READING, WARM, ARITHMETIC = "memory", "cache", "arithmetic"


@dataclass(frozen=True)
class Timed:
    """The measurements of a case. loops: how often each sample repeats the work."""

    loops: int
    samples: Samples[None]

    @property
    def seconds(self) -> tuple[float, ...]:
        return tuple(seconds / self.loops for seconds in self.samples.seconds)

    @property
    def spread(self) -> Spread:
        return Spread.of(self.seconds)


@dataclass(frozen=True)
class Measured:
    """All measurements. isas: from slow to fast, as registered."""

    origin: Origin
    limits: Limits
    isas: list[str]
    timed: Mapping[Key, Timed]

    @property
    def cases(self) -> list[Case]:
        """The cases of kernels, without the limits."""
        return list(dict.fromkeys(case for case, isa in self.timed if isa))

    def spread(self, case: Case, isa: str) -> Spread:
        return self.timed[case, isa].spread

    def seconds(self, case: Case, isa: str) -> float:
        return self.spread(case, isa).median

    def fastest(self, case: Case) -> str:
        return min(self.isas, key=lambda isa: self.seconds(case, isa))

    def in_doubt(self, case: Case, a: str, b: str) -> bool:
        """Whether their order may be chance."""
        few = min(len(self.timed[case, isa].seconds) for isa in (a, b)) == 1
        return few or self.spread(case, a).overlaps(self.spread(case, b))

    # ---- Limits ----

    def read_rate(self, limit: Case) -> float:
        """Bytes per second."""
        return limit.n_bytes / self.seconds(limit, "")

    def bandwidth(self, case: Case) -> float:
        """Bytes per second that this machine reads from where the case's operands are."""
        if case.cold:
            return max(map(self.read_rate, self.limits.cold))
        return self.read_rate(self.limits.warm[case.n_bytes])

    def peak_of(self, limit: Case) -> float:
        """Operations per second in the best round: an interruption is not a limit of the machine."""
        return limit.operations / self.spread(limit, "").min

    def peak(self, case: Case) -> float:
        return self.peak_of(self.limits.bf16 if case.bf16 and self.limits.bf16 else self.limits.multiply_add)

    def bound(self, case: Case) -> str:
        """What a perfect kernel would wait for on this machine."""
        reading, computing = case.n_bytes / self.bandwidth(case), case.operations / self.peak(case)
        return ARITHMETIC if computing > reading else READING if case.cold else WARM

    def rates(self, case: Case, seconds: float) -> tuple[float, float, str]:
        """The rate reached, the limit and their unit, for the resource that the case waits for."""
        if self.bound(case) == ARITHMETIC:
            return case.operations / seconds / 1e9, self.peak(case) / 1e9, "GFLOP/s"
        return case.n_bytes / seconds / 1e9, self.bandwidth(case) / 1e9, "GB/s"

    def share(self, case: Case, isa: str) -> float:
        rate, limit, _ = self.rates(case, self.seconds(case, isa))
        return rate / limit


# ---- Tables ----


def digits(value: float) -> str:
    """Three significant digits, or all digits of the integer part."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def microseconds(spread: Spread) -> list[str]:
    return [digits(spread.median * 1e6), f"{digits(spread.min * 1e6)}..{digits(spread.max * 1e6)}"]


def limits_table(done: Measured) -> str:
    rows = []
    for limit in done.limits.all():
        rate = ""
        if limit.n_bytes:
            rate = f"{digits(done.read_rate(limit) / 1e9)} GB/s"
        elif limit.operations:
            rate = f"{digits(done.peak_of(limit) / 1e9)} GFLOP/s"
        rows.append([limit.name, *microseconds(done.spread(limit, "")), rate])
    return markdown_table(["limit", "us", "min..max", "rate"], rows)


def overview_table(done: Measured) -> str:
    rows = [
        [str(case), done.bound(case), *(f"{done.share(case, isa):.0%}" for isa in done.isas)]
        for case in done.cases
    ]
    return markdown_table(["kernel", "waits for", *done.isas], rows, left=2)


def detail_table(done: Measured, cases: Iterable[Case]) -> str:
    rows = []
    for case in cases:
        for isa in done.isas:
            rate, limit, unit = done.rates(case, done.seconds(case, isa))
            times = microseconds(done.spread(case, isa))
            rows.append(
                [
                    case.name,
                    isa,
                    *times,
                    f"{digits(rate)} {unit}",
                    digits(limit),
                    f"{done.share(case, isa):.0%}",
                ]
            )
    return markdown_table(["kernel", "set", "us", "min..max", "rate", "limit", "share"], rows, left=2)


def by_table(cases: Iterable[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.table, []).append(case)
    return found


# ---- The setting ----


def setting(done: Measured) -> Iterator[str]:
    yield from done.origin.lines()
    rounds = [len(timed.seconds) for timed in done.timed.values()]
    yield (
        "One thread. Kernels are called in loops from C, on operands laid out as in a session. First each "
        "kernel was checked against its error bound and the bits of gpt2c.kernels. Then all kernels and "
        f"limits were measured alternately, in {min(rounds)} to {counted(max(rounds), 'round')}, fewer for "
        "slow ones. The tables give median, minimum and maximum of one operation."
    )
    if min(rounds) < 3:
        yield "With so few rounds the spread of slow kernels is not known: small differences mean nothing."
    yield (
        "**Limit**: what the machine reached in the same rounds. For reading, this is the median, since what "
        "slows memory down slows a kernel down, too. For multiply-adds (two operations each, in the widest "
        "registers) it is the best round, since they do not wait for anything else. **Share**: the time that "
        "this machine needs to read the kernel's bytes or to do its arithmetic, whichever is longer, divided "
        "by the kernel's median time. Bytes are the minimum that must be read and written. Writing counts "
        "like reading, although it is slower."
    )
    if done.limits.bf16:
        yield (
            "The arithmetic limit of linear bf16 is that of dot products of bfloat16 pairs. An instruction "
            "set reaches it only if it rounds x, too."
        )
    yield (
        "Linear layers read their weights, and attention of one row its K and V, from copies that alternate "
        f"and take {cold_bytes() / 1e6:.0f} MB or more together, so from memory. All other operands are in "
        "the caches as far as they fit."
    )
    yield on_cpu_share(timed.samples for timed in done.timed.values())


# ---- Remarks: they follow from the measurements, nothing is written in advance ----


def span(values: Iterable[float]) -> str:
    found = sorted(values)
    low, high = f"{found[0]:.0%}", f"{found[-1]:.0%}"
    return low if low == high else f"{low} to {high}"


def on_bound(done: Measured, bound: str) -> str:
    """How close the fastest set comes to this bound, for the cases that have it."""
    parts = []
    for table, cases in by_table(case for case in done.cases if done.bound(case) == bound).items():
        names = " or ".join(isa for isa in done.isas if isa in {done.fastest(case) for case in cases})
        parts.append(f"{table} {span(done.share(case, done.fastest(case)) for case in cases)} ({names})")
    return f"**Waiting for {bound}**, the fastest set reaches of the limit: {'; '.join(parts) or 'none'}."


def on_rows(done: Measured) -> str:
    """From how many rows on a linear layer's arithmetic takes longer than reading its weights."""
    limits = done.limits
    rate = max(map(done.read_rate, limits.cold))
    peaks = {"f32": limits.multiply_add, "bf16": limits.bf16 or limits.multiply_add}
    rows = [
        f"{done.peak_of(peaks[form]) * n_bytes / rate / 2:.0f} rows of {form}"
        for form, n_bytes in WEIGHT_BYTES.items()
    ]
    return (
        "**From memory to arithmetic**: by the limits alone, a linear layer's arithmetic takes as long as "
        f"reading its weights at about {' and '.join(rows)}. With fewer rows, a perfect kernel takes no "
        "longer than for one."
    )


def on_reading(done: Measured) -> str:
    slowest, *_, fastest = sorted(done.limits.cold, key=done.read_rate)
    gain = done.read_rate(fastest) / done.read_rate(slowest)
    doubt = " (within the spread)" * done.spread(slowest, "").overlaps(done.spread(fastest, ""))
    return (
        f"**The way memory is read** makes a difference of up to {gain:.2f}x{doubt}: the slowest was "
        f'"{slowest.name}", the fastest "{fastest.name}". The fastest is the limit used here. The operands '
        "of kernels are in the pages that malloc returns."
    )


def on_formats(done: Measured) -> str:
    """Times of f32 divided by times of bf16: the median over all matrices, for 1 row and for 256."""
    named = {case.name: case for case in done.cases if case.table == "linear f32"}
    halves = [case for case in done.cases if case.table == "linear bf16" and case.name in named]
    parts = []
    for rows in (", 1 row", ", 256 rows"):
        chosen = [case for case in halves if case.name.endswith(rows)]
        gains = []
        for isa in done.isas:
            ratios = [done.seconds(named[case.name], isa) / done.seconds(case, isa) for case in chosen]
            gains.append(f"{isa} {statistics.median(ratios):.2f}x")
        parts.append(f"{rows.removeprefix(', ')}: {', '.join(gains)}")
    return (
        f"**Speed of bf16 relative to f32** ({'; '.join(parts)}). Half the bytes can give 2x where memory is "
        "the limit. Where it is not, widening each weight costs time, unless bfloat16 pairs are multiplied "
        "directly."
    )


def on_order(done: Measured) -> str:
    """Cases in which a set is not faster than the set registered before it."""
    chance, near = 0, 0
    lost = []
    for case in done.cases:
        for before, after in pairwise(done.isas):
            ratio = done.seconds(case, after) / done.seconds(case, before)
            if ratio < 1:
                continue
            if done.in_doubt(case, before, after):
                chance += 1
            elif min(done.share(case, before), done.share(case, after)) >= NEAR:
                near += 1
            else:
                lost.append(f"{case}: {after} takes {ratio:.2f}x the time of {before}")
    found, pairs = chance + near + len(lost), len(done.cases) * (len(done.isas) - 1)
    return (
        f"**A set is not faster than the set before it** in {found} of {pairs} pairs. {chance} of them are "
        f"within the spread, including sets that inherit a kernel. In {near}, both sets reach {NEAR:.0%} of "
        f"the limit or more. All others: {'; '.join(lost) or 'none'}."
    )


def on_table(done: Measured) -> str:
    formula, table = by_table(done.cases)["gelu"]
    ratios = [f"{isa} {done.seconds(formula, isa) / done.seconds(table, isa):.2f}x" for isa in done.isas]
    return (
        f"**Speed of GELU by table relative to the formula**: {', '.join(ratios)}. A vector evaluates many "
        "formulas at once, but table entries are loaded one by one."
    )


def on_call(done: Measured) -> str:
    call = done.seconds(done.limits.call, "")
    return (
        f"**A call of gpt2c.kernels** adds {digits(call * 1e6)} us to its kernel: it converts and checks "
        "arguments, allocates a result and looks up the instruction set. Sessions call kernels directly, and "
        "no other figure here includes it."
    )


def on_excess(done: Measured) -> str:
    shares = {(case, isa): done.share(case, isa) for case in done.cases for isa in done.isas}
    above = [key for key, share in shares.items() if share > 1 + TOLERANCE]
    if not above:
        return "**Above the limit**: none."
    case, isa = highest = max(above, key=lambda key: shares[key])
    return (
        f"**Above the limit** by more than {TOLERANCE:.0%}: {len(above)} of {len(shares)} figures, at most "
        f"{shares[highest]:.0%} ({case}, {isa}). In these cases the operands were partly still in a cache, "
        "or the machine was slower while the limit was measured."
    )


def remarks(done: Measured) -> Iterator[str]:
    for bound in (READING, ARITHMETIC, WARM):
        yield on_bound(done, bound)
    yield from (
        say(done) for say in (on_rows, on_reading, on_formats, on_order, on_table, on_call, on_excess)
    )


# ---- Whole documents ----


def as_markdown(done: Measured) -> str:
    parts = [
        "# Kernels: each operation of each instruction set, compared with the machine's limits",
        bullets(setting(done)),
        "## The limits",
        limits_table(done),
        "## Share of the limit",
        overview_table(done),
        "## Reading the tables",
        bullets(remarks(done)),
    ]
    for table, cases in by_table(done.cases).items():
        parts += [f"## {table[0].upper()}{table[1:]}", detail_table(done, cases)]
    return "\n\n".join(parts) + "\n"


def as_record(done: Measured) -> dict[str, Any]:
    """For JSON: what was measured, and what the tables derive from it."""
    return {
        "benchmark": "kernels",
        **vars(done.origin),
        "cpu_share": cpu_share(timed.samples for timed in done.timed.values()),
        "cold_bytes": cold_bytes(),
        "isas": done.isas,
        "limits": [row_record(done, (limit, "")) for limit in done.limits.all()],
        "rows": [row_record(done, key) for key in done.timed if key[0].table != LIMITS],
    }


def row_record(done: Measured, key: Key) -> dict[str, Any]:
    case, isa = key
    timed = done.timed[key]
    record: dict[str, Any] = {
        "operation": case.table,
        "case": case.name,
        "bytes": case.n_bytes,
        "operations": case.operations,
        "seconds": asdict(timed.spread),
        "loops": timed.loops,
        "rounds": timed.seconds,
        "cpu_seconds": timed.samples.cpu_seconds,
    }
    if isa:
        rate, limit, unit = done.rates(case, timed.spread.median)
        record |= {"isa": isa, "bound": done.bound(case), "rate": rate, "limit": limit, "unit": unit}
        record |= {"share": rate / limit}
    return record
