"""Windows of tokens, in an order that the seed and the step alone decide."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2c.errors import Gpt2cError


class Windows:
    """The tokens cut into windows of n + 1, of which neighbours share one: every token is predicted once.

    An epoch is one pass over the windows in an order of its own, cut at an offset of its own. Which windows
    a step sees follows from seed and step, so a run that is resumed sees what it would have seen.
    """

    def __init__(self, ids: NDArray[np.uint16], n: int, seed: int) -> None:
        """ids [n_tokens]; n: tokens that a window feeds and predicts."""
        if len(ids) < 2 * n:
            raise Gpt2cError(f"{len(ids):,} tokens are too few for windows of {n} (at least {2 * n:,})")
        self._ids, self._n, self._seed = ids, n, seed
        self.n_windows = (len(ids) - n) // n  # so that every offset has as many
        self._epoch, self._starts = -1, np.empty(0, np.int64)

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """What step number `step` feeds and predicts: int64 [size, n] each."""
        first = step * size
        return self._stack([self._start(place) for place in range(first, first + size)])

    def _start(self, place: int) -> int:
        epoch, index = divmod(place, self.n_windows)
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
            offset = generator.integers(self._n)
            self._starts = offset + self._n * generator.permutation(self.n_windows)
            self._epoch = epoch
        return int(self._starts[index])

    def _stack(self, starts: list[int]) -> tuple[Tensor, Tensor]:
        rows = np.stack([self._ids[start : start + self._n + 1] for start in starts]).astype(np.int64)
        return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])

    def in_order(self, size: int, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of at most `size` windows from the start on, for validation; `most`: windows in all."""
        starts = [self._n * i for i in range(self.n_windows)][:most]
        for first in range(0, len(starts), size):
            yield self._stack(starts[first : first + size])
