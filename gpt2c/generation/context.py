"""The window of a sequence that the model sees, when the sequence is longer than the model's context."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Holder(Protocol):
    """The part of a session that a context uses."""

    @property
    def n_past(self) -> int: ...
    def rewind(self, n_past: int) -> None: ...


class Context:
    """The tokens of a sequence so far, and the window of them that the model sees.

    The window holds all tokens as long as they fit into n_ctx. When they no longer fit, it slides: the first
    n_ctx // 8 tokens stay, the oldest tokens after those are dropped, and n_ctx // 2 tokens remain in total.
    GPT-2 counts positions from the start of the window, so the tokens that moved are computed again; this
    happens once every n_ctx / 2 tokens.

    ids: all tokens, including those that the window dropped. n_dropped: how many tokens it dropped.
    """

    def __init__(self, ids: Iterable[int], n_ctx: int) -> None:
        self.ids = list(ids)
        self.n_dropped = 0
        self._n_ctx = n_ctx
        self._n_first = n_ctx // 8
        self._n_remaining = max(1, n_ctx // 2)
        self._slid = False
        self._slide()
        self._slid = False  # no session has seen an earlier window

    def append(self, token: int) -> None:
        """Add a token; the window slides if it is full."""
        self.ids.append(token)
        self._slide()

    def window(self) -> list[int]:
        """Return the tokens that the model sees."""
        if not self.n_dropped:
            return self.ids[:]
        return self.ids[: self._n_first] + self.ids[self._n_first + self.n_dropped :]

    @property
    def n_free(self) -> int:
        """How many more tokens fit before the window slides."""
        return self._n_ctx - (len(self.ids) - self.n_dropped)

    def pending(self, session: Holder) -> list[int]:
        """Return the tokens to feed so that the session holds the window.

        If the window has slid, this first rewinds the session to the tokens that did not move. It must be
        called with the same session each time, and at first that may only hold a beginning of the window.
        """
        if self._slid:
            session.rewind(min(session.n_past, self._n_first))
            self._slid = False
        n_past = session.n_past
        return self.ids[n_past + self.n_dropped :] if n_past >= self._n_first else self.window()[n_past:]

    def truncate(self, n: int, session: Holder) -> None:
        """Forget all but the first n tokens, in the session too."""
        del self.ids[n:]
        if n < self._n_first + self.n_dropped:
            self.n_dropped, self._slid = 0, False
            session.rewind(min(session.n_past, self._n_first, n))
            self._slide()
        else:
            session.rewind(min(session.n_past, n - self.n_dropped))

    def _slide(self) -> None:
        if self.n_free < 0:
            self.n_dropped = len(self.ids) - self._n_remaining
            self._slid = True
