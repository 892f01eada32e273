"""Many prompts at once: one forward pass serves all sequences that are running.

Continuous batching: when a sequence is finished, the next prompt takes its slot at once. The tokens of that
prompt go through in the same passes as the new tokens of the other sequences. Prompts are started in the
order of their tokens, which brings those with a common beginning next to each other; what a prompt has in
common with the one before it is copied, not computed again.

Each sequence gets the same bits as it would get alone: see the row contract in native/kernels.h.
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
class _Slot:
    """A session, and the sequence that runs in it now; None once that sequence is finished."""

    session: Session
    sequence: Continuation | None = None


def run_batch(
    new_session: Callable[[], Session],
    sequences: Sequence[Continuation],
    n_slots: int,
    n_ctx: int,
    n_vocab: int,
) -> None:
    """Run all sequences to their ends, up to n_slots at a time.

    new_session: makes a session of a model whose plan has all six switches.
    """
    for sequence in sequences:
        sequence.start()
    with ExitStack() as stack:
        max_tokens = min(batch_rows(), n_ctx)
        batch = _Batch(
            lambda: stack.enter_context(new_session()),
            sequences,
            min(n_slots, max_tokens),
            max_tokens,
            n_vocab,
        )
        try:
            batch.run()
        except CancelledError:
            for sequence in sequences:
                sequence.reason = sequence.reason or "cancelled"
    for sequence in sequences:
        sequence.finish()


class _Part(NamedTuple):
    """What one pass computes for one sequence: the tokens `ids`.

    is_complete: these are all of its pending tokens, so the pass yields a new token.
    """

    slot: _Slot
    sequence: Continuation
    ids: list[int]
    is_complete: bool


class _Batch:
    """The sequences that wait, the slots in which the others run, and the passes that serve them.

    max_tokens: the maximum number of tokens in one pass.
    """

    def __init__(
        self,
        new_session: Callable[[], Session],
        sequences: Sequence[Continuation],
        n_slots: int,
        max_tokens: int,
        n_vocab: int,
    ) -> None:
        self._new_session = new_session
        unfinished = (sequence for sequence in sequences if sequence.reason is None)
        self._waiting = sorted(unfinished, key=_window, reverse=True)
        self._slots: list[_Slot] = []
        self._n_slots = n_slots
        self._max_tokens = max_tokens
        self._newest: _Slot | None = None  # the slot of the prompt that was begun last
        self._newest_prompt: list[int] = []
        needs_logits = any(sequence.chooser.needs_logits for sequence in sequences)
        self._logits = np.empty((n_slots, n_vocab), np.float32) if needs_logits else None

    def run(self) -> None:
        """Make passes until every sequence is finished. Raises CancelledError."""
        while True:
            while self._waiting and self._begin(self._waiting[-1]):
                self._waiting.pop()
            active = [slot for slot in self._slots if slot.sequence is not None]
            if not active:
                return
            if any(slot.session.cancelled for slot in active):
                raise CancelledError("the generation was cancelled")
            self._step(active)

    # ---- A prompt begins ----

    def _begin(self, sequence: Continuation) -> bool:
        """Give a waiting sequence a slot, with what is already computed of its prompt.

        Return False if it must wait: no slot is free, or more of its prompt will be computed soon.
        """
        slot = next((slot for slot in self._slots if slot.sequence is None), None)
        if slot is None and len(self._slots) == self._n_slots:
            return False
        prompt = _window(sequence)
        n_done, n_coming = self._shared_with_newest(prompt)
        if n_coming > n_done:
            return False  # after some passes that part can be copied
        if slot is None:
            slot = _Slot(self._new_session())
            self._slots.append(slot)
        if slot is self._newest or self._newest is None:
            slot.session.rewind(n_done)
        else:
            slot.session.copy_from(self._newest.session, n_done)
        sequence.work.reused_tokens = n_done
        slot.sequence, self._newest, self._newest_prompt = sequence, slot, prompt
        return True

    def _shared_with_newest(self, prompt: list[int]) -> tuple[int, int]:
        """How many of a prompt's first tokens the newest slot holds now, and will hold after its prompt."""
        if self._newest is None:
            return 0, 0
        max_shared = len(prompt) - 1  # the last token is always fed, to get its logits
        n_done = n_common(prompt, self._newest.session.ids)
        newest = self._newest.sequence
        still_fed = newest is not None and newest.n_new == 0
        n_coming = n_common(prompt, self._newest_prompt) if still_fed else 0
        return min(n_done, max_shared), min(n_coming, max_shared)

    # ---- A pass ----

    def _step(self, active: list[_Slot]) -> None:
        """Make one pass: the new token of each sequence that has begun, and as many prompt tokens as fit."""
        parts = list(self._parts(active))
        began = perf_counter()
        tokens = [self._alone(parts[0])] if len(parts) == 1 else self._together(parts)
        took_ms = (perf_counter() - began) * 1e3
        for part, token in zip(parts, tokens, strict=True):
            sequence = part.sequence
            sequence.work.count_pass(len(parts))
            if sequence.n_new == 0:
                sequence.work.prefill_ms += took_ms
            if token is not None:
                sequence.take(token)
                if sequence.reason is not None:
                    part.slot.sequence = None

    def _parts(self, active: list[_Slot]) -> Iterator[_Part]:
        """Divide the tokens of a pass among the slots, those with the fewest pending tokens first."""
        waiting = [
            _Part(slot, slot.sequence, slot.sequence.context.pending(slot.session), True)
            for slot in active
            if slot.sequence is not None
        ]
        n_left = self._max_tokens
        for part in sorted(waiting, key=lambda part: len(part.ids)):
            if len(part.ids) <= n_left:
                yield part
            elif n_left > 0:
                yield part._replace(ids=part.ids[:n_left], is_complete=False)
            n_left -= min(n_left, len(part.ids))

    def _alone(self, part: _Part) -> Token | None:
        """Run the only part of a pass; return the new token if the part is complete."""
        session = part.slot.session
        if part.is_complete:
            return part.sequence.chooser.next_token(session, part.ids, part.sequence.context.ids)
        session.feed_hidden(part.ids)
        return None

    def _together(self, parts: list[_Part]) -> list[Token | None]:
        """Run all parts in one pass; return the new token of each complete part, else None."""
        logits = None if self._logits is None else self._logits[: len(parts)]
        next_ids = feed_batch([part.slot.session for part in parts], [part.ids for part in parts], logits)
        if logits is None:
            return [Token(id) if part.is_complete else None for part, id in zip(parts, next_ids, strict=True)]
        return [
            part.sequence.chooser.choose(row, part.sequence.context.ids) if part.is_complete else None
            for part, row in zip(parts, logits, strict=True)
        ]


def _window(sequence: Continuation) -> list[int]:
    return sequence.context.window()
