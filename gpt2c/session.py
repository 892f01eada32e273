"""A session: the tokens fed to a model so far, and the K and V that the C core stores for them."""

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
    """What the sessions of one loaded model share.

    loaded: the weights; None once the model is closed. identify: computes `identity` from the weights.
    trace: records every feed while it is set.
    """

    config: ModelConfig
    runtime: Runtime
    loaded: LoadedModel | None
    identify: Callable[[LoadedModel], dict[str, Any]]
    trace: Trace | None = None

    def opened(self) -> LoadedModel:
        """Return the weights. Raises ClosedError if the model is closed."""
        loaded = self.loaded  # read once: another thread may close the model
        if loaded is None:
            raise ClosedError("the model is closed")
        return loaded

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Config, plan and a checksum of the weights: they decide whether a saved state fits the model.

        The first access reads all weights.
        """
        return self.identify(self.opened())


class Session:
    """Feed tokens, get logits. Made by `Model.session()`; only one thread may call it at a time.

    Example::

        with model.session() as session:
            logits = session.feed(model.tokenizer.encode("Once upon a"))  # float32 [n_vocab]
            logits = session.feed([int(logits.argmax())])
            session.rewind(session.n_past - 1)

    After close() every method raises ClosedError, except close() and cancel().
    """

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
        """The number of tokens that the session holds: fed and not rewound."""
        return self._open().n_past()

    @property
    def rows(self) -> dict[str, int]:
        """Rows that the operations of each of the six switches computed in the last feed, counted in C.

        Example: {"kv": 3, "linear": 3, "gelu": 3, "residual": 3, "layernorm": 3, "unembed": 1}.
        """
        return dict(zip(SWITCHES, self._open().rows(), strict=True))

    @property
    def separate_passes(self) -> int:
        """How many passes over the data the last feed made only for GELU or a residual; 0 with `fused`."""
        return self._open().separate_passes()

    @property
    def screened(self) -> tuple[int, int]:
        """Totals of `head_screen` in this session: (greedy ids found, logits computed exactly for them)."""
        return self._open().screened()

    def feed(self, ids: Ids, out: Floats | None = None) -> Floats:
        """Append tokens to the sequence and return the logits of the last one: float32 [n_vocab].

        ids: n >= 1 token ids, as a list or an integer array [n]. out: a C-contiguous float32 array [n_vocab]
        to write the logits to and return; without it, each call returns a new array.

        If a call raises, the session holds what it held before. Raises:

        - TokenError: no ids, or an id outside [0, n_vocab);
        - ContextLengthError: more tokens than the context holds; nothing was computed;
        - OptionError: `out` has another shape, dtype or layout;
        - SessionBusyError: another thread is in a call to this session;
        - CancelledError: `cancel` ended the call;
        - ClosedError: the session is closed.

        Example: ``session.feed([464, 3290])[11]`` is the logit of token 11 after the tokens 464 and 3290.
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
        """Append tokens like `feed`, but return only the id of the last token's largest logit.

        The lowest id wins a tie. With the option `head_screen` this is faster than `feed`.
        """
        return self._feed(self._checked(ids), Outputs(next_id=True))

    def feed_all(self, ids: Ids) -> Floats:
        """Append tokens like `feed`, but return the logits of each of the n tokens: float32 [n, n_vocab]."""
        checked = self._checked(ids)
        logits = np.empty((checked.size, self._handle.config.n_vocab), np.float32)
        self._feed(checked, Outputs(logits=logits))
        return logits

    def feed_greedy_all(self, ids: Ids) -> list[int]:
        """Append tokens like `feed_greedy`, but return the id for each of the n tokens: a list of n ints.

        Speculative decoding checks several guesses with one such call.
        """
        checked = self._checked(ids)
        next_ids = np.empty(checked.size, np.int32)
        self._feed(checked, Outputs(next_ids=next_ids))
        return [int(i) for i in next_ids]

    def feed_hidden(self, ids: Ids) -> Floats:
        """Append tokens like `feed`, but return their hidden states and compute no logits.

        Returns float32 [n, n_embd], the output of the final layer norm.
        """
        checked = self._checked(ids)
        hidden = np.empty((checked.size, self._handle.config.n_embd), np.float32)
        self._feed(checked, Outputs(hidden=hidden))
        return hidden

    @property
    def ids(self) -> list[int]:
        """The token ids that the session holds: fed and not rewound."""
        native = self._open()
        ids = np.empty(native.n_past(), np.int32)
        native.ids(ids)
        return [int(i) for i in ids]

    def copy_from(self, other: Session, n_past: int) -> None:
        """Replace what the session holds by the first n_past tokens of another session of the same model.

        Nothing is computed, and later results have the same bits as if the tokens had been fed. Raises
        OptionError if the other session belongs to another model or holds fewer tokens, SessionBusyError,
        ClosedError.
        """
        if other._handle is not self._handle:
            raise OptionError("a session can only be copied from another session of the same model")
        n = operator.index(n_past)
        if not 0 <= n <= other.n_past:
            raise OptionError(f"cannot copy {n} tokens: the session holds {other.n_past}")
        self._open().copy(other._open(), n)

    def rewind(self, n_past: int) -> None:
        """Drop all tokens after the first n_past.

        Raises OptionError if n_past is negative or more than the session holds, SessionBusyError,
        ClosedError.
        """
        n = operator.index(n_past)
        if not 0 <= n <= self.n_past:
            raise OptionError(f"cannot rewind to {n}: the session holds {self.n_past} tokens")
        self._open().rewind(n)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what the session holds to a file, which a session of the same model and plan can `load`.

        The file takes 74 kB per token for GPT-2 small. Raises OptionError if the backend is not the C core,
        and ModelFileError if the file cannot be written; an existing file is then left as it was.
        """
        native = self._open()
        n = native.n_past()
        state = np.empty(native.state_bytes(n), np.uint8)
        native.get_state(state)
        write_session(Path(path), {**self._handle.identity, "n_tokens": n}, state.data)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replace what the session holds by the content of a file that `save` wrote.

        Later results have the same bits as if the tokens had been fed. Raises OptionError if the backend is
        not the C core, and ModelFileError if the file is missing, damaged, or from another model or plan;
        the session then holds what it held before.
        """
        native = self._open()
        max_state_bytes = native.state_bytes(self._handle.config.n_ctx)
        n, state = read_session(Path(path), self._handle.identity, max_state_bytes)
        try:
            native.set_state(n, state)
        except (OptionError, TokenError):  # a wrong number of bytes, or a bad id
            raise ModelFileError(f"{Path(path).name}: does not hold a state of this model") from None

    def cancel(self) -> None:
        """End the call that another thread is making, if any; that call raises CancelledError.

        The attribute `cancelled` stays True, so that a generation also notices a `cancel` between two calls.
        """
        self.cancelled = True
        native = self._native
        if native is not None:
            native.cancel()

    def close(self) -> None:
        """Free the session's memory, once no call is running in it. A second close() does nothing."""
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
        return native.feed(ids, outputs) if trace is None else trace._feed(native, ids, outputs)


def batch_rows() -> int:
    """Return the maximum number of tokens in one pass over several sessions (gpt2c_batch_feed).

    n_ctx limits it too.
    """
    return bindings.enum("limit")["chunk_rows"]


def feed_batch(
    sessions: Sequence[Session], ids: Sequence[Sequence[int]], logits: Floats | None = None
) -> list[int]:
    """Append tokens to several sessions of one model in one pass: ids[i] to sessions[i].

    Without `logits`, return the greedy next id of each session. With `logits`, an array float32 [n_sessions,
    n_vocab], write the logits of each session's last token into it and return []. Each session's result has
    the same bits as that of a separate feed. The model's plan must have all six switches. Raises the errors
    of `Session.feed`, and OptionError for more tokens than one pass takes.
    """
    flat = np.fromiter((id for part in ids for id in part), np.int32)
    n_ids = np.array([len(part) for part in ids], np.uintp)
    next_ids = np.empty(len(sessions), np.int32) if logits is None else None
    binding = cast(Binding, sessions[0]._handle.runtime)  # only the C core has all six switches

    binding.batch_feed([session._open() for session in sessions], flat, n_ids, logits, next_ids)

    return [] if next_ids is None else [int(i) for i in next_ids]
