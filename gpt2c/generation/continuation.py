"""Generation: a prompt goes in, tokens come out one by one, as text of whole characters.

A `Continuation` is one sequence: a prompt that is being continued. There are four ways to get its tokens: a
pass per token (here), passes that check several guesses (speculative.py), passes shared with other sequences
(batch.py), and a search (beam_search.py). The first three give the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..errors import CancelledError
from ..session import Session
from ..text.tokenizer import Tokenizer
from .context import Context
from .sampling import Sampler, TokenLogprobs, token_logprobs
from .settings import GenerationSettings
from .text_stream import TextStream

FinishReason = Literal["eos", "stop", "length", "cancelled"]


@dataclass(frozen=True)
class Timings:
    """How long a generation took, and how many passes.

    prefill_ms: time of the prompt's forward passes. ttft_ms: time to the first new token, from the start of
    the work; that includes making the session but not encoding the prompt. ms_per_token: mean time per token
    after the first, 0.0 if there is none; it includes what the reader of a stream does between tokens.

    forward_passes: passes of the model that computed tokens of this sequence, those of the prompt included.
    prompts_per_pass: how many sequences such a pass served on average; above 1 in a batch. reused_tokens:
    tokens of the prompt that were taken from an earlier session, not computed. drafted: tokens that a draft
    guessed. accepted: guesses that were right.
    """

    prefill_ms: float
    ttft_ms: float
    ms_per_token: float
    forward_passes: int
    prompts_per_pass: float = 1.0
    reused_tokens: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Completion:
    """The result of a generation.

    text: the new text, without the prompt; it ends before a stop string, and is "" for a model without a
    vocabulary. ids: all new tokens; the last one is EOS if finish_reason is "eos". prompt_ids: all tokens of
    the prompt. finish_reason: "eos", "stop", "length" (max_new_tokens or the context was reached) or
    "cancelled". logprobs: one entry per new token; None unless the setting `logprobs` asked for them.
    dropped_tokens: how many old tokens were dropped because the context was full. beams: the best
    continuations of a beam search, this one first; else None.
    """

    text: str
    ids: list[int]
    prompt_ids: list[int]
    finish_reason: FinishReason
    timings: Timings
    logprobs: list[TokenLogprobs] | None = None
    dropped_tokens: int = 0
    beams: list[Beam] | None = None


@dataclass(frozen=True)
class Beam:
    """One of the continuations that a beam search found; beam_search.py defines the score."""

    text: str
    ids: list[int]
    finish_reason: FinishReason
    score: float


class Token(NamedTuple):
    """A new token.

    logprobs: None unless they were asked for. at: the time (perf_counter) at which the token was chosen; None
    means now.
    """

    id: int
    logprobs: TokenLogprobs | None = None
    at: float | None = None


@dataclass
class Work:
    """Passes and time that a sequence has taken so far; `Timings` describes the fields."""

    forward_passes: int = 0
    prompts_served: int = 0
    prefill_ms: float = 0.0
    reused_tokens: int = 0
    drafted: int = 0
    accepted: int = 0

    def count_pass(self, n_prompts: int = 1) -> None:
        self.forward_passes += 1
        self.prompts_served += n_prompts


class Chooser:
    """Chooses the next token from logits, as the settings say."""

    def __init__(self, settings: GenerationSettings, n_prompt: int, eos: int | None) -> None:
        self.needs_logits = settings.needs_logits
        self.is_greedy = settings.is_greedy
        self._sampler = Sampler(settings, n_prompt, eos)
        self._logprobs = settings.logprobs

    def choose(self, logits: NDArray[np.float32], ids: list[int]) -> Token:
        """Choose the next token. logits: [n_vocab] after `ids`, which are all tokens so far."""
        return self.token(self._sampler.choose(logits, ids), logits)

    def token(self, id: int, logits: NDArray[np.float32]) -> Token:
        """Return a token that was chosen from these logits, with its log probabilities if asked for."""
        has_logprobs = self._logprobs is not None
        return Token(id, token_logprobs(logits, id, self._logprobs or 0) if has_logprobs else None)

    def logprobs(self, logits: NDArray[np.float32], ids: list[int]) -> NDArray[np.float32]:
        """Return the log probability [n_vocab] of each token after `ids`, for a beam search to add up."""
        return self._sampler.logprobs(logits, ids)

    def next_token(self, session: Session, pending: list[int], ids: list[int]) -> Token:
        """Feed the tokens `pending` and choose the next one. The logits stay in C unless they are needed."""
        if self.needs_logits:
            return self.choose(session.feed(pending), ids)
        return Token(session.feed_greedy(pending))

    def sampler(self) -> Sampler:
        """Return a copy of the sampler that will draw the same random numbers, for a draft's guesses."""
        return self._sampler.fork()


