"""gpt2c as an engine of bench/peers, the harness that compares it with other engines.

The harness is started from the repository's root and loads this file by its path; the Python that runs it
needs gpt2c installed. A precision is a weight format, optionally followed by "-screen" for head_screen and
"-kv16" for kv_f16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from engines.base import Engine as Base  # importable while the harness runs

import gpt2c
from gpt2c.bindings import Outputs

WHOLE_HEAD = "kv,linear,gelu,residual,layernorm,unembed,aligned,simd,threads,fused"

OPTIONS = {"screen": "head_screen", "kv16": "kv_f16"}
"""What may follow a weight format, and the option that it adds."""


class Engine(Base):  # type: ignore[misc]
    """One model, one session for each sequence of a batch, one pass of the core for each step of a batch."""

    batching = True

    def load(self, path: str, threads: int, precision: str) -> None:
        weights, *more = precision.split("-")
        opts = ",".join([WHOLE_HEAD, *(OPTIONS[name] for name in more)])
        self.model = gpt2c.load(path, weights=weights, opts=opts, threads=threads)
        self.session: gpt2c.Session | None = None
        self.last = 0
        self.batch: list[Any] = []

    def prefill(self, ids: Sequence[int]) -> int:
        if self.session is None:
            self.session = self.model.session()
        self.session.rewind(0)  # reuses the buffers of the previous sequence, as the other engines do
        self.last = ids[-1]
        return self.session.feed_greedy(ids)

    def step(self, token: int) -> int:
        assert self.session is not None
        self.last = token
        return self.session.feed_greedy([token])

    def logits(self) -> np.ndarray:
        """The logits after the last token that was fed, which is fed once more."""
        assert self.session is not None
        self.session.rewind(self.session.n_past - 1)
        return self.session.feed([self.last])

    def prefill_batch(self, rows: Sequence[Sequence[int]]) -> list[int]:
        native, binding = self.model._handle.opened(), self.model._handle.runtime
        self.batch = [binding.Session(native) for _ in rows]
        return [
            session.feed(np.array(row, np.int32), Outputs(next_id=True))
            for session, row in zip(self.batch, rows, strict=True)
        ]

    def step_batch(self, ids: Sequence[int]) -> list[int]:
        next_ids = np.empty(len(ids), np.int32)
        counts = np.ones(len(ids), np.uintp)
        self.model._handle.runtime.batch_feed(self.batch, np.array(ids, np.int32), counts, None, next_ids)
        return next_ids.tolist()
