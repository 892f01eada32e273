"""A greedy run: its passes, the rows that each pass computes and their check, and its multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import gpt2c
from gpt2c.options import SWITCHES

Row = tuple[str, ...]
"""The options of a table's row, in the order of gpt2c.OPTIONS."""


def name_of(options: Row) -> str:
    return f"{{{', '.join(options)}}}"


@dataclass(frozen=True)
class Case:
    """A greedy run from end-of-text tokens. Each new token takes one pass; the last one is never fed."""

    n_new: int
    n_prompt: int = 1

    def __str__(self) -> str:
        return f"{self.n_prompt} + {self.n_new} tokens"

    def passes(self) -> Iterator[tuple[int, int]]:
        """For each pass, the number of tokens before it and after it."""
        yield 0, self.n_prompt
        for n in range(self.n_prompt, self.n_prompt + self.n_new - 1):
            yield n, n + 1

    @property
    def last_n(self) -> int:
        """Number of tokens after the last pass."""
        return self.n_prompt + self.n_new - 1


def prompt_of(model: gpt2c.Model, case: Case) -> list[int]:
    return [model.config.eos_token_id or 0] * case.n_prompt


# ---- What the outputs must prove ----


class Disagreement(AssertionError):
    """Rows that must agree do not, so their times would mean nothing."""


def require(truth: bool, message: str) -> None:
    if not truth:
        raise Disagreement(message)


def check_rows(options: Row, rows: Mapping[str, int], case: Case) -> None:
    """Require that the last pass computed one row for each switch that is on, and all rows for the others."""
    expected = {switch: 1 if switch in options else case.last_n for switch in SWITCHES}
    require(dict(rows) == expected, f"{name_of(options)} computed rows {dict(rows)}")


# ---- Work ----


def mean_rows(options: Row, switch: str, case: Case) -> float:
    """Mean number of rows that the operations of a switch compute per new token."""
    return sum(n - (n_past if switch in options else 0) for n_past, n in case.passes()) / case.n_new


def head_multiply_adds(config: gpt2c.ModelConfig, options: Row, case: Case) -> float:
    """Multiply-adds per new token in the output head."""
    rows = 1.0 if "unembed" in options else mean_rows(options, "unembed", case)
    return rows * config.n_embd * config.n_vocab


def multiply_adds(config: gpt2c.ModelConfig, options: Row, case: Case) -> float:
    """Multiply-adds per new token in linear layers and attention; everything else is small in comparison."""
    c, d = config, config.n_embd
    pairs = 0  # of positions: each row attends to itself and to those before it
    for n_past, n in case.passes():
        done_before = n_past if "kv" in options else 0
        pairs += n * (n + 1) // 2 - done_before * (done_before + 1) // 2
    qkv = mean_rows(options, "kv", case) * 3 * d * d
    attention = pairs / case.n_new * 2 * d
    linear = mean_rows(options, "linear", case) * (d * d + 2 * d * c.n_inner)
    return c.n_layer * (qkv + attention + linear) + head_multiply_adds(c, options, case)
