"""The ablation's measurements as two tables with remarks, in Markdown and as a record for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import gpt2c
from ablation.rows import (
    EIGHT_ROWS,
    FIVE_ROWS,
    STEPS,
    TABLE,
    Agreement,
    Outcome,
    gelus,
    row,
)
from shared.greedy import Case, Row, head_multiply_adds, multiply_adds, name_of
from shared.harness import Origin, Samples, Spread, bullets, cpu_share, markdown_table, on_cpu_share

NAIVE_GELU = row("kv", "linear", "residual")
STEP_ROWS = dict(zip(STEPS, pairwise(EIGHT_ROWS), strict=True))
"""For each step of the cumulative table: the row before it and the row with it."""


@dataclass(frozen=True)
class Ablation:
    """All measurements. plans: what each row's options resolved to."""

    origin: Origin
    config: gpt2c.ModelConfig
    case: Case
    plans: Mapping[Row, gpt2c.Plan]
    samples: Mapping[Row, Samples[Outcome]]
    agreement: Agreement

    @property
    def rounds(self) -> int:
        return len(self.samples[row()].seconds)

    def ms(self, options: Row) -> Spread:
        """Per new token: the time of a whole run, prompt included, divided by the number of new tokens."""
        return Spread.of(seconds * 1e3 / self.case.n_new for seconds in self.samples[options].seconds)

    def saved(self, before: Row, after: Row) -> float:
        """Milliseconds per token."""
        return self.ms(before).median - self.ms(after).median

    def ratio(self, options: Row) -> float:
        return self.ms(row()).median / self.ms(options).median

    def multiply_adds(self, options: Row) -> float:
        return multiply_adds(self.config, options, self.case)

    def speed(self, options: Row) -> float:
        """Billions of multiply-adds per second."""
        return self.multiply_adds(options) / self.ms(options).median / 1e6

    def head_share(self, options: Row) -> float:
        return head_multiply_adds(self.config, options, self.case) / self.multiply_adds(options)

    def in_doubt(self, a: Row, b: Row) -> bool:
        """Whether their order may be chance: the rows' ranges overlap, or one round gives no range."""
        return self.rounds == 1 or self.ms(a).overlaps(self.ms(b))


# ---- Tables ----

COLUMNS = ("ms/token", "min..max", "ratio to {}", "M mul-adds/token", "G mul-adds/s")


def cells(done: Ablation, options: Row) -> list[str]:
    ms = done.ms(options)
    return [
        f"{ms.median:.2f}",
        f"{ms.min:.2f}..{ms.max:.2f}",
        f"{done.ratio(options):.2f}x",
        f"{done.multiply_adds(options) / 1e6:.1f}",
        f"{done.speed(options):.2f}",
    ]


def five_table(done: Ablation) -> str:
    return markdown_table(["options", *COLUMNS], [[name_of(o), *cells(done, o)] for o in FIVE_ROWS])


def eight_table(done: Ablation) -> str:
    rows = [["{}", *cells(done, row()), ""]]
    for step, (before, after) in STEP_ROWS.items():
        rows.append([f"+{step}", *cells(done, after), change(done, before, after)])
    return markdown_table(["options so far", *COLUMNS, "step, ms"], rows)


def change(done: Ablation, before: Row, after: Row) -> str:
    return f"{'~' if done.in_doubt(before, after) else ''}{-done.saved(before, after):+.2f}"


# ---- The setting, and the check of the outputs ----


def setting(done: Ablation) -> Iterator[str]:
    case, plan = done.case, done.plans[row()]
    yield from done.origin.lines()
    yield (
        f"Embedded model, {done.config.n_parameters / 1e6:.1f} M parameters; {case.n_prompt} prompt token + "
        f"{case.n_new} new ones, greedy; instruction set {plan.isa}, threads {plan.threads}, weights "
        f"{plan.weights}."
    )
    yield (
        f"{done.rounds} round{'s' * (done.rounds > 1)} of each row, interleaved: every row once, then every "
        "row again. The tables give median, minimum and maximum. ms/token is the time of a whole run, prompt "
        "included, divided by its new tokens."
    )
    if done.rounds < 3:
        yield "With so few rounds the spread is not known: small steps mean nothing."
    yield on_cpu_share(done.samples.values())


def proof(done: Ablation) -> Iterator[str]:
    a = done.agreement
    yield (
        f"All rows without {TABLE} gave the same {done.case.n_new} ids and the same final logits, bit for "
        "bit, in every round. All rows with it agree with one another in the same way. In the last pass each "
        f"switch computed 1 row where it is on, and all {done.case.last_n} rows where it is off."
    )
    text = "the greedy texts are the same"
    if a.parts_at is not None:
        text = (
            f"the greedy texts differ from new token {a.parts_at} on, where the two best logits are "
            f"{a.margin:.2g} apart"
        )
    yield (
        "Table and formula, both fed the formula's text: the logits differ by at most "
        f"{a.difference:.2g} (limit {a.limit:.2g}; the largest logit is {a.largest_logit:.3g}); {text}."
    )


# ---- Remarks: they follow from the measurements, nothing is written in advance ----


