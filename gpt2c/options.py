"""The options: one row each, and `resolve`, which turns names into a `Plan`.

Pure: nothing here loads a binding. What this machine can run is handed in.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .errors import OptionError


@dataclass(frozen=True)
class Option:
    """One row: what the option does when on and when off, and how it goes with others."""

    name: str
    on: str
    off: str
    needs: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    in_all: bool = True
    value: str = ""  # what may stand behind "=", if anything


# The six switches come first, in the order of gpt2c_switch in include/gpt2c.h.
OPTIONS: tuple[Option, ...] = (
    Option("kv", "Q, K, V and attention for new tokens only; K and V are kept", "for every token, each step"),
    Option("linear", "attention output and MLP projections for new tokens only", "for every token"),
    Option("gelu", "GELU of new tokens only", "of every token"),
    Option("residual", "embedding rows and residual additions of new tokens only", "of every token"),
    Option("layernorm", "layer norms of new tokens only", "of every token"),
    Option("unembed", "logits of the last position only", "of every position"),
    Option("gelu_table", "GELU by a table over all fp16 values", "the tanh formula", in_all=False),
    Option("aligned", "weights in 64-byte aligned panels", "row-major as in the file"),
    Option("unroll", "the portable unrolled kernels", "naive loops", in_all=False),
    Option("simd", "the best (or named) instruction set", "naive loops", needs=("aligned",), value="isa"),
)

SWITCHES = tuple(option.name for option in OPTIONS[:6])
_BY_NAME = {option.name: option for option in OPTIONS}
_ALL = tuple(option.name for option in OPTIONS if option.in_all)

# The sets that need no SIMD unit; of the others `simd` takes the best.
_PORTABLE = ("ref", "unroll")


@dataclass(frozen=True)
class Plan:
    """What a model will do: options in the table's order, all needs added, and the instruction set."""

    options: tuple[str, ...]
    isa: str
    weights: str = "f32"

    def __contains__(self, option: str) -> bool:
        return option in self.options

    def __str__(self) -> str:
        return f"opts={','.join(self.options) or 'none'} isa={self.isa} weights={self.weights}"

    @property
    def switches(self) -> int:
        """The six switches as gpt2c_model_config.switches wants them: bit s for switch s."""
        return sum(1 << s for s, name in enumerate(SWITCHES) if name in self.options)


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' when a known name is close, else ''."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _parse(opts: str | Iterable[str]) -> dict[str, str]:
    """The options named, each with the value behind its "=" or ""."""
    if isinstance(opts, str):
        words = [word.strip() for word in opts.split(",")]
    else:
        words = [str(word).strip() for word in opts]
    if words in ([], [""], ["none"]):
        return {}
    chosen: dict[str, str] = {}
    seen: set[str] = set()
    for word in words:
        name, equals, value = word.partition("=")
        if name == "none":
            raise OptionError("'none' cannot be combined with other options")
        if name != "all" and name not in _BY_NAME:
            raise OptionError(f"unknown option {name!r}{nearest(name, [*_BY_NAME, 'all', 'none'])}")
        if equals and (name == "all" or not _BY_NAME[name].value):
            raise OptionError(f"option {name!r} takes no value")
        if equals and not value:
            raise OptionError(f"option {word!r}: the value is missing")
        if name in seen:
            raise OptionError(f"option {name!r} is given twice")
        seen.add(name)
        for option in _ALL if name == "all" else [name]:
            chosen[option] = value or chosen.get(option, "")
    return chosen


def _with_needs(chosen: Iterable[str]) -> set[str]:
    wanted = set(chosen)
    todo = list(wanted)
    while todo:
        for need in _BY_NAME[todo.pop()].needs:
            if need not in wanted:
                wanted.add(need)
                todo.append(need)
    for name in sorted(wanted):
        for other in _BY_NAME[name].excludes:
            if other in wanted:
                raise OptionError(f"options {name!r} and {other!r} exclude each other")
    return wanted


def _resolve_isa(wanted: set[str], simd: str, isa: str, isas: Sequence[str], supported: Sequence[str]) -> str:
    """The instruction set; brings `wanted` into line with it. simd: the value of simd=, or ""."""
    if simd in _PORTABLE:
        raise OptionError(f"'simd={simd}' is not a SIMD instruction set; use isa={simd}")
    if isa == "auto":
        best = [name for name in supported if name not in _PORTABLE] or supported
        isa = simd or (best[-1] if "simd" in wanted else "unroll" if "unroll" in wanted else "ref")
    elif simd and simd != isa:
        raise OptionError(f"'simd={simd}' and isa {isa!r} are two instruction sets")
    if isa not in isas:
        raise OptionError(f"unknown instruction set {isa!r} (there are: auto, {', '.join(isas)})")
    if isa not in supported:
        raise OptionError(f"this machine cannot run {isa!r} (it can: {', '.join(supported)})")
    wanted -= {"simd", "unroll"}
    if isa == "unroll":
        wanted.add("unroll")
    elif isa not in _PORTABLE:
        wanted |= _with_needs(["simd"])
    return isa


def resolve(
    opts: str | Iterable[str] = "all",
    *,
    isa: str = "auto",
    weights: str | None = None,
    isas: Sequence[tuple[str, bool]],
    environ: Mapping[str, str] = os.environ,
) -> Plan:
    """Options as given -> what will be done.

    opts: a comma list or an iterable of names, "none" or "all", in any order. isa: a name or "auto",
    then simd=, then $GPT2C_ISA, then the best one if `simd` is on. isas: (name, supported) from slow to
    fast, as the binding lists them.

    Raises OptionError for an unknown name (with the nearest one), a duplicate or a conflict.
    """
    named = _parse(opts)
    wanted, simd = _with_needs(named), named.get("simd", "")
    if isa == "auto" and not simd:
        isa = environ.get("GPT2C_ISA", "auto")
    chosen = _resolve_isa(wanted, simd, isa, [name for name, _ in isas], [name for name, ok in isas if ok])
    if weights not in (None, "f32"):
        raise OptionError(f"unknown weight format {weights!r} (there is: f32)")
    return Plan(tuple(option.name for option in OPTIONS if option.name in wanted), chosen)