class Continuation:
    """A sequence: a prompt that is being continued. It takes tokens, returns text, and knows when it ends.

    reason: why it ended; None while it runs. restarted: a function that makes a new `Continuation` of the
    same prompt, with no new tokens.
    """

    def __init__(
        self,
        prompt_ids: NDArray[np.int32],
        settings: GenerationSettings,
        tokenizer: Tokenizer | None,
        config: ModelConfig,
    ) -> None:
        eos = tokenizer.eos_token_id if tokenizer is not None else config.eos_token_id
        self.context = Context(prompt_ids.tolist(), config.n_ctx)
        self.chooser = Chooser(settings, prompt_ids.size, eos)
        self.work = Work()
        self.reason: FinishReason | None = None
        self.beams: list[Beam] | None = None
        self.config = config
        self.restarted = partial(Continuation, prompt_ids, settings, tokenizer, config)
        self._tokenizer = tokenizer
        self._eos = eos
        self._n_prompt = prompt_ids.size
        # The last new token is never fed, so one more token can be generated than fits into the context.
        max_new = self.context.n_free + 1 if settings.overflow == "error" else settings.max_new_tokens
        self._max_new = min(settings.max_new_tokens, max_new)
        self._stop = settings.stop_strings
        self._text = TextStream(self._stop)
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprobs] | None = None if settings.logprobs is None else []
        self._times: list[float] = []
        self.start()

    def start(self) -> None:
        """Note that the work begins now."""
        self._began = perf_counter()
        self.reason = "length" if self._max_new == 0 else None

    @property
    def n_new(self) -> int:
        """How many new tokens it has taken."""
        return len(self._times)

    @property
    def n_left(self) -> int:
        """How many more tokens it may take."""
        return self._max_new - self.n_new

    def take(self, token: Token) -> str:
        """Take one more token and return the text that is now certain. Sets `reason` if it was the last."""
        self._times.append(perf_counter() if token.at is None else token.at)
        self.context.append(token.id)
        if self._logprobs is not None and token.logprobs is not None:
            self._logprobs.append(token.logprobs)
        if token.id == self._eos:
            self.reason = "eos"
            return ""
        piece = "" if self._tokenizer is None else self._text.push(self._tokenizer.token_bytes(token.id))
        if self._text.stopped:
            self.reason = "stop"
        elif not self.n_left:
            self.reason = "length"
        return self._add(piece)

    def ends_with(self, tokens: Sequence[Token]) -> bool:
        """Whether the sequence would end with the last of these tokens, if they were taken."""
        if tokens[-1].id == self._eos or len(tokens) >= self.n_left:
            return True
        if not self._stop or self._tokenizer is None:
            return False
        text = TextStream(self._stop)
        text.push(b"".join(self._tokenizer.token_bytes(token.id) for token in tokens))
        return text.stopped

    def finish(self) -> str:
        """End the text: return what was held back, up to a stop string if it contains one."""
        remaining = self._add(self._text.finish())
        if self._text.stopped:
            self.reason = "stop"
        return remaining

    def completion(self) -> Completion:
        """Return the result of a finished sequence."""
        assert self.reason is not None
        ids = self.context.ids
        return Completion(
            "".join(self._pieces),
            ids[self._n_prompt :],
            ids[: self._n_prompt],
            self.reason,
            self._timings(),
            self._logprobs,
            self.context.n_dropped,
            self.beams,
        )

    def _add(self, piece: str) -> str:
        if piece:
            self._pieces.append(piece)
        return piece

    def _timings(self) -> Timings:
        times, work = self._times, self.work
        n_after = len(times) - 1
        return Timings(
            prefill_ms=work.prefill_ms,
            ttft_ms=(times[0] - self._began) * 1e3 if times else 0.0,
            ms_per_token=(times[-1] - times[0]) * 1e3 / n_after if n_after > 0 else 0.0,
            forward_passes=work.forward_passes,
            prompts_per_pass=work.prompts_served / work.forward_passes if work.forward_passes else 1.0,
            reused_tokens=work.reused_tokens,
            drafted=work.drafted,
            accepted=work.accepted,
        )


Source = Callable[[Session, Continuation], Iterator[Token]]
"""A function that yields the tokens of a sequence, which takes each before the next one is requested."""


def one_by_one(session: Session, sequence: Continuation) -> Iterator[Token]:
    """Yield tokens in the plain way: one pass per token."""
    while True:
        yield plain_step(session, sequence)


def plain_step(session: Session, sequence: Continuation) -> Token:
    """Make one pass and return its token."""
    began = perf_counter()
    context = sequence.context
    token = sequence.chooser.next_token(session, context.pending(session), context.ids)
    if not sequence.work.forward_passes:
        sequence.work.prefill_ms = (perf_counter() - began) * 1e3
    sequence.work.count_pass()
    return token


class Stream(Iterator[str]):
    """An iterator over the pieces of a text, which runs the generation; see `Model.stream`.

    completion: the result; None until the stream is exhausted.

    Example::

        with model.stream("Once upon a time") as stream:
            for piece in stream:
                print(piece, end="", flush=True)
        print(stream.completion.finish_reason)
    """

    completion: Completion | None

    def __init__(
        self,
        sequence: Continuation,
        new_session: Callable[[], AbstractContextManager[Session]],
        source: Source,
    ) -> None:
        self.completion = None
        # A function, not a method: without a reference to itself, a dropped stream frees its session at once.
        self._pieces = _run(sequence, new_session, source)

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            if self.completion is None:
                self.completion = end.value
            raise

    def close(self) -> None:
        """Stop the generation and free its session; `completion` stays None if it was not finished."""
        self._pieces.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _run(
    sequence: Continuation, new_session: Callable[[], AbstractContextManager[Session]], source: Source
) -> Generator[str, None, Completion]:
    """Yield the pieces of text, and return the completion."""
    sequence.start()
    with new_session() as session:
        sequence.work.reused_tokens = session.n_past
        tokens = source(session, sequence)
        try:
            while sequence.reason is None:
                if session.cancelled:
                    raise CancelledError("the generation was cancelled")
                piece = sequence.take(next(tokens))
                if piece:
                    yield piece
        except CancelledError:
            sequence.reason = "cancelled"
    remaining = sequence.finish()
    if remaining:
        yield remaining
    return sequence.completion()
