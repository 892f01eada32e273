"""The settings of a generation, one row each. This is the only place that lists them.

A row of `GenerationSettings` gives a setting's name, type, default, check, meaning and flag. The rows define
the parameters of `Model.generate`, `stream` and `generate_batch`, the flags of `gpt2c run` and `gpt2c chat`,
and the names that `/set` takes in a chat. To add a setting, add a row here and the code that applies it,
which belongs in sampling.py if it changes how a token is chosen.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast

from .._checks import is_real, whole_number
from ..config import ModelConfig
from ..errors import OptionError
from ..session import Session
from .text_stream import TextStream

MAX_ASSISTANT_TOKENS = 64
MAX_BEAMS = 64
MAX_LENGTH_PENALTY = 10.0


class DraftModel(Protocol):
    """The part of a model that speculative decoding needs; a `gpt2c.Model` has it."""

    config: ModelConfig

    @property
    def weight_bytes(self) -> int: ...
    def session(self) -> Session: ...


Draft: TypeAlias = Literal["ngram"] | DraftModel | None
Overflow = Literal["error", "slide"]
EarlyStopping = Literal[False, True, "never"]


# ---- The content of a row ----


@dataclass(frozen=True)
class Flag:
    """The command-line flag of a setting.

    parse: turns the flag's text into the setting's value. default: the flag's default, if it differs from
    that of the API. in_chat: whether `gpt2c chat` also has the flag. more: further keyword arguments for
    `add_argument`.
    """

    metavar: str
    help: str
    parse: Callable[[str], Any] = int
    default: Any = inspect.Parameter.empty
    in_chat: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """The content of a row, apart from the setting's name and type.

    check: takes (name, value) and returns the value to use, or raises OptionError. flag: None for a setting
    that only the Python API has.
    """

    default: Any
    check: Callable[[str, Any], Any]
    meaning: str
    flag: Flag | None

    @property
    def flag_default(self) -> Any:
        """The value of the setting where the command line does not give one."""
        assert self.flag is not None
        is_own = self.flag.default is not inspect.Parameter.empty
        return self.flag.default if is_own else self.default


def _row(
    default: Any, check: Callable[[str, Any], Any], meaning: str, flag: Flag | None = None
) -> Any:  # really the type of the field; the type system cannot express that
    return field(default=default, metadata={"row": Setting(default, check, meaning, flag)})


def _integer(minimum: int = 0, maximum: int | None = None, note: str = "") -> Callable[[str, Any], int]:
    return lambda name, value: whole_number(name, value, minimum, maximum, note)


def _number(range_text: str, is_valid: Callable[[float], bool]) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if not (is_real(value) and is_valid(value)):
            raise OptionError(f"{name} must be {range_text}, not {value!r}")
        return value

    return check


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _choice(*values: Any) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if not any(value is known or (isinstance(value, str) and value == known) for known in values):
            *first, last = map(repr, values)
            raise OptionError(f"{name} must be {', '.join(first)} or {last}, not {value!r}")
        return value

    return check


def _strings(name: str, value: str | Iterable[str]) -> tuple[str, ...]:
    try:
        strings = (value,) if isinstance(value, str) else tuple(value)
    except TypeError:
        raise OptionError(f"{name} must be a string or several strings, not {value!r}") from None
    TextStream(strings)  # raises if one is invalid
    return strings


def _token_ids(name: str, value: Iterable[int]) -> tuple[int, ...]:
    try:
        return tuple(whole_number("a suppressed token", i) for i in value)
    except TypeError:
        raise OptionError(f"{name} must be token ids, not {value!r}") from None


def _length_penalty(name: str, value: Any) -> float:
    if not is_real(value) or abs(value) > MAX_LENGTH_PENALTY:
        maximum = MAX_LENGTH_PENALTY
        raise OptionError(f"{name} must be a number from {-maximum} to {maximum}, not {value!r}")
    return float(value)


def _unchecked(name: str, value: Any) -> Any:
    return value


def _early_stopping(text: str) -> Any:
    return {"false": False, "true": True}.get(text, text)


# ---- The rows ----


@dataclass(frozen=True)
class GenerationSettings:
    """The settings of one generation, checked. Raises OptionError if one is invalid."""

    max_new_tokens: int = _row(
        50,
        _integer(),
        "the maximum number of new tokens",
        Flag("N", "maximum number of new tokens (default: 50)", in_chat=True),
    )
    temperature: float = _row(
        0.0,
        _number(">= 0", lambda x: x >= 0),
        "0 is greedy; below 1, probable tokens become more probable; above 1, less probable",
        Flag("T", "0 is greedy (default: 0.8; a beam search uses 0)", float, None, in_chat=True),
    )
    top_k: int = _row(
        0,
        _integer(note=" (0: off)"),
        "choose only among the k most probable tokens; 0 is off",
        Flag(
            "K", "choose among the K most probable tokens (default: 40; 0 is off)", default=40, in_chat=True
        ),
    )
    top_p: float = _row(
        1.0,
        _number("in (0, 1]", lambda x: 0 < x <= 1),
        "choose only among the most probable tokens that together have probability p, in (0, 1]; 1 is off",
        Flag(
            "P",
            "choose among the most probable tokens that together have probability P (default: 1, off)",
            float,
            in_chat=True,
        ),
    )
    min_p: float = _row(
        0.0,
        _number("in [0, 1]", lambda x: 0 <= x <= 1),
        "rule out tokens less than p times as probable as the most probable one, in [0, 1]; 0 is off",
        Flag(
            "P",
            "rule out tokens below P times the largest probability (default: 0, off)",
            float,
            in_chat=True,
        ),
    )
    repetition_penalty: float = _row(
        1.0,
        _number("> 0 (1: off)", lambda x: x > 0),
        "above 1, tokens that are already in the prompt or text become less probable, as in the CTRL paper; "
        "1 is off",
        Flag(
            "R",
            "above 1, tokens already in the text become less probable (default: 1, off)",
            float,
            in_chat=True,
        ),
    )
    seed: int | None = _row(
        None,
        _optional(_integer()),
        "the seed of the sampler; None takes a new random seed each time",
        Flag("S", "seed of the sampler (default: 0, the same text every time)", default=0, in_chat=True),
    )
    stop: str | Iterable[str] = _row(
        (),
        _strings,
        "a string or several strings; the text ends before the first that occurs",
        Flag(
            "S",
            "end the text before any of these strings (a - for standard input must come before this flag)",
            str,
            [],
            more={"nargs": "+", "action": "extend"},
        ),
    )
    draft: Draft = _row(
        None,
        _unchecked,  # model.py checks it, because it knows what a model is
        'None, "ngram" or a loaded model with the same tokenizer. It guesses tokens, and one pass checks '
        "several guesses; the result is the same, and generation may be faster",
        Flag("D", "guess tokens ahead: ngram, or a smaller model (as for --model)", str),
    )
    overflow: Overflow = _row(
        "error",
        _choice("error", "slide"),
        'what happens when the context is full: "error" ends the text and rejects a longer prompt, "slide" '
        "drops the oldest tokens after the first n_ctx / 8",
        Flag("O", "when the context is full: error (default), or slide to drop old tokens", str),
    )
    no_repeat_ngram_size: int = _row(
        0,
        _integer(note=" (0: off)"),
        "no sequence of that many tokens occurs twice; 0 is off",
        Flag("N", "no sequence of N tokens occurs twice (default: 0, off)", in_chat=True),
    )
    suppress_tokens: Iterable[int] = _row((), _token_ids, "token ids that are never chosen")
    min_new_tokens: int = _row(
        0,
        _integer(),
        "the end-of-text token is ruled out for that many new tokens",
        Flag("N", "do not end the text before N new tokens (default: 0)", in_chat=True),
    )
    num_assistant_tokens: int | None = _row(
        None,
        _optional(_integer(1, MAX_ASSISTANT_TOKENS)),
        "how many of a draft's guesses one pass checks; None adapts the number to what is fastest",
        Flag("K", "how many of a draft's guesses one pass checks (default: adapts to what is fastest)"),
    )
    logprobs: int | None = _row(
        None,
        _optional(_integer()),
        "report the log probability of each new token and of the k most probable tokens; None is off",
    )
    num_beams: int = _row(
        1,
        _integer(1, MAX_BEAMS),
        "above 1, follow that many continuations at once to find the most probable one; needs temperature 0, "
        "and `stream` refuses it",
        Flag("K", "beam search with K beams (default: 1, off)"),
    )
    length_penalty: float = _row(
        1.0,
        _length_penalty,
        "the score of a beam is its sum of log probabilities divided by (its length) ** length_penalty; a "
        "value above 0 favors long texts",
        Flag("P", "affects the scores of beams: above 0 favors long texts (default: 1)", float),
    )
    early_stopping: EarlyStopping = _row(
        False,
        _choice(False, True, "never"),
        "when a beam search ends: True once num_beams texts are finished, False when a better one is "
        'unlikely, "never" only when a better one is impossible',
        Flag(
            "E",
            "when a beam search ends: true (K texts are finished), false (a better one is unlikely; the "
            "default), never (a better one is impossible)",
            _early_stopping,
        ),
    )

    def __post_init__(self) -> None:
        for name, row in SETTINGS.items():
            object.__setattr__(self, name, row.check(name, getattr(self, name)))
        if self.num_assistant_tokens is not None and self.draft is None:
            raise OptionError("num_assistant_tokens needs a draft, and none is given")
        self._check_beams()

    def _check_beams(self) -> None:
        if self.num_beams == 1:
            if self.length_penalty != 1 or self.early_stopping is not False:
                raise OptionError("length_penalty and early_stopping need several beams, and num_beams is 1")
            return
        excluded = {
            f"temperature {self.temperature}": self.temperature != 0,
            "a draft": self.draft is not None,
            "overflow='slide'": self.overflow == "slide",
        }
        for what, is_given in excluded.items():
            if is_given:
                raise OptionError(f"num_beams {self.num_beams} and {what} exclude each other")

    @property
    def is_greedy(self) -> bool:
        """Whether the next token is the one with the largest logit, before any setting changes the logits."""
        return (
            self.temperature == 0
            and self.repetition_penalty == 1
            and not (self.no_repeat_ngram_size or self.suppress_tokens or self.min_new_tokens)
        )

    @property
    def needs_logits(self) -> bool:
        """Whether the choice of a token needs more than the id of the largest logit."""
        return not self.is_greedy or self.logprobs is not None

    @property
    def has_beams(self) -> bool:
        """Whether this is a beam search."""
        return self.num_beams > 1

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The setting `stop`, as a tuple."""
        return cast("tuple[str, ...]", self.stop)

    @property
    def suppressed(self) -> tuple[int, ...]:
        """The setting `suppress_tokens`, as a tuple."""
        return cast("tuple[int, ...]", self.suppress_tokens)


SETTINGS: Mapping[str, Setting] = {row.name: row.metadata["row"] for row in fields(GenerationSettings)}
"""All settings by name, in the order of the parameters."""

if GenerationSettings.__doc__:  # None with python -OO
    GenerationSettings.__doc__ += "\n\n" + "\n".join(
        f"{name}: {row.meaning}." for name, row in SETTINGS.items()
    )


# ---- Methods that take settings ----

P = ParamSpec("P")
Self = TypeVar("Self")
Given = TypeVar("Given")
Made = TypeVar("Made")
Record = TypeVar("Record")


def takes(
    make: Callable[P, Record],
) -> Callable[[Callable[[Self, Given, Record], Made]], Callable[Concatenate[Self, Given, P], Made]]:
    """Decorate a method that takes a record, so that it takes the record's parameters instead.

    It gives every method that generates text the parameters of `GenerationSettings`, also in its signature.
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
