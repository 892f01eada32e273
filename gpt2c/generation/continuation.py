"""Generation: prompt in, tokens out one by one, as text of whole characters.

A `Continuation` is one prompt being continued. Where its tokens come from is another matter: one after
another (here), checked several at a time (speculative.py), or beside those of other prompts
(batch.py). Whichever it is, they are the same tokens.
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
    """How long a generation took, and what it took.

    prefill_ms: the prompt's forward passes; ttft_ms: from the start of the work (a session is made, the
    prompt is tokens already) to the first new token; ms_per_token: the mean of the tokens after the first
    (0.0 if there are none), with what the reader of a stream does in between; forward_passes: those of
    the model that this continuation took part in, the prompt's included; prompts_per_pass: how many
    continuations such a pass served, in the mean: above 1 in a batch; reused_tokens: of the prompt, computed
    before for another; drafted: tokens that a draft guessed; accepted: those that proved right.
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
    """A continuation.

    text: without the prompt, ending before a stop string, "" for a model without a vocabulary. ids: every new
    token; the last is EOS when finish_reason is "eos". prompt_ids: all of the prompt's tokens. finish_reason:
    "eos", "stop", "length" (max_new_tokens or the context is reached) or "cancelled". logprobs: one for each
    of ids, or None if they were not asked for. dropped_tokens: how many of the oldest went when the context
    slid. beams: the best continuations of a beam search, this one first; else None.
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
    """One of the continuations that a beam search found; see beam_search.py for its score."""

    text: str
    ids: list[int]
    finish_reason: FinishReason
    score: float


class Token(NamedTuple):
    """A new token, its log probabilities if they are wanted, and when it came if that was not just now."""

    id: int
    logprobs: TokenLogprobs | None = None
    at: float | None = None


@dataclass
class Work:
    """What a continuation has taken so far; see `Timings`."""

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
    """Makes of logits the next token that the settings want."""

    def __init__(self, settings: GenerationSettings, n_prompt: int, eos: int | None) -> None:
        self.needs_logits = settings.needs_logits
        self.is_greedy = settings.is_greedy
        self._sampler = Sampler(settings, n_prompt, eos)
        self._logprobs = settings.logprobs

    def choose(self, logits: NDArray[np.float32], ids: list[int]) -> Token:
        """logits: [n_vocab] behind `ids`, all tokens so far."""
        return self.token(self._sampler.choose(logits, ids), logits)

    def token(self, id: int, logits: NDArray[np.float32]) -> Token:
        """A token that was chosen by these logits."""
        wanted = self._logprobs is not None
        return Token(id, token_logprobs(logits, id, self._logprobs or 0) if wanted else None)

    def logprobs(self, logits: NDArray[np.float32], ids: list[int]) -> NDArray[np.float32]:
        """Of every token [n_vocab] behind `ids`, as a beam search adds them up."""
        return self._sampler.logprobs(logits, ids)

    def next_of(self, session: Session, pending: list[int], ids: list[int]) -> Token:
        """The token behind `pending`, which are fed for it; the logits stay in C if nobody reads them."""
        if self.needs_logits:
            return self.choose(session.feed(pending), ids)
        return Token(session.feed_greedy(pending))

    def sampler(self) -> Sampler:
        """One that will take the same random numbers: for what is to guess this one's choices."""
        return self._sampler.fork()


class Continuation:
    """One prompt being continued: takes tokens, gives text, and knows when it is over.

    reason: why it is over, or None while it goes on.
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
        self.afresh = partial(Continuation, prompt_ids, settings, tokenizer, config)
        self._tokenizer = tokenizer
        self._eos = eos
        self._n_prompt = prompt_ids.size
        # The last new token is never fed, so one more than the context's room can be generated.
        most = self.context.room + 1 if settings.overflow == "error" else settings.max_new_tokens
        self._n_most = min(settings.max_new_tokens, most)
        self._stop = settings.stop_strings
        self._text = TextStream(self._stop)
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprobs] | None = None if settings.logprobs is None else []
        self._times: list[float] = []
        self.start()

    def start(self) -> None:
        """The work begins now."""
        self._began = perf_counter()
        self.reason = "length" if self._n_most == 0 else None

    @property
    def n_new(self) -> int:
        """How many tokens have come."""
        return len(self._times)

    @property
    def n_left(self) -> int:
        """How many tokens may still come."""
        return self._n_most - self.n_new

    def take(self, token: Token) -> str:
        """One more token; the text that is now certain. Sets `reason` if it was the last one."""
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
        return self._keep(piece)

    def ends_with(self, tokens: Sequence[Token]) -> bool:
        """Whether these tokens, were they taken, would be the last ones."""
        if tokens[-1].id == self._eos or len(tokens) >= self.n_left:
            return True
        if not self._stop or self._tokenizer is None:
            return False
        text = TextStream(self._stop)
        text.push(b"".join(self._tokenizer.token_bytes(token.id) for token in tokens))
        return text.stopped

    def finish(self) -> str:
        """No more tokens: the text that was held back, up to a stop string if there is one in it."""
        rest = self._keep(self._text.finish())
        if self._text.stopped:
            self.reason = "stop"
        return rest

    def completion(self) -> Completion:
        """What came of it. For a continuation that is finished."""
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

    def _keep(self, piece: str) -> str:
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
"""Where tokens come from. It is asked for the next one after the continuation has taken the last."""


def one_by_one(session: Session, row: Continuation) -> Iterator[Token]:
    """The plain way: a pass for each token."""
    while True:
        yield plain_step(session, row)


def plain_step(session: Session, row: Continuation) -> Token:
    """One pass, one token."""
    began = perf_counter()
    token = row.chooser.next_of(session, row.context.pending(session), row.context.ids)
    if not row.work.forward_passes:
        row.work.prefill_ms = (perf_counter() - began) * 1e3
    row.work.count_pass()
    return token


class Stream(Iterator[str]):
    """A generation that runs as it is iterated over; see `Model.stream`.

    completion: None until the stream is exhausted.
    """

    completion: Completion | None

    def __init__(
        self, row: Continuation, new_session: Callable[[], AbstractContextManager[Session]], source: Source
    ) -> None:
        self.completion = None
        # A function and no method: a stream that is dropped half-way frees its session there and then.
        self._pieces = _run(row, new_session, source)

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            if self.completion is None:
                self.completion = end.value
            raise

    def close(self) -> None:
        """Stop now and free what the generation holds; `completion` stays None."""
        self._pieces.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _run(
    row: Continuation, new_session: Callable[[], AbstractContextManager[Session]], source: Source
) -> Generator[str, None, Completion]:
    """Yields the pieces of text, returns the completion."""
    row.start()
    with new_session() as session:
        row.work.reused_tokens = session.n_past
        tokens = source(session, row)
        try:
            while row.reason is None:
                if session.cancelled:
                    raise CancelledError("the generation was cancelled")
                piece = row.take(next(tokens))
                if piece:
                    yield piece
        except CancelledError:
            row.reason = "cancelled"
    rest = row.finish()
    if rest:
        yield rest
    return row.completion()
