"""Speculative decoding: check several guesses in one pass, with the same result as plain generation.

A pass over a few tokens takes little longer than a pass over one, because most of the time goes into reading
the weights. So a draft guesses the next tokens, the model computes all of them in one pass, and its own
choice after each token shows how many guesses were right (Leviathan, Kalman, Matias 2023; Chen et al. 2023).

Only the model's own choices become output; the guesses decide how many of them a pass yields. So the ids are
those of plain generation, greedy or sampled. When sampling, a draft model's guess uses the same random number
as the model's choice will, so the two agree as often as their distributions allow. Each id is still drawn
from the model's own distribution, whatever the draft is.
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
        """Learn that the sequence now consists of the tokens `ids`."""

    def guess(self, n: int) -> list[int]:
        """Return up to n tokens that may come next."""


class NgramDrafter:
    """Guesses that the last few tokens are followed by what followed them before (prompt lookup)."""

    def __init__(self, longest: int = 3) -> None:
        self._longest = longest
        self._ids: list[int] = []
        self._follower: dict[tuple[int, ...], int] = {}  # n-gram: position after its last occurrence

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
    """Guesses the tokens that another model, the draft, would choose with the same settings."""

    def __init__(self, session: Session, n_ctx: int, chooser: Chooser) -> None:
        self._session = session
        self._context = Context([], n_ctx)
        self._chooser = chooser

    def follow(self, ids: list[int]) -> None:
        held = self._context.ids
        n = min(len(held), len(ids) - 1)
        while held[:n] != ids[:n]:  # wrong guesses are at the end, so this takes a few steps at most
            n -= 1
        self._context.truncate(n, self._session)
        for token in ids[n:]:
            self._context.append(token)
        missed = self._context.pending(self._session)[:-2]
        if missed:
            self._session.feed_greedy(missed)

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
    """Decides how many tokens to guess in the next round, by the times and right guesses so far.

    A round of k guesses takes the time k d + v(k), where d is the time per guess and v(k) that of the pass
    that checks them. It yields 1 + a + a^2 + ... + a^k tokens if each guess is right with probability a. The
    result of `next` is the k with the most tokens per second.

    If plain passes are faster than any k, a round is only tried from time to time: when the time that all
    rounds have lost against plain passes (the draft's catching up included), plus the expected loss of the
    next trial, stays below MAX_LOSS of the total time plus CREDIT plain passes. Times are running means.

    fixed: always guess that many. cost: the expected time of a pass of the draft, relative to a pass of the
    model. prefill_s: the time of the prompt's passes; the draft must compute the prompt before it can guess.
    """

    MAX_GUESSES = 8
    TRIAL = 2  # guesses in a trial
    CHECK_COST = 0.3  # expected extra time of the first checking pass, relative to a plain pass
    MAX_LOSS = 0.01  # relative to the total time
    CREDIT = 1.5  # plain passes that trials may lose at first
    MIN_GAIN = 1.05  # a smaller gain may be noise
    RECENT = 0.15  # weight of the newest time in a running mean
    DECAY = 0.95  # weight per round of older counts of right guesses

    def __init__(self, fixed: int | None = None, cost: float = 0.0, prefill_s: float = 0.0) -> None:
        self._fixed = fixed
        self._cost, self._prefill_s = cost, prefill_s
        self._plain_s: float | None = None
        self._guess_s = 0.0
        self._check_s: dict[int, float] = {}
        self._best = 0.0, 0  # (tokens per second, k) for the best k; computed once per round
        self._n_right, self._n_tried = 0.0, 0.0
        self._following_s = 0.0  # since the last round
        self._passed_s, self._lost_s = 0.0, 0.0
        self._last_lost_s: float | None = None  # in the last round

    def next(self) -> int:
        """Return how many tokens to guess now."""
        if self._fixed is not None:
            return self._fixed
        if self._plain_s is None:
            return 0  # a plain pass comes first, to measure its time
        max_tokens_per_s, best = self._best
        if max_tokens_per_s * self._plain_s > self.MIN_GAIN:
            return best
        expected_s = self._last_lost_s
        if expected_s is None:
            expected_s = self._cost * self._prefill_s
            expected_s += (self.TRIAL * self._cost + self.CHECK_COST) * self._plain_s
        max_lost_s = self.CREDIT * self._plain_s + self.MAX_LOSS * self._passed_s
        return self.TRIAL if self._lost_s + expected_s <= max_lost_s else 0

    def saw_plain(self, seconds: float) -> None:
        """Note the time of a plain pass."""
        self._plain_s = self._mean(self._plain_s, seconds)
        self._passed_s += seconds

    def saw_following(self, seconds: float) -> None:
        """Note the time that the draft took to follow tokens that it did not guess."""
        self._following_s += seconds

    def saw_round(self, n_guessed: int, n_right: int, guess_s: float, check_s: float) -> None:
        """Note a round: how many guesses, how many were right, how long guessing and checking took."""
        self._check_s[n_guessed] = self._mean(self._check_s.get(n_guessed), check_s)
        self._guess_s = self._mean(self._guess_s or None, guess_s / n_guessed)
        self._n_right = self._n_right * self.DECAY + n_right
        self._n_tried = self._n_tried * self.DECAY + min(n_right + 1, n_guessed)
        self._best = max((self._tokens_per_s(k), k) for k in range(1, self.MAX_GUESSES + 1))
        if self._plain_s is not None:
            # A plain pass is never slower than a checking pass. If it seems so, the machine is faster now.
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
    """Return a source that checks several guesses per pass.

    draft: "ngram" or a model. n_fixed: how many guesses per pass; None adapts the number. weight_bytes: the
    size of the weights of the model that checks.
    """

    def tokens(session: Session, sequence: Continuation) -> Iterator[Token]:
        first = plain_step(session, sequence)
        yield first
        prefill_s = sequence.work.prefill_ms / 1e3
        if draft == "ngram":
            yield from _rounds(session, sequence, NgramDrafter(), DraftLength(n_fixed))
        else:
            assert draft is not None
            with draft.session() as other:
                drafter = ModelDrafter(other, draft.config.n_ctx, sequence.chooser)
                length = DraftLength(n_fixed, draft.weight_bytes / weight_bytes, prefill_s)
                yield from _rounds(session, sequence, drafter, length)

    return tokens


def _rounds(
    session: Session, sequence: Continuation, drafter: Drafter, length: DraftLength
) -> Iterator[Token]:
    """Yield tokens, round by round: from a pass that checks guesses, or from a plain pass."""
    while True:
        context = sequence.context
        is_step = len(context.pending(session)) == 1  # not a prompt, nor a window that has slid
        max_guesses = min(context.n_free, sequence.n_left - 1, length.next()) if is_step else 0
        times = [perf_counter()]
        guesses: list[int] = []
        if max_guesses > 0:
            drafter.follow(context.ids)
            times.append(perf_counter())
            guesses = drafter.guess(max_guesses)
            length.saw_following(times[1] - times[0])
        times.append(perf_counter())
        tokens = _checked(session, sequence, guesses) if guesses else [plain_step(session, sequence)]
        times.append(perf_counter())
        if guesses:
            length.saw_round(len(guesses), len(tokens) - 1, times[2] - times[1], times[3] - times[2])
        elif is_step:
            length.saw_plain(times[-1] - times[-2])
        yield from tokens


def _checked(session: Session, sequence: Continuation, guesses: list[int]) -> list[Token]:
    """Check guesses in one pass: return those that are right, and the model's choice after them."""
    tokens: list[Token] = []
    fed = sequence.context.pending(session) + guesses
    if sequence.chooser.needs_logits:
        ids = sequence.context.ids[:]
        for logits, guess in zip(session.feed_all(fed), [*guesses, None], strict=True):
            tokens.append(sequence.chooser.choose(logits, ids))
            ids.append(tokens[-1].id)
            if ids[-1] != guess:
                break
    else:
        for id, guess in zip(session.feed_greedy_all(fed), [*guesses, None], strict=True):
            tokens.append(Token(id))
            if id != guess:
                break
    session.rewind(session.n_past - (len(fed) - len(tokens)))
    sequence.work.count_pass()
    sequence.work.drafted += len(guesses)
    sequence.work.accepted += len(tokens) - 1
    return tokens
