"""What the command draws: words in columns, and bars of progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

_BAR = 30  # characters


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of words as lines, the first word flush left, the others right. A row may lack its last words."""
    n = max(map(len, rows))
    full = [[*row, *[""] * (n - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    for row in full:
        cells = [
            cell.rjust(width) if c else cell.ljust(width)
            for c, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def draw_bar(n_done: int, n_all: int, told: str) -> None:
    """A bar on standard error, `told` behind it, in the place of the one drawn before; n_all: at least 1."""
    filled = _BAR * n_done // n_all
    bar = "#" * filled + "." * (_BAR - filled)
    end = "\n" if n_done == n_all else ""
    print(f"\r[{bar}] {told}", end=end, file=sys.stderr, flush=True)


def bar_of_bytes(quiet: bool = False) -> Callable[[int, int], None] | None:
    """Draw how many bytes of how many are written; None if quiet, or if standard error is no terminal."""

    def draw(n_done: int, n_all: int) -> None:
        draw_bar(n_done, n_all, f"{n_done / 1e6:.0f} of {n_all / 1e6:.0f} MB")

    return draw if sys.stderr.isatty() and not quiet else None
