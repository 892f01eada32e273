"""The settings of a generation: one frozen record, and the one list of parameters that it is made from."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar

from .errors import OptionError
from .sampling import SamplingSettings
from .text_stream import TextStream

if TYPE_CHECKING:
    from .model import Model

Draft: TypeAlias = "Literal['ngram'] | Model | None"
Overflow = Literal["error", "slide"]

MOST_ASSISTANT_TOKENS = 64


@dataclass(frozen=True)
class GenerationSettings:
    """Checked settings of one generation; see `generation_settings`."""

    max_new_tokens: int
    sampling: SamplingSettings
    stop: tuple[str, ...]
    draft: Draft
    num_assistant_tokens: int | None
    overflow: Overflow
    logprobs: int | None

    @property
    def needs_logits(self) -> bool:
        """Whether the largest logit's id alone is not enough."""
        return not self.sampling.is_greedy or self.logprobs is not None


def generation_settings(
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: str | Iterable[str] = (),
    draft: Draft = None,
    overflow: Overflow = "error",
    no_repeat_ngram_size: int = 0,
    suppress_tokens: Iterable[int] = (),
    min_new_tokens: int = 0,
    num_assistant_tokens: int | None = None,
    logprobs: int | None = None,
) -> GenerationSettings:
    """Settings as given -> checked ones. OptionError names what is wrong.

    temperature: 0 is greedy; top_k: 0 is off; top_p in (0, 1], 1 is off; min_p in [0, 1], 0 is off;
    repetition_penalty: as in CTRL, 1 is off; no_repeat_ngram_size: no sequence of so many tokens comes twice,
    0 is off; suppress_tokens: ids that never come; min_new_tokens: EOS does not come before so many;
    seed: of the sampler, None for a fresh one each time.

    stop: one or more strings that end the text, and are not part of it. overflow: what becomes of a context
    that is full: "error" (new tokens end there, and a longer prompt is one) or "slide" (the oldest tokens are
    dropped, see context.py). logprobs: k to be told each new token's log probability and the k most probable.

    draft: None, "ngram" or a loaded model with the same tokenizer, whose guesses are checked several in a
    pass: the result is the same, sooner. num_assistant_tokens: how many guesses a pass checks, None for as
    many as pay.
    """
    sampling = SamplingSettings(
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        seed,
        no_repeat_ngram_size,
        _ids(suppress_tokens),
        min_new_tokens,
    )
    if overflow not in ("error", "slide"):
        raise OptionError(f"overflow must be 'error' or 'slide', not {overflow!r}")
    if num_assistant_tokens is not None:
        num_assistant_tokens = _count(
            "num_assistant_tokens", num_assistant_tokens, least=1, most=MOST_ASSISTANT_TOKENS
        )
    return GenerationSettings(
        _count("max_new_tokens", max_new_tokens),
        sampling,
        _strings(stop),
        draft,
        num_assistant_tokens,
        overflow,
        None if logprobs is None else _count("logprobs", logprobs),
    )


def _count(name: str, value: object, least: int = 0, most: int | None = None) -> int:
    try:
        n = operator.index(value)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        n = least - 1
    if n < least or isinstance(value, bool) or (most is not None and n > most):
        wanted = f">= {least}" if most is None else f"from {least} to {most}"
        raise OptionError(f"{name} must be an integer {wanted}, not {value!r}")
    return n


def _strings(stop: str | Iterable[str]) -> tuple[str, ...]:
    try:
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
    except TypeError:
        raise OptionError(f"stop must be a string or several, not {stop!r}") from None
    TextStream(stops)  # checks them
    return stops


def _ids(given: Iterable[int]) -> tuple[int, ...]:
    try:
        return tuple(_count("a suppressed token", i) for i in given)
    except TypeError:
        raise OptionError(f"suppress_tokens must be token ids, not {given!r}") from None


P = ParamSpec("P")
Self = TypeVar("Self")
Given = TypeVar("Given")
Made = TypeVar("Made")
Record = TypeVar("Record")


def takes(
    make: Callable[P, Record],
) -> Callable[[Callable[[Self, Given, Record], Made]], Callable[Concatenate[Self, Given, P], Made]]:
    """Makes of a method that takes a record one that takes what the record is made from.

    So every way to generate has the parameters of `generation_settings`, in its signature too.
    """

    def decorate(
        method: Callable[[Self, Given, Record], Made],
    ) -> Callable[Concatenate[Self, Given, P], Made]:
        first_two = list(inspect.signature(method).parameters.values())[:2]
        signature = inspect.Signature([*first_two, *inspect.signature(make).parameters.values()])

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Made:
            given = signature.bind(*args, **kwargs).arguments
            self, prompt = (given.pop(parameter.name) for parameter in first_two)
            return method(self, prompt, make(**given))  # type: ignore[call-arg]  # bound to its signature

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate
