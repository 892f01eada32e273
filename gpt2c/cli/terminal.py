"""Output for terminals: tables and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

_BAR = 30  # characters


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table: the first column left-aligned, the others right-aligned.

    A row may be shorter than the others; its missing cells are empty.
    """
    n = max(map(len, rows))
    full = [[*row, *[""] * (n - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    for row in full:
        cells = [
            cell.rjust(width) if c else cell.ljust(width)
            for c, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def draw_bar(n_done: int, n_all: int, label: str) -> None:
    """Draw a progress bar and a label on standard error, over the previous one. n_all: at least 1."""
    filled = _BAR * n_done // n_all
    bar = "#" * filled + "." * (_BAR - filled)
    end = "\n" if n_done == n_all else ""
    print(f"\r[{bar}] {label}", end=end, file=sys.stderr, flush=True)


def bar_of_bytes(quiet: bool = False) -> Callable[[int, int], None] | None:
    """Return a function (bytes done, bytes in all) that draws a progress bar.

    None if `quiet`, or if standard error is not a terminal.
    """

    def draw(n_done: int, n_all: int) -> None:
        draw_bar(n_done, n_all, f"{n_done / 1e6:.0f} of {n_all / 1e6:.0f} MB")

    return draw if sys.stderr.isatty() and not quiet else None
