"""A session: one sequence of tokens fed to a model, and what the C core keeps of it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import ClosedError, ContextLengthError, OptionError, TokenError
from .options import SWITCHES

if TYPE_CHECKING:
    from .bindings import NativeSession
    from .model import Model
    from .trace import Trace

Ids = Sequence[int] | NDArray[np.integer]
Floats = NDArray[np.float32]


def as_ids(ids: Ids, n_vocab: int) -> NDArray[np.int32]:
    """Token ids as an int32 array [n]. TokenError: none at all, not integers, or outside [0, n_vocab)."""
    if isinstance(ids, (str, bytes)):
        raise TokenError(f"token ids are needed, not {type(ids).__name__}")
    try:
        array = np.asarray(ids)
    except ValueError:
        raise TokenError("token ids must be one flat list, not lists of several lengths") from None
    if array.ndim != 1:
        raise TokenError(f"token ids must be one flat list, not an array of shape {array.shape}")
    if array.size == 0:
        raise TokenError("the prompt is empty: at least one token is needed")
    if array.dtype.kind not in "iu":
        raise TokenError(f"token ids must be integers, not {array.dtype}")
    if array.min() < 0 or array.max() >= n_vocab:
        bad = next(int(i) for i in array if not 0 <= i < n_vocab)
        raise TokenError(f"token id {bad} is outside the vocabulary (0 to {n_vocab - 1})")
    return np.ascontiguousarray(array, np.int32)


class Session:
    """Feed tokens, get logits. Made by `Model.session()`; belongs to one call at a time."""

    def __init__(self, model: Model, native: NativeSession, trace: Trace | None = None) -> None:
        self._model = model
        self._trace = trace
        self._native: NativeSession | None = native
        self.cancelled = False

    def _open(self) -> NativeSession:
        native = self._native
        if native is None:
            raise ClosedError("the session is closed")
        return native

    @property
    def n_past(self) -> int:
        """Tokens fed so far and not rewound."""
        return self._open().n_past()

    @property
    def rows(self) -> dict[str, int]:
        """For each of the six switches the rows that its operations computed in the last feed, from C."""
        return dict(zip(SWITCHES, self._open().rows(), strict=True))

    @property
    def separate_passes(self) -> int:
        """Passes for GELU or a residual alone that the last feed took; 0 with `fused`."""
        return self._open().separate_passes()

    @property
    def screened(self) -> tuple[int, int]:
        """(greedy ids that `head_screen` has found, candidates that took in all) since the session began."""
        return self._open().screened()

    def feed(self, ids: Ids, out: Floats | None = None) -> Floats:
        """Run tokens [n] behind those fed before; the logits [n_vocab] (float32) of the last one.

        The result is `out` if given, else a fresh array. Raises TokenError, ContextLengthError (before
        any work), SessionBusyError when another thread is in a call, ClosedError.
        """
        n_vocab = self._model.config.n_vocab
        if out is None:
            out = np.empty(n_vocab, np.float32)
        elif (
            not isinstance(out, np.ndarray)
            or out.shape != (n_vocab,)
            or out.dtype != np.float32
            or not out.flags.carray
        ):
            raise OptionError(f"out must be a C-contiguous float32 array of shape ({n_vocab},)")
        self._feed(self._checked(ids), last_logits=out)
        return out

    def feed_greedy(self, ids: Ids) -> int:
        """Like `feed`, but only the id of the largest logit; the lowest id wins a tie."""
        return self._feed(self._checked(ids), next_id=True)

    def feed_all(self, ids: Ids) -> Floats:
        """Like `feed`, but the logits [n, n_vocab] of every token fed."""
        checked = self._checked(ids)
        logits = np.empty((checked.size, self._model.config.n_vocab), np.float32)
        self._feed(checked, logits=logits)
        return logits

    def rewind(self, n_past: int) -> None:
        """Keep the first n_past tokens and forget the rest. OptionError: not in [0, n_past]."""
        kept = operator.index(n_past)
        if not 0 <= kept <= self.n_past:
            raise OptionError(f"cannot rewind to {kept}: the session holds {self.n_past} tokens")
        self._open().rewind(kept)

    def cancel(self) -> None:
        """End the call that is running in another thread, if any; it raises CancelledError there.

        `cancelled` stays True, so that a generation also notices between two calls.
        """
        self.cancelled = True
        native = self._native
        if native is not None:
            native.cancel()

    def close(self) -> None:
        """Free the session's memory, as soon as no call is running in it. May be called twice."""
        self._native = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _checked(self, ids: Ids) -> NDArray[np.int32]:
        config = self._model.config
        checked = as_ids(ids, config.n_vocab)
        if self.n_past + checked.size > config.n_ctx:
            raise ContextLengthError(
                f"{self.n_past + checked.size} tokens are more than the context of {config.n_ctx} holds"
            )
        return checked

    def _feed(
        self,
        ids: NDArray[np.int32],
        last_logits: Floats | None = None,
        logits: Floats | None = None,
        next_id: bool = False,
    ) -> int:
        native = self._open()
        if self._trace is not None:
            return self._trace.feed(native, ids, last_logits, logits, next_id)
        return native.feed(ids, last_logits, logits, None, next_id)
