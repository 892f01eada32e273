"""The rows of the ablation, a run of one row, and the check of all outputs.

bench/test_ablation.py measures them; report.py makes the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import gpt2c
from shared.greedy import Case, Row, check_rows, mean_rows, name_of, prompt_of, require
from shared.harness import Samples

TABLE = "gelu_table"


def row(*names: str) -> Row:
    return tuple(option.name for option in gpt2c.OPTIONS if option.name in names)


FIVE_ROWS = (
    row(),
    row("kv", "linear", "residual"),
    row("kv", "linear", "residual", TABLE),
    row("kv", "linear", "residual", "gelu"),
    row("kv", "linear", "residual", "gelu", TABLE),
)
STEPS = ("kv", "linear", "gelu", "residual", "layernorm", "unembed", TABLE)
EIGHT_ROWS = tuple(row(*STEPS[:n]) for n in range(len(STEPS) + 1))
ROWS = tuple(dict.fromkeys(FIVE_ROWS + EIGHT_ROWS))  # a row of both tables is measured once


def load(options: Row) -> gpt2c.Model:
    """Load the embedded model with naive kernels on one thread, so that only the options differ."""
    return gpt2c.load(opts=options or "none", isa="ref")


# ---- One run ----


@dataclass(frozen=True)
class Outcome:
    """New ids, the last pass's logits [n_vocab], and the rows that it computed for each switch."""

    ids: tuple[int, ...]
    logits: NDArray[np.float32]
    rows: Mapping[str, int]


def generate(model: gpt2c.Model, case: Case) -> Outcome:
    """The timed run. An end-of-text token does not end it, so every row does the same number of passes."""
    ids: list[int] = []
    feed = prompt_of(model, case)
    with model.session() as session:
        for _ in range(case.n_new - 1):
            feed = [session.feed_greedy(feed)]
            ids += feed
        logits = session.feed(feed)
        return Outcome((*ids, int(logits.argmax())), logits, session.rows)


# ---- What the outputs must prove ----


@dataclass(frozen=True)
class Agreement:
    """How far rows with the GELU table are from rows with the formula; all other rows have equal bits.

    difference: the largest of any logit, when both are fed the formula's text; limit: the largest allowed;
    largest_logit: with the formula; parts_at: the first new token (from 1) at which the greedy texts differ,
    None if they do not; margin: the difference of the formula's two best logits at that token.
    """

    difference: float
    limit: float
    largest_logit: float
    parts_at: int | None
    margin: float | None


def check_same(outcomes: Mapping[Row, Samples[Outcome]], with_table: bool) -> Outcome:
    """Require one outcome, equal to the bit, of all rows with (or without) the table; return it."""
    chosen = {options: samples for options, samples in outcomes.items() if (TABLE in options) == with_table}
    first_row, first = next((options, samples.results[0]) for options, samples in chosen.items())
    for options, samples in chosen.items():
        for outcome in samples.results:
            between = f"between {name_of(first_row)} and {name_of(options)}"
            require(outcome.ids == first.ids, f"ids differ {between}")
            require(outcome.logits.tobytes() == first.logits.tobytes(), f"final logits differ {between}")
    return first


def check(
    models: Mapping[Row, gpt2c.Model], outcomes: Mapping[Row, Samples[Outcome]], case: Case
) -> Agreement:
    """Check each row's outcome, then compare the rows. Raises Disagreement."""
    for options, samples in outcomes.items():
        for outcome in samples.results:
            check_rows(options, outcome.rows, case)
    formula = check_same(outcomes, with_table=False)
    table = check_same(outcomes, with_table=True)

    # The texts may differ, so both are compared on the text of the formula.
    some_table_row = next(options for options in models if TABLE in options)
    fed = [*prompt_of(models[row()], case), *formula.ids[:-1]]
    by_formula, by_table = models[row()].logits(fed), models[some_table_row].logits(fed)
    require(by_formula[-1].tobytes() == formula.logits.tobytes(), "one pass and many give different logits")
    return compare(by_formula[case.n_prompt - 1 :], by_table[case.n_prompt - 1 :], formula.ids, table.ids)


def compare(
    by_formula: NDArray[np.float32],
    by_table: NDArray[np.float32],
    formula_ids: tuple[int, ...],
    table_ids: tuple[int, ...],
) -> Agreement:
    """Compare logits [n_new, n_vocab] on the formula's text, and the ids of both texts.

    The limit is one rounding of the largest logit to fp16. It is not a proof (tests/test_gelu_table.py has
    one for a model of one layer), but it separates a right table from a wrong one: over 199 tokens of this
    model the right table reached 0.5 of it, a table that truncates 1.3, and a table in bfloat16 3.4.
    """
    largest = float(np.abs(by_formula).max())
    limit = 2.0**-11 * largest
    difference = float(np.abs(by_table - by_formula).max())
    require(difference > 0, "the table changed no logit: is it used at all?")
    require(difference <= limit, f"the table moved a logit by {difference:.3g}, more than {limit:.3g}")
    parted = [i for i, (a, b) in enumerate(zip(formula_ids, table_ids, strict=True)) if a != b]
    if not parted:
        return Agreement(difference, limit, largest, None, None)
    second, best = np.sort(by_formula[parted[0]])[-2:]
    return Agreement(difference, limit, largest, parted[0] + 1, float(best - second))


# ---- Work ----


def gelus(config: gpt2c.ModelConfig, options: Row, case: Case) -> float:
    """GELUs computed per new token."""
    return mean_rows(options, "gelu", case) * config.n_inner * config.n_layer