def on_head(done: Ablation) -> str:
    before, after = STEP_ROWS["unembed"]
    return (
        f"**+unembed is {done.ms(before).median / done.ms(after).median:.1f}x faster.** The head computes "
        f"{done.config.n_vocab} logits per row. That is {done.head_share(row()):.0%} of the arithmetic of "
        f"{{}}, and {done.head_share(before):.0%} once everything else is incremental. Each of the five rows "
        "computes the head for every position, so by its multiply-adds no row can be faster than "
        f"{done.multiply_adds(row()) / done.multiply_adds(FIVE_ROWS[-1]):.1f}x."
    )


def on_small_steps(done: Ablation) -> str:
    old_rows = sum(n_past for n_past, _ in done.case.passes()) / done.case.n_new
    elements = old_rows * done.config.n_embd * (2 * done.config.n_layer + 1)
    steps = " and ".join(
        f"+{name} ({change(done, *STEP_ROWS[name])} ms)" for name in ("residual", "layernorm")
    )
    return (
        f"**{steps} have little to gain**: {elements / 1e6:.2f} M additions and as many elements to "
        f"normalize, against {done.multiply_adds(STEP_ROWS['residual'][0]) / 1e6:.0f} M multiply-adds. But "
        "with all six switches on, only K and V have to be stored between passes."
    )


def on_gelu(done: Ablation) -> str:
    after = row(*NAIVE_GELU, "gelu")
    avoided = gelus(done.config, NAIVE_GELU, done.case) - gelus(done.config, after, done.case)
    saved = done.saved(NAIVE_GELU, after)
    return (
        f"**gelu added to {name_of(NAIVE_GELU)}** avoids {avoided / 1e6:.2f} M GELUs per token, each an "
        f"exponential and a division in scalar code. That {'saves' if saved > 0 else 'costs'} "
        f"{abs(saved):.2f} ms{doubt(done, NAIVE_GELU, after)}, or {abs(saved) * 1e6 / avoided:.1f} ns each, "
        "which is visible only once linear layers take less time."
    )


def on_table(done: Ablation) -> str:
    with_table = row(*NAIVE_GELU, TABLE)
    n = gelus(done.config, NAIVE_GELU, done.case)
    saved = done.saved(NAIVE_GELU, with_table)
    return (
        f"**The table {'saves' if saved > 0 else 'costs'}** {abs(saved) * 1e6 / n:.1f} ns per "
        f"GELU{doubt(done, NAIVE_GELU, with_table)} in {name_of(with_table)}, with {n / 1e6:.2f} M per "
        "token. It replaces the exponential and the division with two conversions between fp32 and fp16, "
        "here in integer arithmetic, and a load from 128 KiB. With gelu on, "
        f"{gelus(done.config, EIGHT_ROWS[-1], done.case):.0f} GELUs per token remain, too few for a visible "
        "difference."
    )


def on_spread(done: Ablation) -> str:
    doubtful = [f"+{step}" for step, pair in STEP_ROWS.items() if done.in_doubt(*pair)]
    slower = [f"+{step}" for step, pair in STEP_ROWS.items() if done.saved(*pair) < 0]
    return (
        "**Steps within the spread**, marked ~ (the two rows' ranges overlap, or there was only one round): "
        f"{', '.join(doubtful) or 'none'}. Rows slower than the one above: {', '.join(slower) or 'none'}. "
        "No switch adds arithmetic, so a row that is slower within the spread is noise of the machine."
    )


def on_speed(done: Ablation) -> str:
    speeds = [done.speed(options) for options in done.samples]
    work = done.multiply_adds(row()) / done.multiply_adds(EIGHT_ROWS[-1])
    return (
        f"**Multiply-adds explain the order**: the rows' work differs by a factor of {work:.0f}, and their "
        f"speed is between {min(speeds):.2f} and {max(speeds):.2f} G multiply-adds per second. That range "
        "includes the noise and what multiply-adds leave out: GELU, norms, softmax, waiting for weights."
    )


REMARKS = (on_head, on_small_steps, on_gelu, on_table, on_spread, on_speed)


def doubt(done: Ablation, a: Row, b: Row) -> str:
    return " (within the spread)" if done.in_doubt(a, b) else ""


# ---- Whole documents ----


def as_markdown(done: Ablation) -> str:
    parts = [
        "# Ablation: the incremental switches and the GELU table, naive kernels",
        bullets(setting(done)),
        "## Five rows",
        five_table(done),
        "## Eight rows, each with all above it",
        eight_table(done),
        "## Checked before the tables were written",
        bullets(proof(done)),
        "## Reading the tables",
        bullets(remark(done) for remark in REMARKS),
    ]
    return "\n\n".join(parts) + "\n"


def as_record(done: Ablation) -> dict[str, Any]:
    """For JSON: what was measured, and what the tables derive from it."""
    return {
        "benchmark": "ablation",
        **vars(done.origin),
        "cpu_share": cpu_share(done.samples.values()),
        "model": done.config,
        "case": done.case,
        "rounds": done.rounds,
        "agreement": done.agreement,
        "rows": [row_record(done, options) for options in done.samples],
        "tables": {"five": FIVE_ROWS, "eight": EIGHT_ROWS},
    }


def row_record(done: Ablation, options: Row) -> dict[str, Any]:
    return {
        "options": options,
        "plan": str(done.plans[options]),
        "ms_per_token": asdict(done.ms(options)),
        "ratio": done.ratio(options),
        "multiply_adds_per_token": done.multiply_adds(options),
        "seconds": done.samples[options].seconds,
        "cpu_seconds": done.samples[options].cpu_seconds,
    }
