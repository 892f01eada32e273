"""What is asked of an engine, and what it gives back: shared by all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..bindings import LoadedModel, Runtime
from ..checkpoints.checkpoint import Checkpoint
from ..options import Plan

Loader = Callable[[Checkpoint], tuple[Plan, Runtime, LoadedModel]]
"""A checkpoint in, what computes it out: the plan, who makes sessions, and the weights."""


@dataclass(frozen=True)
class Choices:
    """What `gpt2c.load` was asked for beside the model; the defaults are "not given"."""

    weights: str | None = None
    opts: str | Iterable[str] = "all"
    threads: int | None = None
    isa: str = "auto"
    binding: str = "auto"

    def given(self) -> list[str]:
        """Names of the arguments that are not at their defaults."""
        return [name for name, default in vars(Choices()).items() if getattr(self, name) != default]
