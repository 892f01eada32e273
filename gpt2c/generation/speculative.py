"""Speculative decoding: several guesses checked in one pass, with the result of plain generation.

A pass over a few tokens takes little longer than over one, since reading the weights is what takes time. So
a draft guesses the next tokens, the model runs all of them at once, and its own choice behind each says
how many were right (Leviathan, Kalman, Matias 2023; Chen et al. 2023). The model's choices are what is given
out, the guesses only decide how many of them a pass yields: greedily or sampled, the ids are those of plain
generation. When sampling, a draft model's guess takes the very random number that the model's choice will
take, so that the two agree as far as their distributions do; each id given out is drawn from the model's own
distribution, whatever the draft.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from ..session import Session
from .context import Context
from .continuation import Chooser, Continuation, Source, Token, plain_step

if TYPE_CHECKING:
    from .settings import Draft


class Drafter(Protocol):
    """Guesses tokens."""

    def follow(self, ids: list[int]) -> None:
        """Take note of all tokens so far."""

    def guess(self, n: int) -> list[int]:
        """Up to n tokens that may come next."""


class NgramDrafter:
    """Guesses that what followed the last few tokens before follows them again (prompt lookup)."""

    def __init__(self, longest: int = 3) -> None:
        self._longest = longest
        self._ids: list[int] = []
        self._follower: dict[tuple[int, ...], int] = {}  # n-gram: where what last followed it begins

    def follow(self, ids: list[int]) -> None:
        for end in range(max(len(self._ids), 1), len(ids)):
            for size in range(1, min(self._longest, end) + 1):
                self._follower[tuple(ids[end - size : end])] = end
        self._ids = ids[:]

    def guess(self, n: int) -> list[int]:
        for size in range(min(self._longest, len(self._ids)), 0, -1):
            begin = self._follower.get(tuple(self._ids[-size:]))
            if begin is not None:
                return self._ids[begin : begin + n]
        return []


class ModelDrafter:
    """Guesses what another model would choose in the same way."""

    def __init__(self, session: Session, n_ctx: int, chooser: Chooser) -> None:
        self._session = session
        self._context = Context([], n_ctx)
        self._chooser = chooser

    def follow(self, ids: list[int]) -> None:
        held = self._context.ids
        n = min(len(held), len(ids) - 1)
        while held[:n] != ids[:n]:  # where guesses were wrong: never more than a few steps back
            n -= 1
        self._context.truncate(n, self._session)
        for token in ids[n:]:
            self._context.append(token)
        behind = self._context.pending(self._session)[:-2]
        if behind:
            self._session.feed_greedy(behind)

    def guess(self, n: int) -> list[int]:
        ids, n_known = self._context.ids, len(self._context.ids)
        sampler = None if self._chooser.is_greedy else self._chooser.sampler()
        for _ in range(n):
            pending = self._context.pending(self._session)
            if sampler is None:
                token = self._session.feed_greedy(pending)
            else:
                token = sampler.choose(self._session.feed(pending), ids)
            self._context.append(token)
        return ids[n_known:]


class DraftLength:
    """How many tokens to guess in the next round, from how long rounds took and how many guesses held.

    A round of k guesses takes k d + v(k) and yields 1 + a + a^2 + ... + a^k tokens if each is right with
    probability a. The k is taken that gives the most tokens a second, or none at all if a plain pass gives
    more. Then a round is only tried now and again: what rounds have lost so far against plain passes (the
    draft's catching up included) and what the next trial is expected to lose stay below a hundredth of the
    time, and a plain pass and a half to begin with. Times are running means.

    fixed: always so many. cost: what a pass of the draft is expected to take, in passes of the model.
    prefill_s: what the prompt took, which the draft has to catch up with before it can guess.
    """

    MOST = 8
    TRIAL = 2  # guesses, where nothing is known
    CHECK_COST = 0.3  # what checking takes above a plain pass, likewise
    MOST_LOST = 0.01
    CREDIT = 1.5  # plain passes
    LEAST_GAIN = 1.05  # below, it may be noise
    RECENT = 0.15  # weight of the newest time in a mean
    FADE = 0.95  # of what is known about guesses, a round

    def __init__(self, fixed: int | None = None, cost: float = 0.0, prefill_s: float = 0.0) -> None:
        self._fixed = fixed
        self._cost, self._prefill_s = cost, prefill_s
        self._plain_s: float | None = None
        self._guess_s = 0.0
        self._check_s: dict[int, float] = {}
        self._best = 0.0, 0  # most tokens a second, and with how many guesses: asked for at every token
        self._n_right, self._n_tried = 0.0, 0.0
        self._following_s = 0.0  # since the last round
        self._passed_s, self._lost_s = 0.0, 0.0
        self._last_lost_s: float | None = None  # in the last round

    def next(self) -> int:
        """How many tokens to guess now."""
        if self._fixed is not None:
            return self._fixed
        if self._plain_s is None:
            return 0  # a plain pass first, to know what one takes
        most_tokens_per_s, best = self._best
        if most_tokens_per_s * self._plain_s > self.LEAST_GAIN:
            return best
        expected_s = self._last_lost_s
        if expected_s is None:
            expected_s = self._cost * self._prefill_s
            expected_s += (self.TRIAL * self._cost + self.CHECK_COST) * self._plain_s
        most_s = self.CREDIT * self._plain_s + self.MOST_LOST * self._passed_s
        return self.TRIAL if self._lost_s + expected_s <= most_s else 0

    def saw_plain(self, seconds: float) -> None:
        """A plain pass took so long."""
        self._plain_s = self._mean(self._plain_s, seconds)
        self._passed_s += seconds

    def saw_following(self, seconds: float) -> None:
        """It took so long to take note of tokens that came without the draft."""
        self._following_s += seconds

    def saw_round(self, n_guessed: int, n_right: int, guess_s: float, check_s: float) -> None:
        """So many guesses were made, and so many held; how long guessing and checking took."""
        self._check_s[n_guessed] = self._mean(self._check_s.get(n_guessed), check_s)
        self._guess_s = self._mean(self._guess_s or None, guess_s / n_guessed)
        self._n_right = self._n_right * self.FADE + n_right
        self._n_tried = self._n_tried * self.FADE + min(n_right + 1, n_guessed)
        self._best = max((self._tokens_per_s(k), k) for k in range(1, self.MOST + 1))
        if self._plain_s is not None:
            # A plain pass is never the longer one: if it seems so, the machine has become faster since.
            self._plain_s = min(self._plain_s, check_s)
            took_s = self._following_s + guess_s + check_s
            self._last_lost_s = took_s - (n_right + 1) * self._plain_s
            self._lost_s = max(0.0, self._lost_s + self._last_lost_s)
            self._passed_s += took_s
        self._following_s = 0.0

    def _mean(self, mean: float | None, new: float) -> float:
        return new if mean is None else mean + self.RECENT * (new - mean)

    def _tokens_per_s(self, k: int) -> float:
        a = (self._n_right + 1) / (self._n_tried + 2)  # Laplace's rule of succession
        nearest = min(self._check_s, key=lambda known: abs(known - k))
        return sum(a**i for i in range(k + 1)) / (k * self._guess_s + self._check_s[nearest])


def speculative(draft: Draft, n_fixed: int | None, weight_bytes: int) -> Source:
    """Tokens checked several at a time. draft: "ngram" or a model; n_fixed: how many, None to adapt;
    weight_bytes: of the model that checks."""

    def tokens(session: Session, row: Continuation) -> Iterator[Token]:
        first = plain_step(session, row)
        yield first
        prefill_s = row.work.prefill_ms / 1e3
        if draft == "ngram":
            yield from _rounds(session, row, NgramDrafter(), DraftLength(n_fixed))
        else:
            assert draft is not None
            with draft.session() as other:
                drafter = ModelDrafter(other, draft.config.n_ctx, row.chooser)
                length = DraftLength(n_fixed, draft.weight_bytes / weight_bytes, prefill_s)
                yield from _rounds(session, row, drafter, length)

    return tokens


def _rounds(session: Session, row: Continuation, drafter: Drafter, length: DraftLength) -> Iterator[Token]:
    while True:
        is_step = len(row.context.pending(session)) == 1  # or a prompt, or a window that has slid
        most = min(row.context.room, row.n_left - 1, length.next()) if is_step else 0
        times = [perf_counter()]
        guesses: list[int] = []
        if most > 0:
            drafter.follow(row.context.ids)
            times.append(perf_counter())
            guesses = drafter.guess(most)
            length.saw_following(times[1] - times[0])
        times.append(perf_counter())
        tokens = _checked(session, row, guesses) if guesses else [plain_step(session, row)]
        times.append(perf_counter())
        if guesses:
            length.saw_round(len(guesses), len(tokens) - 1, times[2] - times[1], times[3] - times[2])
        elif is_step:
            length.saw_plain(times[-1] - times[-2])
        yield from tokens


def _checked(session: Session, row: Continuation, guesses: list[int]) -> list[Token]:
    """One pass over guesses: the tokens that hold, and the one that the model chooses behind them."""
    tokens: list[Token] = []
    fed = row.context.pending(session) + guesses
    if row.chooser.needs_logits:
        ids = row.context.ids[:]
        for logits, guess in zip(session.feed_all(fed), [*guesses, None], strict=True):
            tokens.append(row.chooser.choose(logits, ids))
            ids.append(tokens[-1].id)
            if ids[-1] != guess:
                break
    else:
        for id, guess in zip(session.feed_greedy_all(fed), [*guesses, None], strict=True):
            tokens.append(Token(id))
            if id != guess:
                break
    session.rewind(session.n_past - (len(fed) - len(tokens)))
    row.work.count_pass()
    row.work.drafted += len(guesses)
    row.work.accepted += len(tokens) - 1
    return tokens
