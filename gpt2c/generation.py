"""Generation: prompt in, tokens out one by one, as text of whole characters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .errors import CancelledError, OptionError
from .sampling import Sampler, SamplingSettings
from .session import Session
from .text_stream import TextStream
from .tokenizer import Tokenizer

FinishReason = Literal["eos", "stop", "length", "cancelled"]


@dataclass(frozen=True)
class Timings:
    """How long a generation took.

    prefill_ms: the prompt's forward pass; ttft_ms: from the start of the work (a session is made, the
    prompt is tokens already) to the first new token; ms_per_token: the mean of the tokens after the first
    (0.0 if there are none), with what the reader of a stream does in between; forward_passes: the
    prompt's included.
    """

    prefill_ms: float
    ttft_ms: float
    ms_per_token: float
    forward_passes: int


@dataclass(frozen=True)
class Completion:
    """A continuation.

    text: without the prompt, ending before a stop string, "" for a model without a vocabulary. ids:
    every new token; the last is EOS when finish_reason is "eos". finish_reason: "eos", "stop", "length"
    (max_new_tokens or the context is reached) or "cancelled".
    """

    text: str
    ids: list[int]
    prompt_ids: list[int]
    finish_reason: FinishReason
    timings: Timings


@dataclass(frozen=True)
class GenerationSettings:
    """Checked settings of one generation."""

    max_new_tokens: int
    sampling: SamplingSettings
    stop: tuple[str, ...]


def check_settings(
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int | None,
    stop: str | Iterable[str],
) -> GenerationSettings:
    """Settings as given -> checked ones. OptionError names what is wrong."""
    try:
        n = operator.index(max_new_tokens)
    except TypeError:
        n = -1
    if n < 0:
        raise OptionError(f"max_new_tokens must be an integer >= 0, not {max_new_tokens!r}")
    try:
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
    except TypeError:
        raise OptionError(f"stop must be a string or several, not {stop!r}") from None
    TextStream(stops)  # checks them
    sampling = SamplingSettings(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    return GenerationSettings(n, sampling, stops)


class Stream(Iterator[str]):
    """A generation that runs as it is iterated over; see `Model.stream`.

    completion: None until the stream is exhausted.
    """

    completion: Completion | None

    def __init__(
        self,
        new_session: Callable[[], Session],
        tokenizer: Tokenizer | None,
        prompt_ids: NDArray[np.int32],
        settings: GenerationSettings,
        config: ModelConfig,
    ) -> None:
        self.completion = None
        # A function and no method: a stream that is dropped half-way frees its session there and then.
        self._pieces = _run(new_session, tokenizer, prompt_ids, settings, config)

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
    new_session: Callable[[], Session],
    tokenizer: Tokenizer | None,
    prompt_ids: NDArray[np.int32],
    settings: GenerationSettings,
    config: ModelConfig,
) -> Generator[str, None, Completion]:
    """Yields the pieces of text, returns the completion."""
    start = perf_counter()
    eos = tokenizer.eos_token_id if tokenizer is not None else config.eos_token_id
    text = TextStream(settings.stop)
    pieces: list[str] = []
    ids: list[int] = []
    times: list[float] = []
    prefill_ms = 0.0
    reason: FinishReason = "length"

    with new_session() as session:
        try:
            for token, pass_ms in _tokens(session, prompt_ids, ids, settings, config.n_ctx):
                times.append(perf_counter())
                if not ids:
                    prefill_ms = pass_ms
                ids.append(token)
                if token == eos:
                    reason = "eos"
                    break
                piece = "" if tokenizer is None else text.push(tokenizer.token_bytes(token))
                if piece:
                    pieces.append(piece)
                    yield piece
                if text.stopped:
                    break
        except CancelledError:
            reason = "cancelled"

    rest = text.finish()
    if rest:
        pieces.append(rest)
        yield rest
    if text.stopped:
        reason = "stop"
    timings = _timings(start, prefill_ms, times)
    return Completion("".join(pieces), ids, prompt_ids.tolist(), reason, timings)


def _tokens(
    session: Session,
    prompt_ids: NDArray[np.int32],
    ids: list[int],
    settings: GenerationSettings,
    n_ctx: int,
) -> Iterator[tuple[int, float]]:
    """New tokens, and how many ms the forward pass before each took; `ids` are those taken so far."""
    sampler = None if settings.sampling.is_greedy else Sampler(settings.sampling)
    prompt = prompt_ids.tolist()
    feed = prompt_ids
    # The last new token is never fed, so one more than the context's room can be generated.
    for _ in range(min(settings.max_new_tokens, n_ctx - prompt_ids.size + 1)):
        if session.cancelled:
            raise CancelledError("the generation was cancelled")
        began = perf_counter()
        if sampler is None:
            token = session.feed_greedy(feed)
            pass_ms = (perf_counter() - began) * 1e3
        else:
            logits = session.feed(feed)
            pass_ms = (perf_counter() - began) * 1e3
            token = sampler.choose(logits, chain(prompt, ids))
        yield token, pass_ms
        feed = np.array([token], np.int32)


def _timings(start: float, prefill_ms: float, times: list[float]) -> Timings:
    """From when each token came, in seconds."""
    ttft = (times[0] - start) * 1e3 if times else 0.0
    n_after = len(times) - 1
    per_token = (times[-1] - times[0]) * 1e3 / n_after if n_after > 0 else 0.0
    return Timings(prefill_ms, ttft, per_token, forward_passes=len(times))
