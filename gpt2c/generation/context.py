"""Which tokens of a sequence a model sees, when there may be more of them than its context has room for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Holder(Protocol):
    """What a context asks of a session."""

    @property
    def n_past(self) -> int: ...
    def rewind(self, n_past: int) -> None: ...


class Context:
    """The tokens of a sequence so far, and the window of them that a model sees.

    The window is all tokens until they are more than n_ctx. Then it slides: the first n_ctx // 8 tokens
    stay, the oldest behind them are dropped, and n_ctx // 2 are left in all. GPT-2 counts positions from the
    window's beginning, so what moved is computed again, once every n_ctx / 2 tokens.

    ids: all tokens, those dropped included. n_dropped: how many the window lacks.
    """

    def __init__(self, ids: Iterable[int], n_ctx: int) -> None:
        self.ids = list(ids)
        self.n_dropped = 0
        self._n_ctx = n_ctx
        self._n_first = n_ctx // 8
        self._n_left = max(1, n_ctx // 2)
        self._slid = False
        self._slide()
        self._slid = False  # no session has seen it otherwise

    def append(self, token: int) -> None:
        """One more token, which the window has room for or slides for."""
        self.ids.append(token)
        self._slide()

    def window(self) -> list[int]:
        """The tokens that the model sees."""
        if not self.n_dropped:
            return self.ids[:]
        return self.ids[: self._n_first] + self.ids[self._n_first + self.n_dropped :]

    @property
    def room(self) -> int:
        """How many tokens the window can take before it slides."""
        return self._n_ctx - (len(self.ids) - self.n_dropped)

    def pending(self, session: Holder) -> list[int]:
        """What to feed for the session to hold the window; what it holds of an earlier one is rewound.

        It must be the same session each time, and begin with a beginning of the window.
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
        if self.room < 0:
            self.n_dropped = len(self.ids) - self._n_left
            self._slid = True
