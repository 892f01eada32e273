"""The settings of a generation: one frozen record, and the one list of parameters that it is made from."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar

from .._checks import is_real, whole_number
from ..errors import OptionError
from .sampling import SamplingSettings
from .text_stream import TextStream

if TYPE_CHECKING:
    from ..model import Model

Draft: TypeAlias = "Literal['ngram'] | Model | None"
Overflow = Literal["error", "slide"]

EarlyStopping = Literal[False, True, "never"]

MOST_ASSISTANT_TOKENS = 64
MOST_BEAMS = 64
MOST_LENGTH_PENALTY = 10.0


@dataclass(frozen=True)
class BeamSettings:
    """How to search with several beams, with the names and meanings of transformers; see beam_search.py."""

    num_beams: int
    length_penalty: float
    early_stopping: EarlyStopping


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
    beams: BeamSettings | None

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
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
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
    pass: the result is the same, sooner. num_assistant_tokens: how many of a draft's guesses a pass checks,
    None for as many as pay.

    num_beams: above 1, so many continuations are followed side by side for the most probable to be found, at
    temperature 0 and not by `stream`. length_penalty: a score is the sum of log probabilities divided by the
    length to this power, so above 0 it favours long ones. early_stopping: True ends the search with num_beams
    finished continuations, False when a better one is unlikely, "never" when it is impossible.
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
        num_assistant_tokens = whole_number(
            "num_assistant_tokens", num_assistant_tokens, least=1, most=MOST_ASSISTANT_TOKENS
        )
        if draft is None:
            raise OptionError("num_assistant_tokens is for a draft, and there is none")
    return GenerationSettings(
        whole_number("max_new_tokens", max_new_tokens),
        sampling,
        _strings(stop),
        draft,
        num_assistant_tokens,
        overflow,
        None if logprobs is None else whole_number("logprobs", logprobs),
        _beams(
            whole_number("num_beams", num_beams, least=1, most=MOST_BEAMS),
            length_penalty,
            early_stopping,
            {
                f"temperature {temperature}": temperature != 0,
                "a draft": draft is not None,
                "overflow='slide'": overflow == "slide",
            },
        ),
    )


def _beams(
    num_beams: int, length_penalty: float, early_stopping: EarlyStopping, excluded: dict[str, bool]
) -> BeamSettings | None:
    """None for a single beam. excluded: what cannot be had with several, and whether it is asked for."""
    if not is_real(length_penalty) or abs(length_penalty) > MOST_LENGTH_PENALTY:
        most = MOST_LENGTH_PENALTY
        raise OptionError(f"length_penalty must be a number from {-most} to {most}, not {length_penalty!r}")
    if early_stopping not in (False, True, "never") or not isinstance(early_stopping, (bool, str)):
        raise OptionError(f"early_stopping must be False, True or 'never', not {early_stopping!r}")
    if num_beams == 1:
        if length_penalty != 1 or early_stopping is not False:
            raise OptionError("length_penalty and early_stopping are for several beams, and num_beams is 1")
        return None
    for what, is_wanted in excluded.items():
        if is_wanted:
            raise OptionError(f"num_beams {num_beams} and {what} exclude each other")
    return BeamSettings(num_beams, float(length_penalty), early_stopping)


def _strings(stop: str | Iterable[str]) -> tuple[str, ...]:
    try:
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
    except TypeError:
        raise OptionError(f"stop must be a string or several, not {stop!r}") from None
    TextStream(stops)  # checks them
    return stops


def _ids(given: Iterable[int]) -> tuple[int, ...]:
    try:
        return tuple(whole_number("a suppressed token", i) for i in given)
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
