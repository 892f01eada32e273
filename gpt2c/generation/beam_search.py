"""Beam search: the most probable continuation, looked for with several at once, all of which one pass serves.

The rules are those of transformers' generate(num_beams=k, do_sample=False). Of all continuations of the k
beams by a token the 2 k most probable are looked at. Those that end (with EOS, a stop string or the last
token that is wanted) are finished if they are among the first k, and the k finished ones with the best scores
are kept; the first k of the others are the next beams. A score is the sum of log probabilities divided
by the number of new tokens to the power of length_penalty. All is over when no beam is expected to reach the
least of k finished scores.

Each beam has a session. One whose beam was given up takes over another's tokens; those that it holds
already are not copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._checks import n_common
from ..errors import CancelledError, OptionError
from ..options import Plan
from ..session import Session, batch_rows, feed_batch
from .continuation import Beam, Continuation, Source, Token
from .sampling import NO_TOKEN_LEFT
from .settings import GenerationSettings


class _Path(NamedTuple):
    """New tokens and the sum of their log probabilities; it goes on from the beam of that number."""

    logprob: float
    beam: int
    tokens: list[Token]


class _Finished(NamedTuple):
    score: float
    tokens: list[Token]


def beam_search(settings: GenerationSettings, new_session: Callable[[], Session], plan: Plan) -> Source:
    """The tokens of the best continuation; all those found become the `beams` of the Continuation."""

    def tokens(session: Session, row: Continuation) -> Iterator[Token]:
        with ExitStack() as stack:
            sessions = _Sessions(session, lambda: stack.enter_context(new_session()), plan, row)
            found = _Search(settings, row, sessions).run()
        row.beams = [_as_beam(row, finished) for finished in found]
        yield from found[0].tokens

    return tokens


def _as_beam(row: Continuation, finished: _Finished) -> Beam:
    alone = row.afresh()
    for token in finished.tokens:
        alone.take(token)
    alone.finish()
    completion = alone.completion()
    return Beam(completion.text, completion.ids, completion.finish_reason, finished.score)


class _Search:
    """Which paths go on, and which are finished."""

    def __init__(self, settings: GenerationSettings, row: Continuation, sessions: _Sessions) -> None:
        self._settings = settings
        self._row = row
        self._sessions = sessions
        self._finished: list[_Finished] = []  # the best comes first

    def run(self) -> list[_Finished]:
        """The best continuations, num_beams of them if there are so many; the best comes first."""
        n = self._settings.num_beams
        beams, logits = [_Path(0.0, 0, [])], self._sessions.feed_prompt()
        while True:
            paths = self._continued(beams, logits)
            ends = [self._row.ends_with(path.tokens) for path in paths]
            self._finish([path for path, is_end in zip(paths[:n], ends, strict=False) if is_end])
            beams = [path for path, is_end in zip(paths, ends, strict=True) if not is_end][:n]
            if not beams or self._is_over(beams[0]):
                break
            logits = self._sessions.feed(beams)
        if not self._finished:
            raise OptionError(NO_TOKEN_LEFT)
        return self._finished

    def _continued(self, beams: Sequence[_Path], logits: NDArray[np.float32]) -> list[_Path]:
        """The 2 num_beams most probable paths that are longer by a token, the most probable first."""
        now, chooser = perf_counter(), self._row.chooser
        n = 2 * self._settings.num_beams
        found: list[tuple[float, int, int]] = []
        for i, (beam, row) in enumerate(zip(beams, logits, strict=True)):
            logprobs = chooser.logprobs(row, self._row.context.ids + [token.id for token in beam.tokens])
            likeliest = np.argpartition(logprobs, -min(n, row.size))[-n:]
            found += ((-(beam.logprob + float(logprobs[id])), i, int(id)) for id in likeliest)
        return [
            _Path(-negated, i, [*beams[i].tokens, chooser.token(id, logits[i])._replace(at=now)])
            for negated, i, id in sorted(found)[:n]
            if math.isfinite(negated)
        ]

    def _finish(self, paths: Sequence[_Path]) -> None:
        found = [_Finished(self._score(path.logprob, len(path.tokens)), path.tokens) for path in paths]
        best = sorted([*self._finished, *found], key=lambda finished: finished.score, reverse=True)
        self._finished = best[: self._settings.num_beams]

    def _is_over(self, best: _Path) -> bool:
        """Whether no beam is expected to become one of the best; `best` is the most probable of them."""
        if len(self._finished) < self._settings.num_beams:
            return False
        early = self._settings.early_stopping
        is_longest_best = early == "never" and self._settings.length_penalty > 0
        n = self._row.n_left if is_longest_best else len(best.tokens)
        return early is True or self._score(best.logprob, n) <= self._finished[-1].score

    def _score(self, logprob: float, n: int) -> float:
        return float(logprob / n**self._settings.length_penalty)


class _Sessions:
    """A session for each beam."""

    def __init__(
        self, first: Session, new_session: Callable[[], Session], plan: Plan, row: Continuation
    ) -> None:
        self._new_session = new_session
        self._can_copy = plan.copies_sessions
        self._most_rows = min(batch_rows(), row.config.n_ctx) if plan.is_incremental else 1
        self._row = row
        self._free: list[Session] = []
        self._of_beams = [first]

    def feed_prompt(self) -> NDArray[np.float32]:
        """Logits [1, n_vocab] behind the prompt."""
        began = perf_counter()
        [session] = self._of_beams
        logits = session.feed(self._row.context.pending(session))
        self._row.work.prefill_ms = (perf_counter() - began) * 1e3
        self._row.work.count_pass()
        return logits[None]

    def feed(self, beams: Sequence[_Path]) -> NDArray[np.float32]:
        """Logits [len(beams), n_vocab] behind paths, which are continued beams of the last feed."""
        if any(session.cancelled for session in self._of_beams):
            raise CancelledError("the generation was cancelled")
        ids = [self._row.context.ids + [token.id for token in beam.tokens] for beam in beams]
        self._take_over([beam.beam for beam in beams], ids)
        rows = [of_beam[session.n_past :] for session, of_beam in zip(self._of_beams, ids, strict=True)]
        logits = np.empty((len(beams), self._row.config.n_vocab), np.float32)
        for begin in range(0, len(beams), self._most_rows):
            part = slice(begin, begin + self._most_rows)
            if self._most_rows > 1:
                feed_batch(self._of_beams[part], rows[part], logits[part])
            else:
                self._of_beams[begin].feed(rows[begin], out=logits[begin])
            self._row.work.count_pass()
        return logits

    def _take_over(self, parents: Sequence[int], ids: Sequence[list[int]]) -> None:
        """Give each path a session that holds all of its tokens but the last one, or less of them where
        sessions cannot be copied. The first path of a parent keeps that one's session."""
        old = self._of_beams
        self._free += (session for i, session in enumerate(old) if i not in parents)
        self._of_beams = []
        for n, (parent, path) in enumerate(zip(parents, ids, strict=True)):
            session = old[parent]
            if parent in parents[:n]:
                session = self._free.pop() if self._free else self._new_session()
                if self._can_copy:
                    session.copy_from(old[parent], len(path) - 1)
                else:
                    session.rewind(n_common(session.ids, path[:-1]))
            self._of_beams.append(session)
