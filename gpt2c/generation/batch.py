"""Many prompts at once: every forward pass serves all that are under way.

Continuous batching: a finished continuation's place is taken by the next prompt at once, whose tokens go
through in the same passes as the others' new ones. What a prompt has in common with the one before it is
not computed again. Prompts are taken in the order of their tokens, so that what any two have in common
with each other lies in between them as well.

Each continuation gets the bits that it would get alone: the row contract of native/kernels.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np

from .._checks import n_common
from ..errors import CancelledError
from ..session import Session, batch_rows, feed_batch
from .continuation import Continuation, Token


@dataclass
class _Place:
    """A session, and the continuation that it works for now; None: the last one is finished."""

    session: Session
    row: Continuation | None = None


def run_batch(
    new_session: Callable[[], Session], rows: Sequence[Continuation], n_places: int, n_ctx: int, n_vocab: int
) -> None:
    """Run all continuations to their ends, up to n_places at a time.

    new_session: of a model whose plan has all six switches.
    """
    for row in rows:
        row.start()
    with ExitStack() as stack:
        most = min(batch_rows(), n_ctx)
        batch = _Batch(lambda: stack.enter_context(new_session()), rows, min(n_places, most), most, n_vocab)
        try:
            batch.run()
        except CancelledError:
            for row in rows:
                row.reason = row.reason or "cancelled"
    for row in rows:
        row.finish()


class _Part(NamedTuple):
    """What a pass does for one continuation; is_all: a new token comes of it."""

    place: _Place
    row: Continuation
    ids: list[int]
    is_all: bool


class _Batch:
    def __init__(
        self,
        new_session: Callable[[], Session],
        rows: Sequence[Continuation],
        n_places: int,
        most_tokens: int,
        n_vocab: int,
    ) -> None:
        self._new_session = new_session
        self._waiting = sorted((row for row in rows if row.reason is None), key=_window, reverse=True)
        self._places: list[_Place] = []
        self._n_places = n_places
        self._most_tokens = most_tokens
        self._newest: _Place | None = None  # the place of the prompt that was begun last
        self._newest_prompt: list[int] = []
        needs_logits = any(row.chooser.needs_logits for row in rows)
        self._logits = np.empty((n_places, n_vocab), np.float32) if needs_logits else None

    def run(self) -> None:
        while True:
            while self._waiting and self._begin(self._waiting[-1]):
                self._waiting.pop()
            active = [place for place in self._places if place.row is not None]
            if not active:
                return
            if any(place.session.cancelled for place in active):
                raise CancelledError("the generation was cancelled")
            self._step(active)

    # ---- A prompt begins ----

    def _begin(self, row: Continuation) -> bool:
        """Give the next prompt a place, and what is computed of it already; False: not yet."""
        place = next((place for place in self._places if place.row is None), None)
        if place is None and len(self._places) == self._n_places:
            return False
        prompt = _window(row)
        done, coming = self._shared_with_newest(prompt)
        if coming > done:
            return False  # soon it need not be computed
        if place is None:
            place = _Place(self._new_session())
            self._places.append(place)
        if place is self._newest or self._newest is None:
            place.session.rewind(done)
        else:
            place.session.copy_from(self._newest.session, done)
        row.work.reused_tokens = done
        place.row, self._newest, self._newest_prompt = row, place, prompt
        return True

    def _shared_with_newest(self, prompt: list[int]) -> tuple[int, int]:
        """How many of a prompt's first tokens the newest place holds, and how many it is going to."""
        if self._newest is None:
            return 0, 0
        last = len(prompt) - 1  # which is fed in any case: its logits are wanted
        done = n_common(prompt, self._newest.session.ids)
        newest = self._newest.row
        still_fed = newest is not None and newest.n_new == 0
        coming = n_common(prompt, self._newest_prompt) if still_fed else 0
        return min(done, last), min(coming, last)

    # ---- A pass ----

    def _step(self, active: list[_Place]) -> None:
        """One pass: the new token of each continuation that has begun, and as much of prompts as there is
        room for."""
        parts = list(self._parts(active))
        began = perf_counter()
        tokens = [self._alone(parts[0])] if len(parts) == 1 else self._together(parts)
        took_ms = (perf_counter() - began) * 1e3
        for part, token in zip(parts, tokens, strict=True):
            row = part.row
            row.work.count_pass(len(parts))
            if row.n_new == 0:
                row.work.prefill_ms += took_ms
            if token is not None:
                row.take(token)
                if row.reason is not None:
                    part.place.row = None

    def _parts(self, active: list[_Place]) -> Iterator[_Part]:
        """Single tokens first."""
        waiting = [
            _Part(place, place.row, place.row.context.pending(place.session), True)
            for place in active
            if place.row is not None
        ]
        left = self._most_tokens
        for part in sorted(waiting, key=lambda part: len(part.ids)):
            if len(part.ids) <= left:
                yield part
            elif left > 0:
                yield part._replace(ids=part.ids[:left], is_all=False)
            left -= min(left, len(part.ids))

    def _alone(self, part: _Part) -> Token | None:
        session = part.place.session
        if part.is_all:
            return part.row.chooser.next_of(session, part.ids, part.row.context.ids)
        session.feed_hidden(part.ids)
        return None

    def _together(self, parts: list[_Part]) -> list[Token | None]:
        logits = None if self._logits is None else self._logits[: len(parts)]
        next_ids = feed_batch([part.place.session for part in parts], [part.ids for part in parts], logits)
        if logits is None:
            return [Token(id) if part.is_all else None for part, id in zip(parts, next_ids, strict=True)]
        return [
            part.row.chooser.choose(row_logits, part.row.context.ids) if part.is_all else None
            for part, row_logits in zip(parts, logits, strict=True)
        ]


def _window(row: Continuation) -> list[int]:
    return row.context.window()
