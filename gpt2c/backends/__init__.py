"""The backends that can run a model, and the only place that registers them. Each one is a module here.

`native` is the C core; a preset is a name for the C core with certain options. The other backends compute
the same model with a Python library, for comparison and for learning: each one takes the same float32
weights, stores K and V, and is used through the same `Model`.
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
    """A backend written with a library: the packages that it imports, and the extra that installs them."""

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
"""Presets: names for sets of the native backend's options. A preset with an unknown option is not offered."""


def names() -> tuple[str, ...]:
    """Every backend and preset, whether or not its packages are installed."""
    known = {option.name for option in OPTIONS}
    return ("native", *LIBRARIES, *(name for name, opts in PRESETS.items() if known.issuperset(opts)))


def loader(backend: str, choices: Choices) -> Loader:
    """The function that loads a checkpoint into the backend of that name.

    OptionError: there is no such backend, or it does not take the options that `choices` gives.
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
            raise OptionError(f"backend {backend!r} is a preset of options: give no others with it")
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
    return cached.loader(backend, imported.Backend)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
