"""Sessions kept for later prompts: a prompt that begins like an earlier one continues from its session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .._checks import n_common
from ..session import Session


class PromptCache:
    """Keeps the n sessions that were used last, and frees older ones.

    Any number of threads may use the cache; each session is lent to one thread at a time.
    """

    def __init__(self, n: int, can_copy: bool) -> None:
        """n: the maximum number of sessions. can_copy: `Plan.copies_sessions` of the model."""
        self._max_sessions = n
        self._can_copy = can_copy
        self._sessions: list[Session] = []  # in the order of their last use
        self._lock = threading.Lock()

    @contextmanager
    def session(self, prompt: Sequence[int], new_session: Callable[[], Session]) -> Iterator[Session]:
        """Lend a session that holds as much of the prompt's beginning as any here, but never all of it.

        Afterwards the session is stored. If its use was cancelled or raised, it is closed instead.
        """
        session = self._take(prompt, new_session)
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

    def _take(self, prompt: Sequence[int], new_session: Callable[[], Session]) -> Session:
        with self._lock:
            known = [(n_common(prompt, session.ids), session) for session in self._sessions]
            n_best, best = max(known, key=lambda pair: pair[0], default=(0, None))
            n_best = min(n_best, len(prompt) - 1)
            if best is None or n_best == 0:
                return new_session()
            self._sessions.remove(best)
            if best.n_past <= n_best + 1 or not self._can_copy:
                best.rewind(n_best)
                best.cancelled = False  # a cancel() of other work may have set it while it was stored
                return best
            # It holds more tokens, which a later prompt may need: use a copy.
            self._sessions.append(best)
            session = new_session()
            session.copy_from(best, n_best)
            return session

    def _put(self, session: Session) -> None:
        if session.cancelled:
            session.close()
            return
        with self._lock:
            self._sessions.append(session)
            while len(self._sessions) > self._max_sessions:
                self._sessions.pop(0).close()
