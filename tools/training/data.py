"""Windows of tokens, in an order that depends only on the seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2c.errors import Gpt2cError


class Windows:
    """The tokens cut into windows of n + 1. Neighbours share one token, so every token is predicted once.

    An epoch is one pass over all windows. Each epoch has another order, and another offset at which the first
    window begins. The windows of a step depend only on the seed and the step, so a resumed run sees the same
    data as an uninterrupted one.
    """

    def __init__(self, ids: NDArray[np.uint16], n: int, seed: int) -> None:
        """ids: [n_tokens]. n: tokens that a window feeds, and tokens that it predicts."""
        if len(ids) < 2 * n:
            raise Gpt2cError(f"{len(ids):,} tokens are too few for windows of {n} (at least {2 * n:,})")
        self._ids, self._n, self._seed = ids, n, seed
        self.n_windows = (len(ids) - n) // n  # the same number for every offset
        self._epoch, self._starts = -1, np.empty(0, np.int64)

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """The tokens that a step feeds and those that it predicts: int64 [size, n] each. step: 0, 1, ..."""
        first = step * size
        return self._stack([self._start(number) for number in range(first, first + size)])

    def _start(self, number: int) -> int:
        """The index in the ids at which a window begins; windows are numbered over all epochs."""
        epoch, index = divmod(number, self.n_windows)
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
            offset = generator.integers(self._n)
            self._starts = offset + self._n * generator.permutation(self.n_windows)
            self._epoch = epoch
        return int(self._starts[index])

    def _stack(self, starts: list[int]) -> tuple[Tensor, Tensor]:
        rows = np.stack([self._ids[start : start + self._n + 1] for start in starts]).astype(np.int64)
        return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])

    def in_order(self, size: int, max_windows: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The first windows in the order of the text, in batches of at most `size`; for validation."""
        starts = [self._n * i for i in range(self.n_windows)][:max_windows]
        for first in range(0, len(starts), size):
            yield self._stack(starts[first : first + size])
