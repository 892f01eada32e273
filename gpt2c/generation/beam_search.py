"""Beam search: follow several continuations at once to find the most probable one.

The rules are those of transformers' generate(num_beams=k, do_sample=False). One pass serves all k beams.
Each step extends every beam by every token and looks at the 2 k most probable results. Those that end (with
EOS, a stop string or the last token allowed) are finished if they are among the first k, and the search keeps
the k finished ones with the best scores. The first k that do not end are the next beams. A score is the sum
of log probabilities divided by (number of new tokens) ** length_penalty. The search is over when k are
finished and no beam is expected to get a better score than the worst of them.

Each beam has a session. When a beam is given up, another beam can take over its session: the tokens that the
two beams have in common are not copied again.
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
    """A beam, or a candidate for one: new tokens and the sum of their log probabilities.

    beam: the index of the beam that this path extends by a token.
    """

    logprob: float
    beam: int
    tokens: list[Token]


class _Finished(NamedTuple):
    """A path that has ended, and its score."""

    score: float
    tokens: list[Token]


def beam_search(settings: GenerationSettings, new_session: Callable[[], Session], plan: Plan) -> Source:
    """Return a source of the tokens of the best continuation.

    It sets the `beams` of the sequence to all continuations that it found.
    """

    def tokens(session: Session, sequence: Continuation) -> Iterator[Token]:
        with ExitStack() as stack:
            sessions = _Sessions(session, lambda: stack.enter_context(new_session()), plan, sequence)
            found = _Search(settings, sequence, sessions).run()
        sequence.beams = [_as_beam(sequence, finished) for finished in found]
        yield from found[0].tokens

    return tokens


def _as_beam(sequence: Continuation, finished: _Finished) -> Beam:
    alone = sequence.restarted()
    for token in finished.tokens:
        alone.take(token)
    alone.finish()
    completion = alone.completion()
    return Beam(completion.text, completion.ids, completion.finish_reason, finished.score)


class _Search:
    """Decides which paths are extended and which are finished."""

    def __init__(self, settings: GenerationSettings, sequence: Continuation, sessions: _Sessions) -> None:
        self._settings = settings
        self._sequence = sequence
        self._sessions = sessions
        self._finished: list[_Finished] = []  # the best one first

    def run(self) -> list[_Finished]:
        """Return up to num_beams of the best continuations, the best one first."""
        n = self._settings.num_beams
        beams, logits = [_Path(0.0, 0, [])], self._sessions.feed_prompt()
        while True:
            paths = self._continued(beams, logits)
            ends = [self._sequence.ends_with(path.tokens) for path in paths]
            self._finish([path for path, is_end in zip(paths[:n], ends, strict=False) if is_end])
            beams = [path for path, is_end in zip(paths, ends, strict=True) if not is_end][:n]
            if not beams or self._is_over(beams[0]):
                break
            logits = self._sessions.feed(beams)
        if not self._finished:
            raise OptionError(NO_TOKEN_LEFT)
        return self._finished

    def _continued(self, beams: Sequence[_Path], logits: NDArray[np.float32]) -> list[_Path]:
        """Extend the beams by a token and return the 2 num_beams most probable paths, in order."""
        now, chooser = perf_counter(), self._sequence.chooser
        n = 2 * self._settings.num_beams
        found: list[tuple[float, int, int]] = []
        for i, (beam, row) in enumerate(zip(beams, logits, strict=True)):
            logprobs = chooser.logprobs(row, self._sequence.context.ids + [token.id for token in beam.tokens])
            most_probable = np.argpartition(logprobs, -min(n, row.size))[-n:]
            found += ((-(beam.logprob + float(logprobs[id])), i, int(id)) for id in most_probable)
        return [
            _Path(-negated, i, [*beams[i].tokens, chooser.token(id, logits[i])._replace(at=now)])
            for negated, i, id in sorted(found)[:n]
            if math.isfinite(negated)
        ]

    def _finish(self, paths: Sequence[_Path]) -> None:
        """Add paths that have ended to the finished ones, and keep the best num_beams of those."""
        found = [_Finished(self._score(path.logprob, len(path.tokens)), path.tokens) for path in paths]
        best = sorted([*self._finished, *found], key=lambda finished: finished.score, reverse=True)
        self._finished = best[: self._settings.num_beams]

    def _is_over(self, best: _Path) -> bool:
        """Whether no beam is expected to get a better score than the finished ones.

        best: the most probable beam.
        """
        if len(self._finished) < self._settings.num_beams:
            return False
        early = self._settings.early_stopping
        is_longest_best = early == "never" and self._settings.length_penalty > 0
        n = self._sequence.n_left if is_longest_best else len(best.tokens)
        return early is True or self._score(best.logprob, n) <= self._finished[-1].score

    def _score(self, logprob: float, n: int) -> float:
        return float(logprob / n**self._settings.length_penalty)


class _Sessions:
    """The sessions of the beams, one each, and the passes that serve them."""

    def __init__(
        self, first: Session, new_session: Callable[[], Session], plan: Plan, sequence: Continuation
    ) -> None:
        self._new_session = new_session
        self._can_copy = plan.copies_sessions
        self._max_beams_per_pass = min(batch_rows(), sequence.config.n_ctx) if plan.is_incremental else 1
        self._sequence = sequence
        self._free: list[Session] = []
        self._used = [first]  # by beam

    def feed_prompt(self) -> NDArray[np.float32]:
        """Feed the prompt and return the logits [1, n_vocab] after it."""
        began = perf_counter()
        [session] = self._used
        logits = session.feed(self._sequence.context.pending(session))
        self._sequence.work.prefill_ms = (perf_counter() - began) * 1e3
        self._sequence.work.count_pass()
        return logits[None]

    def feed(self, beams: Sequence[_Path]) -> NDArray[np.float32]:
        """Feed the last token of each beam and return the logits [len(beams), n_vocab] after it.

        Each beam extends one of the beams of the last feed. Raises CancelledError.
        """
        if any(session.cancelled for session in self._used):
            raise CancelledError("the generation was cancelled")
        ids = [self._sequence.context.ids + [token.id for token in beam.tokens] for beam in beams]
        self._assign([beam.beam for beam in beams], ids)
        pending = [path[session.n_past :] for session, path in zip(self._used, ids, strict=True)]
        logits = np.empty((len(beams), self._sequence.config.n_vocab), np.float32)
        for begin in range(0, len(beams), self._max_beams_per_pass):
            part = slice(begin, begin + self._max_beams_per_pass)
            if self._max_beams_per_pass > 1:
                feed_batch(self._used[part], pending[part], logits[part])
            else:
                self._used[begin].feed(pending[begin], out=logits[begin])
            self._sequence.work.count_pass()
        return logits

    def _assign(self, parents: Sequence[int], ids: Sequence[list[int]]) -> None:
        """Give each path a session that holds all of its tokens but the last.

        The first path of a parent gets the parent's session. Where sessions cannot be copied, the others get
        a session with fewer of their tokens.
        """
        old = self._used
        self._free += (session for i, session in enumerate(old) if i not in parents)
        self._used = []
        for n, (parent, path) in enumerate(zip(parents, ids, strict=True)):
            session = old[parent]
            if parent in parents[:n]:
                session = self._free.pop() if self._free else self._new_session()
                if self._can_copy:
                    session.copy_from(old[parent], len(path) - 1)
                else:
                    session.rewind(n_common(session.ids, path[:-1]))
            self._used.append(session)
