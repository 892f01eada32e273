"""The output of a run: a progress bar on a terminal, else lines, and a plot of the loss at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Report = Callable[[dict[str, Any]], None]

SMOOTHED = 50  # steps that each point of the training loss is the mean of


@contextmanager
def progress(n_steps: int, n_done: int, every: int) -> Iterator[Report]:
    """Yield a function that shows the rows of a run's log.

    It draws a bar if standard error is a terminal and rich (the extra `progress`) is installed. Otherwise it
    prints a line every `every` steps and at each validation.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        drawn = False
    else:
        drawn = sys.stderr.isatty()
    if not drawn:
        yield lambda row: _line(row, every)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=n_steps, completed=n_done)

        def draw(row: dict[str, Any]) -> None:
            if "valid_loss" in row:
                bar.console.print(_words(row), highlight=False)
            else:
                bar.update(task, completed=row["step"], description=_words(row))

        yield draw


def _line(row: dict[str, Any], every: int) -> None:
    if "valid_loss" in row or row["step"] % every == 0:
        print(_words(row), file=sys.stderr, flush=True)


def _words(row: dict[str, Any]) -> str:
    if "valid_loss" in row:
        return f"step {row['step']}: validation loss {row['valid_loss']:.4f}"
    return f"step {row['step']}: loss {row['loss']:.3f}, {row['tokens_per_s']:,} tokens/s"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log: steps and validations, in the order of the run."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw_loss(log: Path, picture: Path) -> None:
    """Plot the training and validation loss of a run. ImportError without matplotlib (the extra `plot`)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_log(log)
    steps = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    valid = [(row["step"], row["valid_loss"]) for row in rows if "valid_loss" in row]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    groups = [steps[i : i + SMOOTHED] for i in range(0, len(steps), SMOOTHED)]
    axes.plot(
        [group[-1][0] for group in groups],
        [sum(value for _, value in group) / len(group) for group in groups],
        label=f"training, mean of {SMOOTHED} steps",
    )
    if valid:
        axes.plot(*zip(*valid, strict=True), marker="o", markersize=3, label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)
