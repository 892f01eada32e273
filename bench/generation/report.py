"""The tables and the bar chart of bench/test_generation.py, as Markdown."""

from __future__ import annotations

from typing import Any

from shared.harness import Spread, bullets, markdown_table

BAR = 40  # characters, of the fastest


def _number(value: Spread, digits: int) -> tuple[str, str]:
    """Median, and minimum to maximum."""
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
    table = markdown_table(("prompts", "tokens/s", "min..max", "ratio to one prompt"), rows)
    remarks = [
        "GPT-2's 124M shape, the whole head computed; prompts of 8 tokens, "
        f"{record['n_new']} new tokens each, the prompts' passes included. "
        "First, the ids of each prompt in the batch of 32 were checked against those of `generate`.",
    ]
    return _lines(record, "Many prompts in one pass", table, remarks)


def accepted(row: dict[str, Any]) -> str:
    """The share of drafted tokens that were accepted."""
    return f"{row['accepted'] / row['drafted']:.0%}" if row["drafted"] else "-"


def drafts(record: dict[str, Any]) -> str:
    rows = []
    for name, row in record["rows"].items():
        rows.append(
            (
                name,
                *_number(row["tokens_per_s"], 1),
                *_number(row["ratio"], 2),
                accepted(row),
                str(row["passes"]),
            )
        )
    header = ("", "tokens/s", "min..max", "ratio to plain", "min..max", "accepted", "passes")
    remarks = [
        f"{record['n_new']} new tokens of a model of GPT-2's 124M shape. The draft has 2 layers of width 256 "
        f"and predicts the model's next token for {record['agreement']:.0%} of all tokens; "
        "bench/generation/model_pair.py constructs both. A guess after a wrong guess in the same pass "
        "counts as not accepted. The large draft has the shape of the model.",
        "First, all rows were checked to give the ids of plain generation. Each row is compared with a "
        "plain run right before it, round by round.",
    ]
    picture = "\n".join(_bar(name, row, record["rows"]) for name, row in record["rows"].items())
    table = markdown_table(header, rows) + f"\n\n```\n{picture}\n```"
    return _lines(record, "Guesses checked in one pass", table, remarks)


def _bar(name: str, row: dict[str, Any], rows: dict[str, Any]) -> str:
    fastest = max(other["tokens_per_s"].median for other in rows.values())
    length = round(BAR * row["tokens_per_s"].median / fastest)
    return f"{name:30} {'#' * length} {row['tokens_per_s'].median:.0f} tokens/s"
