"""The engines that can run a model. Each is a module here, and a row below: registered here only.

`native` is the C core; the presets are the C core with options by another name. The others compute the
same model with a library, to compare with and to learn from: each takes the same float32 weights, keeps
K and V, and sits behind the same `Model`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace

from ..errors import BackendUnavailable, OptionError
from ..options import OPTIONS, SWITCHES, nearest
from . import cached, native
from .choices import Choices, Loader

__all__ = ["LIBRARIES", "PRESETS", "Choices", "Loader", "loader", "names"]


@dataclass(frozen=True)
class Library:
    """An engine on top of a library: packages that it imports, and the extra that installs them."""

    packages: tuple[str, ...]
    extra: str


LIBRARIES: dict[str, Library] = {
    "numpy": Library((), ""),
    "numba": Library(("numba",), "numba"),
    "torch": Library(("torch",), "torch"),
    "hf": Library(("torch", "transformers"), "hf"),
}

_SIMD = ("aligned", "simd", "threads")
_KV = (*_SIMD, *SWITCHES)
_KV2 = (*_KV, "fused")

PRESETS: dict[str, tuple[str, ...]] = {
    "c_naive": (),
    "c_simd": _SIMD,
    "c_kv": _KV,
    "c_kv2": _KV2,
    "c_q8": (*_KV2, "q8"),
    "c_q4": (*_KV2, "q4"),
}
"""The native engine's options by another name. One whose options do not exist is not offered."""


def names() -> tuple[str, ...]:
    """Every engine and preset, whether or not its packages are installed."""
    known = {option.name for option in OPTIONS}
    return ("native", *LIBRARIES, *(name for name, opts in PRESETS.items() if known.issuperset(opts)))


def loader(backend: str, choices: Choices) -> Loader:
    """Who opens checkpoints for an engine of that name.

    Raises OptionError: no such engine, options that do not exist or do not go with it.
    BackendUnavailable: a package or a binding is missing.
    """
    if backend not in names():
        raise OptionError(
            f"unknown backend {backend!r}{nearest(backend, names())} (choose from {', '.join(names())})"
        )
    if backend in LIBRARIES:
        return _library(backend, choices)
    if backend in PRESETS:
        if "opts" in choices.given():
            raise OptionError(f"backend {backend!r} is a choice of options: give none beside it")
        choices = replace(choices, opts=PRESETS[backend])
    return native.loader(choices)


def _library(backend: str, choices: Choices) -> Loader:
    given = choices.given()
    if given:
        raise OptionError(f"{' and '.join(given)}: for the native backend only, not for {backend!r}")
    library = LIBRARIES[backend]
    for module in (*library.packages, f"{__name__}.{backend}"):
        try:
            imported = importlib.import_module(module)
        except (ImportError, OSError) as error:  # OSError: a shared library that does not load
            packages = " and ".join(library.packages)
            raise BackendUnavailable(
                f"backend {backend!r} needs {packages}: {_first_line(error)}; "
                f"install the extra: pip install 'gpt2c[{library.extra}]'"
            ) from error
    return cached.loader(backend, imported.Engine)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
