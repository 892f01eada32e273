"""What the engines in Python share: a sequence, its cache of K and V, and the surface that the C core has.

An engine brings the arithmetic alone (`Engine`); the rest stands in for a binding of the C core.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..bindings import LoadedModel, Outputs, Runtime
from ..checkpoints.checkpoint import Checkpoint
from ..errors import CancelledError, OptionError, SessionBusyError
from ..options import Plan
from .choices import Loader

CHUNK_ROWS = 128
"""A long prompt is fed in pieces of so many tokens, between which it can be cancelled."""


class Engine(Protocol):
    """GPT-2's arithmetic in some library. Arrays that it returns may be the library's own."""

    weights: str
    """The format that it computes with: "f32", or as the model is stored."""

    weight_bytes: int

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Takes copies of the weights: the checkpoint is closed afterwards."""

    def new_cache(self) -> Any:
        """Room for K and V of n_ctx positions in every layer."""

    def hidden(self, ids: NDArray[np.int32], n_past: int, cache: Any) -> Any:
        """Hidden states [n, n_embd] after the final norm, of ids [n] at positions n_past, n_past + 1, ...

        The cache holds the positions before, and is given the new ones; anything that it holds behind
        n_past is of tokens that were taken back.
        """

    def logits(self, hidden: Any) -> Any:
        """[n, n_embd] -> [n, n_vocab], float32."""


class CachedModel:
    """An engine with its weights."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine

    def weight_bytes(self) -> int:
        return self.engine.weight_bytes


class CachedSession:
    """One sequence; a `bindings.NativeSession`."""

    def __init__(self, model: CachedModel) -> None:
        self._model = model
        self._cache = model.engine.new_cache()
        self._n_past = 0
        self._ids: list[int] = []
        self._in_call = threading.Lock()
        self._cancelled = False

    def feed(self, ids: NDArray[np.int32], outputs: Outputs) -> int:
        """As gpt2c_session_feed: results into the arrays that are given; returns the next id or -1."""
        engine = self._model.engine
        last_logits, logits, hidden, next_id, next_ids = outputs
        with _OneCall(self._in_call):
            self._cancelled = False
            last = None
            for begin in range(0, len(ids), CHUNK_ROWS):
                if self._cancelled:
                    raise CancelledError("the call was cancelled")
                chunk = slice(begin, min(begin + CHUNK_ROWS, len(ids)))
                states = engine.hidden(ids[chunk], self._n_past + begin, self._cache)
                if hidden is not None:
                    hidden[chunk] = np.asarray(states)
                if logits is not None or next_ids is not None:
                    rows = np.asarray(engine.logits(states))
                    if logits is not None:
                        logits[chunk] = rows
                    if next_ids is not None:
                        next_ids[chunk] = _largest(rows)
                last = states[-1:]
            if last_logits is not None or next_id:
                row = np.asarray(engine.logits(last))[0]
                if last_logits is not None:
                    last_logits[:] = row
                if next_id:
                    chosen = int(_largest(row))
            self._ids[self._n_past : self._n_past + len(ids)] = ids.tolist()
            self._n_past += len(ids)
            return chosen if next_id else -1

    def n_past(self) -> int:
        return self._n_past

    def rewind(self, n_past: int) -> None:
        with _OneCall(self._in_call):
            self._n_past = n_past

    def ids(self, out: NDArray[np.int32]) -> None:
        out[:] = self._ids[: len(out)]

    def copy(self, source: Any, n: int) -> None:
        raise self._native_only("sessions are copied")

    def state_bytes(self, n: int) -> int:
        raise self._native_only("session states are written")

    def get_state(self, state: NDArray[np.uint8]) -> None:
        raise self._native_only("session states are written")

    def set_state(self, n: int, state: NDArray[np.uint8]) -> None:
        raise self._native_only("session states are read")

    def cancel(self) -> None:
        self._cancelled = True

    def rows(self) -> list[int]:
        raise self._native_only("rows are counted")

    def separate_passes(self) -> int:
        raise self._native_only("passes are counted")

    def screened(self) -> tuple[int, int]:
        raise self._native_only("candidates are counted")

    def trace(self, events: NDArray[np.uint8] | None = None) -> None:
        """Nothing is written: a library's operations cannot be told apart from here."""

    def traced(self) -> int:
        return 0

    def _native_only(self, what: str) -> OptionError:
        return OptionError(f"{what} by the native backend only, not by {self._model.name!r}")


def _largest(logits: NDArray[np.float32]) -> Any:
    """The index of the largest along the last axis, the lowest of equals; a NaN is none."""
    return np.where(np.isnan(logits), -np.inf, logits).argmax(axis=-1)


class _OneCall:
    """Holds a session for one call; SessionBusyError if another thread has it."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise SessionBusyError("the session is in a call of another thread")

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


class CachedRuntime:
    """Makes sessions, as a binding does."""

    Session = CachedSession

    def __init__(self, name: str) -> None:
        self.name = name

    def traced_ops(self) -> list[str]:
        return []


def loader(name: str, engine: type[Engine]) -> Loader:
    """Opens checkpoints for an engine's class."""

    def open_checkpoint(checkpoint: Checkpoint) -> tuple[Plan, Runtime, LoadedModel]:
        loaded = engine(checkpoint)
        return Plan((), weights=loaded.weights, backend=name), CachedRuntime(name), CachedModel(name, loaded)

    return open_checkpoint
