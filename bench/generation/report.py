"""The tables and the picture of bench/test_generation.py, as Markdown."""

from __future__ import annotations

from typing import Any

from shared.harness import Spread, bullets, markdown_table

BAR = 40  # characters, of the fastest


def _number(value: Spread, digits: int) -> tuple[str, str]:
    """Median, and least to most."""
    return f"{value.median:.{digits}f}", f"{value.min:.{digits}f}..{value.max:.{digits}f}"


def _lines(record: dict[str, Any], title: str, table: str, remarks: list[str]) -> str:
    made, machine = record["origin"].lines()
    remarks = [f"Plan: {record['plan']}.", *remarks, record["on_cpu"], made, machine]
    return f"# {title}\n\n{table}\n\n{bullets(remarks)}\n"


def batches(record: dict[str, Any]) -> str:
    one = record["rows"]["1"]
    rows = [
        (name, *_number(value, 1), f"{value.median / one.median:.2f}")
        for name, value in record["rows"].items()
    ]
    table = markdown_table(("prompts", "tokens/s", "least..most", "times one prompt's"), rows)
    remarks = [
        "GPT-2's 124M shape, the whole head computed; prompts of 8 tokens, "
        f"{record['n_new']} new ones each, the prompts' passes included. "
        "First every prompt's ids in the batch of 32 were found to be those of its own `generate`.",
    ]
    return _lines(record, "Many prompts in one pass", table, remarks)


def held(row: dict[str, Any]) -> str:
    """The share of guesses that held."""
    return f"{row['accepted'] / row['drafted']:.0%}" if row["drafted"] else "-"


def drafts(record: dict[str, Any]) -> str:
    rows = []
    for name, row in record["rows"].items():
        rows.append(
            (name, *_number(row["tokens_per_s"], 1), *_number(row["ratio"], 2), held(row), str(row["passes"]))
        )
    header = ("", "tokens/s", "least..most", "times plain", "least..most", "guesses that held", "passes")
    remarks = [
        f"{record['n_new']} new tokens of a model of GPT-2's 124M shape. Its draft has 2 layers of width "
        f"256 and knows the next token for {record['agreement']:.0%} of all tokens; "
        "bench/generation/model_pair.py says how the two are made. A guess behind a wrong one of its pass "
        "counts as one that did not hold. The large draft has the model's own shape.",
        "First all rows were found to have the ids of plain generation. Each is compared with a plain one "
        "right before it, round by round.",
    ]
    picture = "\n".join(_bar(name, row, record["rows"]) for name, row in record["rows"].items())
    table = markdown_table(header, rows) + f"\n\n```\n{picture}\n```"
    return _lines(record, "Guesses checked in one pass", table, remarks)


def _bar(name: str, row: dict[str, Any], rows: dict[str, Any]) -> str:
    fastest = max(other["tokens_per_s"].median for other in rows.values())
    length = round(BAR * row["tokens_per_s"].median / fastest)
    return f"{name:30} {'#' * length} {row['tokens_per_s'].median:.0f} tokens/s"
