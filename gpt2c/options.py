"""The options, one row each, and `resolve`, which turns option names into a `Plan`.

This module is pure: it loads no binding and does not look at the machine. The caller passes in what the
machine supports.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .errors import OptionError


@dataclass(frozen=True)
class Option:
    """One row: what the option does when on and when off, and how it combines with others.

    needs: options that it turns on. replaces: options that it turns off. in_all: whether "all" has it.
    value: what the value that may follow after "=" is called; None if the option takes none.
    is_field: whether `gpt2c_model_config` in C has a field of this name: 1 with the option, 0 without it.
    """

    name: str
    on: str
    off: str
    needs: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    in_all: bool = True
    value: str | None = None
    is_field: bool = False


# The six switches come first, in the order of gpt2c_switch in include/gpt2c.h.
OPTIONS: tuple[Option, ...] = (
    Option(
        "kv",
        "Q, K, V and attention for new tokens only; K and V are stored",
        "for every token, at each step",
    ),
    Option("linear", "attention output and MLP projections for new tokens only", "for every token"),
    Option("gelu", "GELU for new tokens only", "for every token"),
    Option("residual", "embedding rows and residual additions for new tokens only", "for every token"),
    Option("layernorm", "layer norms for new tokens only", "for every token"),
    Option("unembed", "logits of the last position only", "logits of every position"),
    Option(
        "gelu_table",
        "GELU from a table over all fp16 values",
        "the tanh formula",
        in_all=False,
        is_field=True,
    ),
    Option("aligned", "weights in 64-byte aligned panels", "row-major, as in the file", is_field=True),
    Option("unroll", "portable unrolled kernels", "naive loops", in_all=False),
    Option(
        "simd",
        "SIMD kernels of the best instruction set, or of the named one",
        "naive loops",
        needs=("aligned",),
        replaces=("unroll",),
        value="isa",
    ),
    Option("threads", "a pool of N threads; without N, one per core", "one thread", value="N"),
    Option(
        "fused",
        "GELU, residual and the scale of scores applied inside the kernels that precede them",
        "separate passes over the data",
        needs=("kv", "linear", "gelu", "residual"),
        is_field=True,
    ),
    Option(
        "head_screen",
        "greedy ids from a compact copy of the head, proved correct; only a few logits are computed exactly",
        "the whole head",
        needs=("aligned", "unembed"),
        is_field=True,
    ),
    Option("bf16", "weights in bfloat16, half the bytes", "float32", needs=("aligned",), in_all=False),
    Option(
        "q8",
        "weights in 8 bits, a quarter of the bytes",
        "float32",
        needs=("aligned",),
        replaces=("head_screen",),  # its compact copy would be as large as the head itself
        in_all=False,
    ),
    Option(
        "q4",
        "weights in 4 bits, a seventh of the bytes",
        "float32",
        needs=("aligned",),
        replaces=("head_screen",),
        in_all=False,
    ),
    Option(
        "kv_f16",
        "K and V stored in half precision, half the bytes",
        "float32",
        needs=("kv",),
        in_all=False,
        is_field=True,
    ),
)

SWITCHES = tuple(option.name for option in OPTIONS[:6])
_BY_NAME = {option.name: option for option in OPTIONS}
_ALL = tuple(option.name for option in OPTIONS if option.in_all)

# Weight formats. f32 is the default and has no option; the others exclude each other.
WEIGHTS = ("f32", "bf16", "q8", "q4")

# Instruction sets that are not SIMD, and the options that choose them.
PLAIN_ISAS: dict[str, tuple[str, ...]] = {"ref": (), "unroll": ("unroll",)}

MAX_THREADS = 1024


@dataclass(frozen=True)
class Plan:
    """How a model runs: the resolved options, in the order of OPTIONS, and the choices made for them.

    backend: "native". For another backend, a plan holds only its name and the weight format, since its
    library decides everything else.
    """

    options: tuple[str, ...]
    isa: str = ""
    threads: int = 1
    weights: str = "f32"
    backend: str = "native"

    def __contains__(self, option: str) -> bool:
        return option in self.options

    def __str__(self) -> str:
        if self.backend != "native":
            return f"backend={self.backend} weights={self.weights}"
        names = ",".join(self.options) or "none"
        return f"opts={names} isa={self.isa} threads={self.threads} weights={self.weights}"

    @property
    def switches(self) -> int:
        """The six switches as gpt2c_model_config.switches: bit s is switch s."""
        return sum(1 << s for s, name in enumerate(SWITCHES) if name in self.options)

    @property
    def copies_sessions(self) -> bool:
        """Whether a session can take over the tokens of another one; only the C core can do that."""
        return self.backend == "native"

    @property
    def is_incremental(self) -> bool:
        """Whether all six switches are on, so that a feed computes new tokens only.

        One pass can then serve many sessions.
        """
        return all(name in self.options for name in SWITCHES)


def nearest(name: object, known: Iterable[str]) -> str:
    """Return " (did you mean ...?)" if a known name is similar, else ""."""
    close = difflib.get_close_matches(str(name).lower(), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _parse(opts: str | Iterable[str]) -> dict[str, str | None]:
    """Parse option names as given into {option: its value or None}."""
    words = [str(word).strip() for word in (opts.split(",") if isinstance(opts, str) else opts)]
    if words in ([], [""], ["none"]):
        return {}
    chosen: dict[str, str | None] = {}
    seen: set[str] = set()
    for word in words:
        name, _, value = word.partition("=")
        if name == "none":
            raise OptionError("'none' cannot be combined with other options")
        if name != "all" and name not in _BY_NAME:
            raise OptionError(f"unknown option {name!r}{nearest(name, [*_BY_NAME, 'all', 'none'])}")
        if "=" in word and (name == "all" or _BY_NAME[name].value is None):
            raise OptionError(f"option {name!r} takes no value")
        if "=" in word and not value:
            raise OptionError(f"option {name!r} needs a value after '='")
        if name in seen:
            raise OptionError(f"option {name!r} is given twice")
        seen.add(name)
        if name == "all":
            chosen = {**dict.fromkeys(_ALL), **chosen}
        else:
            chosen[name] = value or None
    return chosen


def _one_value(name: str, in_opts: str | None, argument: str | None) -> str | None:
    """Return the value given in the options or as an argument; OptionError if the two differ."""
    if in_opts is not None and argument is not None and in_opts != argument:
        raise OptionError(f"two values for {name}: {in_opts!r} in the options and {argument!r}")
    return in_opts or argument


def isa_of(environ: Mapping[str, str]) -> str | None:
    """Return the instruction set that $GPT2C_ISA names; None means the best available."""
    named = environ.get("GPT2C_ISA")
    return named if named and named != "auto" else None


def _choose_isa(
    wanted: set[str], named: str | None, from_environment: str | None, isas: Sequence[tuple[str, bool]]
) -> str:
    """Return the instruction set, and update the options in `wanted` to match it."""
    supported = [name for name, ok in isas if ok]
    origin = ""
    if named is None and "simd" in wanted:
        named = from_environment or supported[-1]
        origin = " from GPT2C_ISA" if from_environment else ""
    if named is None:
        return "unroll" if "unroll" in wanted else "ref"
    if named not in [name for name, _ in isas]:
        names = ", ".join(name for name, _ in isas)
        raise OptionError(f"unknown instruction set {named!r}{origin} (choose from auto, {names})")
    if named not in supported:
        raise OptionError(f"this machine cannot run {named!r}{origin} (choose from {', '.join(supported)})")
    wanted -= {"simd", "unroll"}
    wanted |= set(PLAIN_ISAS.get(named, ("simd", "aligned")))
    return named


def _choose_weights(wanted: set[str], named: str | None, stored: str) -> str:
    if named is not None and named not in WEIGHTS:
        raise OptionError(f"unknown weight format {named!r} (choose from {', '.join(WEIGHTS)})")
    in_opts = [name for name in WEIGHTS if name in wanted]
    chosen = {*in_opts, *([named] if named else [])}
    if len(chosen) > 1:
        raise OptionError(f"two weight formats: {' and '.join(map(repr, sorted(chosen)))}")
    weights = chosen.pop() if chosen else stored
    if weights != "f32":
        wanted.add(weights)
    return weights


def _choose_threads(wanted: set[str], named: str | None, from_environment: str | None, cores: int) -> int:
    if named is None and "threads" not in wanted:
        return 1
    wanted.add("threads")
    name, text = ("threads", named) if named else ("GPT2C_THREADS", from_environment)
    if text is None:
        return cores
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_THREADS):
        raise OptionError(f"{name} must be an integer from 1 to {MAX_THREADS}, not {text!r}")
    return int(text)


def _add_needs(wanted: set[str]) -> None:
    todo = list(wanted)
    while todo:
        new = set(_BY_NAME[todo.pop()].needs) - wanted
        wanted |= new
        todo += new
    for name in list(wanted):
        wanted -= set(_BY_NAME[name].replaces)


def resolve(
    opts: str | Iterable[str] = "all",
    *,
    isa: str = "auto",
    threads: int | None = None,
    weights: str | None = None,
    stored: str = "f32",
    isas: Sequence[tuple[str, bool]],
    cores: int = 1,
    environ: Mapping[str, str] = os.environ,
) -> Plan:
    """Resolve options as a user gives them into a Plan.

    opts: a comma-separated list or an iterable of names, "none" or "all", in any order; "simd=avx2" and
    "threads=2" carry a value. isa, threads, weights: another way to make the same choices; they turn the
    matching options on ("ref" and "unroll" turn `simd` off). stored: the weight format to use if none is
    named. isas: (name, supported) of each instruction set, from slow to fast. cores: how many cores the
    process may use. Where `simd` or `threads` is on without a value, $GPT2C_ISA or $GPT2C_THREADS in
    `environ` decides, else the machine.

    Raises OptionError for an unknown name (the message suggests the nearest known one), a duplicate, or two
    different values for one choice.
    """
    chosen = _parse(opts)
    wanted = set(chosen)
    chosen_weights = _choose_weights(wanted, weights, stored)
    if chosen.get("simd") in PLAIN_ISAS:
        raise OptionError(f"{chosen['simd']!r} is not SIMD: use isa={chosen['simd']} for it")
    named_isa = _one_value("the instruction set", chosen.get("simd"), None if isa == "auto" else isa)
    named_threads = _one_value("threads", chosen.get("threads"), None if threads is None else str(threads))
    n_threads = _choose_threads(wanted, named_threads, environ.get("GPT2C_THREADS") or None, cores)
    chosen_isa = _choose_isa(wanted, named_isa, isa_of(environ), isas)
    _add_needs(wanted)
    names = tuple(option.name for option in OPTIONS if option.name in wanted)
    return Plan(names, chosen_isa, n_threads, chosen_weights)
