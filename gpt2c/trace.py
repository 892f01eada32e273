"""A view into a generation: the time of each operation, and the tokens that the model considered.

    with gpt2c.load() as model, model.trace() as trace:
        model.generate("Once upon a time", 20)
    print(trace.feeds[1].operations[0], trace.feeds[1].best)

The times of operations come from the C core, on the same clock as those of feeds. Other backends record
feeds only. cli/trace_report.py turns a trace into tables and a file for trace viewers.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import bindings
from .bindings import NativeSession, Outputs

# gpt2c_trace_event of include/gpt2c.h
_EVENT = np.dtype(
    [("op", np.int32), ("layer", np.int32)]
    + [(name, np.int64) for name in ("begin_ns", "end_ns", "rows", "n_in", "n_out", "n_bytes")]
)
_MAX_PER_LAYER = 2  # of one operation: without `fused` a layer adds two residuals


def now_ns() -> int:
    """The time on the clock that the C core reads, in ns."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class Operation(NamedTuple):
    """One operation of a feed.

    layer: -1 outside the layers. rows: rows computed. n_in, n_out: elements in a row of the input and of the
    result (n_in of attention: positions that it reads). n_bytes: weights, K, V, inputs and results, each
    counted once.
    """

    name: str
    layer: int
    begin_ns: int
    end_ns: int
    rows: int
    n_in: int
    n_out: int
    n_bytes: int


@dataclass(frozen=True)
class Feed:
    """One feed of a session. best: the most probable next tokens as (id, probability), in that order."""

    n_past: int
    n_ids: int
    begin_ns: int
    end_ns: int
    operations: list[Operation]
    best: list[tuple[int, float]]

    @property
    def ms(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e6


@dataclass
class Trace:
    """The record of what the sessions of a model did; created by `Model.trace()`.

    op_names: the names of the backend's operations, in the order of their numbers. n_best: how many tokens of
    each feed are recorded with their probabilities. sessions: (begin, end) of the creation of each session,
    in ns.
    """

    n_layer: int
    n_vocab: int
    op_names: list[str]
    n_best: int = 5
    sessions: list[tuple[int, int]] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)

    def _feed(self, native: NativeSession, ids: NDArray[np.int32], outputs: Outputs) -> int:
        """Run and record native.feed(ids, outputs), with the last logits added if `best` needs them."""
        if self.n_best and outputs.logits is None and outputs.last_logits is None:
            outputs = outputs._replace(last_logits=np.empty(self.n_vocab, np.float32))
        n_past = native.n_past()
        events = np.zeros(self._max_events(len(ids)), _EVENT)
        native.trace(events.view(np.uint8))
        try:
            begin = now_ns()
            chosen = native.feed(ids, outputs)
            end = now_ns()
            n_events = native.traced()
            assert n_events <= len(events)
        finally:
            native.trace(None)
        operations = [Operation(self.op_names[op], *values) for op, *values in events[:n_events].tolist()]
        last = outputs.last_logits if outputs.logits is None else outputs.logits[-1]
        best = [] if last is None else best_of(last, self.n_best)
        self.feeds.append(Feed(n_past, len(ids), begin, end, operations, best))
        return chosen

    def _max_events(self, n_ids: int) -> int:
        if not self.op_names:
            return 0
        n_chunks = n_ids // bindings.enum("limit")["chunk_rows"] + 1
        return n_chunks * (self.n_layer + 1) * _MAX_PER_LAYER * len(self.op_names)


def best_of(logits: NDArray[np.float32], n: int) -> list[tuple[int, float]]:
    """The n largest of logits [n_vocab] as (id, probability); the softmax is over all, in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = exponentials / exponentials.sum()
    ids = np.argsort(-probabilities, kind="stable")[:n]
    return [(int(i), float(probabilities[i])) for i in ids]
