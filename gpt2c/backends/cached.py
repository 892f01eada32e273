"""What the Python backends share: sessions with a cache of K and V, and the interface of a binding.

A backend implements the arithmetic alone (`Backend`). The classes here wrap it so that `Model` and `Session`
can use it in place of a binding of the C core.
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
"""Maximum number of tokens in a chunk of a prompt. A call can be cancelled between two chunks."""


class Backend(Protocol):
    """GPT-2's arithmetic in some library. The arrays that it returns may be of the library's own type."""

    weights: str
    """The weight format that it computes with: "f32", or the format that the model is stored in."""

    weight_bytes: int

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Copy the weights: the checkpoint is closed afterwards."""

    def new_cache(self) -> Any:
        """Space for K and V of n_ctx positions in every layer."""

    def hidden(self, ids: NDArray[np.int32], n_past: int, cache: Any) -> Any:
        """Hidden states [n, n_embd] after the final norm, for ids [n] at positions n_past, n_past + 1, ...

        The cache holds K and V of the positions before n_past. This call appends those of the new ones, and
        overwrites what the cache still holds from n_past on after a rewind.
        """

    def logits(self, hidden: Any) -> Any:
        """[n, n_embd] -> [n, n_vocab], float32."""


class CachedModel:
    """A backend with its weights; a `bindings.LoadedModel`."""

    def __init__(self, name: str, backend: Backend) -> None:
        self.name = name
        self.backend = backend

    def weight_bytes(self) -> int:
        return self.backend.weight_bytes


class CachedSession:
    """One sequence; a `bindings.NativeSession`."""

    def __init__(self, model: CachedModel) -> None:
        self._model = model
        self._cache = model.backend.new_cache()
        self._n_past = 0
        self._ids: list[int] = []
        self._in_call = threading.Lock()
        self._cancelled = False

    def feed(self, ids: NDArray[np.int32], outputs: Outputs) -> int:
        """See `NativeSession.feed`: write results into the arrays of `outputs`, return the next id or -1."""
        backend = self._model.backend
        last_logits, logits, hidden, next_id, next_ids = outputs
        with _OneCall(self._in_call):
            self._cancelled = False
            last = None
            for begin in range(0, len(ids), CHUNK_ROWS):
                if self._cancelled:
                    raise CancelledError("the call was cancelled")
                chunk = slice(begin, min(begin + CHUNK_ROWS, len(ids)))
                states = backend.hidden(ids[chunk], self._n_past + begin, self._cache)
                if hidden is not None:
                    hidden[chunk] = np.asarray(states)
                if logits is not None or next_ids is not None:
                    rows = np.asarray(backend.logits(states))
                    if logits is not None:
                        logits[chunk] = rows
                    if next_ids is not None:
                        next_ids[chunk] = _largest(rows)
                last = states[-1:]
            if last_logits is not None or next_id:
                row = np.asarray(backend.logits(last))[0]
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
        """Do nothing: the operations inside a library cannot be timed from here."""

    def traced(self) -> int:
        return 0

    def _native_only(self, what: str) -> OptionError:
        return OptionError(f"{what} by the native backend only, not by {self._model.name!r}")


def _largest(logits: NDArray[np.float32]) -> Any:
    """The index of the largest logit along the last axis; the lowest index wins a tie, NaN never wins."""
    return np.where(np.isnan(logits), -np.inf, logits).argmax(axis=-1)


class _OneCall:
    """A context manager that locks a session for one call. SessionBusyError: another thread has locked it."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise SessionBusyError("the session is in a call of another thread")

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


class CachedRuntime:
    """A `bindings.Runtime`: makes sessions, as a binding does."""

    Session = CachedSession

    def __init__(self, name: str) -> None:
        self.name = name

    def traced_ops(self) -> list[str]:
        return []


def loader(name: str, backend: type[Backend]) -> Loader:
    """The function that loads a checkpoint into a backend of that class."""

    def open_checkpoint(checkpoint: Checkpoint) -> tuple[Plan, Runtime, LoadedModel]:
        loaded = backend(checkpoint)
        return Plan((), weights=loaded.weights, backend=name), CachedRuntime(name), CachedModel(name, loaded)

    return open_checkpoint
