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
        self._tokenizer = tokenizer
        self._prompt_ids = prompt_ids
        self._settings = settings
        self._eos = tokenizer.eos_token_id if tokenizer is not None else config.eos_token_id
        # The last new token is never fed, so one more than the context's room can be generated.
        self._most_tokens = min(settings.max_new_tokens, config.n_ctx - prompt_ids.size + 1)
        self._ids: list[int] = []
        self._times: list[float] = []
        self._prefill_ms = 0.0
        self._forward_passes = 0
        self._pieces = self._run(new_session)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop now and free what the generation holds; `completion` stays None."""
        self._pieces.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, new_session: Callable[[], Session]) -> Generator[str, None, None]:
        start = perf_counter()
        text = TextStream(self._settings.stop)
        pieces: list[str] = []
        reason: FinishReason = "length"

        with new_session() as session:
            try:
                for token in self._tokens(session):
                    self._ids.append(token)
                    self._times.append(perf_counter())
                    if token == self._eos:
                        reason = "eos"
                        break
                    piece = text.push(self._bytes_of(token))
                    if piece:
                        pieces.append(piece)
                        yield piece
                    if text.stopped:
                        reason = "stop"
                        break
            except CancelledError:
                reason = "cancelled"

        rest = text.finish()
        if text.stopped:
            reason = "stop"
        if rest:
            pieces.append(rest)
            yield rest
        self.completion = Completion(
            "".join(pieces), self._ids, self._prompt_ids.tolist(), reason, self._timings(start)
        )

    def _tokens(self, session: Session) -> Iterator[int]:
        """New tokens, one forward pass each."""
        sampler = None if self._settings.sampling.is_greedy else Sampler(self._settings.sampling)
        prompt = self._prompt_ids.tolist()
        ids = self._prompt_ids
        following = np.empty(1, np.int32)
        for _ in range(self._most_tokens):
            began = perf_counter()
            if sampler is None:
                token = session.feed_greedy(ids)
                fed = perf_counter()
            else:
                logits = session.feed(ids)
                fed = perf_counter()
                token = sampler.choose(logits, chain(prompt, self._ids))
            if not self._forward_passes:
                self._prefill_ms = (fed - began) * 1e3
            self._forward_passes += 1
            yield token
            following[0] = token
            ids = following

    def _bytes_of(self, token: int) -> bytes:
        return b"" if self._tokenizer is None else self._tokenizer.token_bytes(token)

    def _timings(self, start: float) -> Timings:
        ttft = (self._times[0] - start) * 1e3 if self._times else 0.0
        n_after = len(self._times) - 1
        per_token = (self._times[-1] - self._times[0]) * 1e3 / n_after if n_after > 0 else 0.0
        return Timings(self._prefill_ms, ttft, per_token, self._forward_passes)
