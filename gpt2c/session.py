"""A session: one sequence of tokens fed to a model, and what the C core keeps of it."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from . import bindings
from ._checks import Ids, as_ids
from ._session_file import read_session, write_session
from .bindings import Binding, LoadedModel, NativeSession, Outputs, Runtime
from .config import ModelConfig
from .errors import ClosedError, ContextLengthError, ModelFileError, OptionError, TokenError
from .options import SWITCHES
from .trace import Trace

Floats = NDArray[np.float32]


@dataclass
class ModelHandle:
    """A loaded model as its sessions know it, and all that they share.

    loaded: the weights, None once the model is closed. identify: weights to what the state of a session
    depends on. trace: records every feed while it is set.
    """

    config: ModelConfig
    runtime: Runtime
    loaded: LoadedModel | None
    identify: Callable[[LoadedModel], dict[str, Any]]
    trace: Trace | None = None

    def opened(self) -> LoadedModel:
        """The weights. ClosedError: the model was closed."""
        if self.loaded is None:
            raise ClosedError("the model is closed")
        return self.loaded

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Config, plan and a checksum of the weights; the first time all weights are read."""
        return self.identify(self.opened())


class Session:
    """Feed tokens, get logits. Made by `Model.session()`; belongs to one call at a time."""

    def __init__(self, handle: ModelHandle, native: NativeSession) -> None:
        self._handle = handle
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
        n_vocab = self._handle.config.n_vocab
        if out is None:
            out = np.empty(n_vocab, np.float32)
        elif (
            not isinstance(out, np.ndarray)
            or out.shape != (n_vocab,)
            or out.dtype != np.float32
            or not out.flags.carray
        ):
            raise OptionError(f"out must be a C-contiguous float32 array of shape ({n_vocab},)")
        self._feed(self._checked(ids), Outputs(last_logits=out))
        return out

    def feed_greedy(self, ids: Ids) -> int:
        """Like `feed`, but only the id of the largest logit; the lowest id wins a tie."""
        return self._feed(self._checked(ids), Outputs(next_id=True))

    def feed_all(self, ids: Ids) -> Floats:
        """Like `feed`, but the logits [n, n_vocab] of every token fed."""
        checked = self._checked(ids)
        logits = np.empty((checked.size, self._handle.config.n_vocab), np.float32)
        self._feed(checked, Outputs(logits=logits))
        return logits

    def feed_greedy_all(self, ids: Ids) -> list[int]:
        """Like `feed_greedy`, but the ids [n] behind every token fed: one pass checks n guesses."""
        checked = self._checked(ids)
        next_ids = np.empty(checked.size, np.int32)
        self._feed(checked, Outputs(next_ids=next_ids))
        return [int(i) for i in next_ids]

    def feed_hidden(self, ids: Ids) -> Floats:
        """Like `feed`, but the hidden states [n, n_embd] behind the final layer norm, and no logits."""
        checked = self._checked(ids)
        hidden = np.empty((checked.size, self._handle.config.n_embd), np.float32)
        self._feed(checked, Outputs(hidden=hidden))
        return hidden

    @property
    def ids(self) -> list[int]:
        """The tokens fed so far and not rewound."""
        native = self._open()
        ids = np.empty(native.n_past(), np.int32)
        native.ids(ids)
        return [int(i) for i in ids]

    def copy_from(self, other: Session, n_past: int) -> None:
        """Hold the first n_past tokens of another session of the same model, and nothing else.

        The bits are those of feeding the tokens; nothing is computed. OptionError: the other session
        belongs to another model or holds fewer tokens.
        """
        if other._handle is not self._handle:
            raise OptionError("a session can only be copied from one of the same model")
        kept = operator.index(n_past)
        if not 0 <= kept <= other.n_past:
            raise OptionError(f"cannot copy {kept} tokens: the session holds {other.n_past}")
        self._open().copy(other._open(), kept)

    def rewind(self, n_past: int) -> None:
        """Keep the first n_past tokens and forget the rest. OptionError: not in [0, n_past]."""
        kept = operator.index(n_past)
        if not 0 <= kept <= self.n_past:
            raise OptionError(f"cannot rewind to {kept}: the session holds {self.n_past} tokens")
        self._open().rewind(kept)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what the session holds to a file, for `load` of a session of the same model and plan.

        A token of GPT-2 small takes 74 kB. ModelFileError: it cannot be written; what was there stays.
        """
        native = self._open()
        n = native.n_past()
        state = np.empty(native.state_bytes(n), np.uint8)
        native.get_state(state)
        write_session(Path(path), {**self._handle.identity, "n_tokens": n}, state.data)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Hold what a file of `save` says, and nothing else: the bits are those of feeding its tokens.

        ModelFileError: it is not there, is damaged, or belongs to another model or plan; nothing has changed.
        """
        native = self._open()
        n_most = native.state_bytes(self._handle.config.n_ctx)
        n, state = read_session(Path(path), self._handle.identity, n_most)
        try:
            native.set_state(n, state)
        except (OptionError, TokenError):  # the number of bytes, or an id
            raise ModelFileError(f"{Path(path).name}: holds no state of this model") from None

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
        config = self._handle.config
        checked = as_ids(ids, config.n_vocab)
        if self.n_past + checked.size > config.n_ctx:
            raise ContextLengthError(
                f"{self.n_past + checked.size} tokens are more than the context of {config.n_ctx} holds"
            )
        return checked

    def _feed(self, ids: NDArray[np.int32], outputs: Outputs) -> int:
        native, trace = self._open(), self._handle.trace
        return native.feed(ids, outputs) if trace is None else trace.feed(native, ids, outputs)


def batch_rows() -> int:
    """Tokens that one pass over several sessions takes at most (gpt2c_batch_feed); never more than n_ctx."""
    return bindings.enum("limit")["chunk_rows"]


def feed_batch(
    sessions: Sequence[Session], rows: Sequence[Sequence[int]], logits: Floats | None = None
) -> list[int]:
    """Feed tokens to several sessions of one model, each its own, in one pass.

    The result is the greedy id behind each row; with `logits`, float32 [len(rows), n_vocab], those are
    written and the result is empty. Each session gets the bits of a feed of its own. The model's plan must
    have all six switches. Errors as in `Session.feed`, OptionError for more rows than a pass takes.
    """
    ids = np.fromiter((i for row in rows for i in row), np.int32)
    n_ids = np.array([len(row) for row in rows], np.uintp)
    next_ids = np.empty(len(rows), np.int32) if logits is None else None
    binding = cast(Binding, sessions[0]._handle.runtime)  # such a plan is the C core's
    binding.batch_feed([session._open() for session in sessions], ids, n_ids, logits, next_ids)
    return [] if next_ids is None else [int(i) for i in next_ids]
