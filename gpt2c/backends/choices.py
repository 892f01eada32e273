"""The interface of all backends: what the caller chooses, and the function that loads a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..bindings import LoadedModel, Runtime
from ..checkpoints.checkpoint import Checkpoint
from ..options import Plan

Loader = Callable[[Checkpoint], tuple[Plan, Runtime, LoadedModel]]
"""Loads a checkpoint: returns the plan, the runtime that makes sessions, and the weights."""


@dataclass(frozen=True)
class Choices:
    """The arguments of `gpt2c.load` other than the model. A default value counts as not given."""

    weights: str | None = None
    opts: str | Iterable[str] = "all"
    threads: int | None = None
    isa: str = "auto"
    binding: str = "auto"

    def given(self) -> list[str]:
        """Names of the arguments whose values are not the defaults."""
        return [name for name, default in vars(Choices()).items() if getattr(self, name) != default]
