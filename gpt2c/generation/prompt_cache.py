"""Sessions kept from one generation to the next, so that a prompt that begins like an earlier one goes on
from there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .._checks import n_common
from ..session import Session


class PromptCache:
    """The sessions used last, at most n of them; of more, the one that was used longest ago goes.

    Any number of threads may use one; a session is lent to one of them at a time.
    """

    def __init__(self, n: int, can_copy: bool) -> None:
        """can_copy: `Plan.copies_sessions` of the model."""
        self._most = n
        self._can_copy = can_copy
        self._sessions: list[Session] = []  # the one used last comes last
        self._lock = threading.Lock()

    @contextmanager
    def session(self, prompt: Sequence[int], make: Callable[[], Session]) -> Iterator[Session]:
        """A session that holds as much of the prompt's beginning as is known, but never all of it."""
        session = self._take(prompt, make)
        try:
            yield session
        except BaseException:
            session.close()
            raise
        self._put(session)

    def clear(self) -> None:
        """Free all sessions."""
        with self._lock:
            while self._sessions:
                self._sessions.pop().close()

    def _take(self, prompt: Sequence[int], make: Callable[[], Session]) -> Session:
        with self._lock:
            known = [(n_common(prompt, session.ids), session) for session in self._sessions]
            n_best, best = max(known, key=lambda pair: pair[0], default=(0, None))
            n_best = min(n_best, len(prompt) - 1)
            if best is None or n_best == 0:
                return make()
            self._sessions.remove(best)
            if best.n_past <= n_best + 1 or not self._can_copy:
                best.rewind(n_best)
                best.cancelled = False  # by a cancel() of other work, while it lay here
                return best
            # It holds more, which another prompt may want.
            self._sessions.append(best)
            session = make()
            session.copy_from(best, n_best)
            return session

    def _put(self, session: Session) -> None:
        if session.cancelled:
            session.close()
            return
        with self._lock:
            self._sessions.append(session)
            while len(self._sessions) > self._most:
                self._sessions.pop(0).close()
