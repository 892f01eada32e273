"""Compiles C code that measures: limits.c alone, or with the core and the C file of a study."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from shared.checkout import ROOT, native_build

_TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p,
    "n": ctypes.c_size_t,
    "i": ctypes.c_int32,
    "f": ctypes.c_float,
    "-": None,
}
LIMITS = {
    "read": "- pnn n",
    "read_step": "n",
    "multiply_add": "- n",
    "multiply_add_operations": "n",
    "bf16": "- n",
    "bf16_operations": "n",
}
"""Signatures of the functions of limits.c by name without prefix: result, arguments, number of loops."""

NATIVE_FLAGS: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
"""limits.c is compiled with the first of these that the compiler accepts."""


class BuildFailed(Exception):
    """No C compiler was found, or it rejected the sources."""


class Handle:
    """A pointer to memory that C allocated. It is freed with the last reference to the handle."""

    def __init__(self, address: int, free: Callable[[int], None]) -> None:
        self.address, self._free = address, free

    def __del__(self) -> None:
        self._free(self.address)


class Library:
    """The compiled functions. Their arguments are numbers, C-contiguous arrays and handles."""

    def __init__(self, path: Path, signatures: Mapping[str, str]) -> None:
        loaded = ctypes.CDLL(str(path))
        self._functions: dict[str, Callable[..., Any]] = {}
        for name, signature in signatures.items():
            result, *arguments = (_TYPES[letter] for letter in signature.replace(" ", ""))
            function = loaded[f"gpt2c_bench_{name}"]
            function.restype, function.argtypes = result, arguments
            self._functions[name] = function

    def number(self, name: str, *arguments: int) -> int:
        return int(self._functions[name](*arguments))

    def new(self, name: str, *arguments: Any) -> Handle:
        """Call NAME_new(arguments); NAME_free is called when the handle is dropped. MemoryError."""
        address = self._functions[f"{name}_new"](*map(_raw, arguments))
        if not address:
            raise MemoryError(f"no memory for {name}")
        return Handle(address, self._functions[f"{name}_free"])

    def repeat(self, name: str, *arguments: Any) -> Callable[[int], None]:
        """A function of the number of loops. It holds references to the arguments."""
        function, held = self._functions[name], arguments

        def run(loops: int) -> None:
            function(*map(_raw, held), loops)

        return run


def _raw(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return argument.ctypes.data
    return argument.address if isinstance(argument, Handle) else argument


def build(source: str, signatures: Mapping[str, str]) -> Library:
    """Compile a study's C file with the core and limits.c, which takes some seconds.

    source: relative to the root; signatures: of its functions, written as in LIMITS. BuildFailed: with the
    compiler's message.
    """
    groups = native_build.groups(platform.machine())
    jobs = [(source, flags) for sources, flags in groups for source in sources]
    jobs.append((source, [*native_build.FLAGS, "-fvisibility=default"]))
    with TemporaryDirectory() as folder:
        to = Path(folder)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: _compile(job[0], job[1], to), jobs))
        objects.append(_compile_native("bench/shared/limits.c", to))
        return _link(objects, to, {**LIMITS, **signatures})


def build_limits() -> Library:
    """Compile limits.c alone, which takes about a second. BuildFailed: with the compiler's message."""
    with TemporaryDirectory() as folder:
        to = Path(folder)
        return _link([_compile_native("bench/shared/limits.c", to)], to, LIMITS)


def _link(objects: Sequence[str], to: Path, signatures: Mapping[str, str]) -> Library:
    library = to / "bench.so"
    _call(["-shared", *objects, "-lm", "-lpthread", "-o", str(library)])
    return Library(library, signatures)


def _compile(source: str, flags: Sequence[str], to: Path) -> str:
    object_file = str(to / (source.replace("/", "-") + ".o"))
    include = [f"-I{folder}" for folder in native_build.INCLUDE_DIRS]
    _call([*flags, "-fPIC", *include, "-c", source, "-o", object_file])
    return object_file


def _compile_native(source: str, to: Path) -> str:
    for flags in NATIVE_FLAGS[:-1]:
        try:
            return _compile(source, ["-std=c99", "-O3", *flags], to)
        except BuildFailed:  # a flag of another compiler or architecture
            continue
    return _compile(source, ["-std=c99", "-O3", *NATIVE_FLAGS[-1]], to)


def _call(arguments: Sequence[str]) -> None:
    command = [os.environ.get("CC", "cc"), *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError as error:
        raise BuildFailed(f"no C compiler: {error}") from None
    if done.returncode != 0:
        raise BuildFailed(f"{' '.join(command)}\n{done.stderr[-2000:]}")
