"""Compiles what the kernels' benchmark needs beside the package: limits.c, and kernels.c with the core."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))
import native_build  # noqa: E402

_TYPES: dict[str, Any] = {
    "p": ctypes.c_void_p,
    "n": ctypes.c_size_t,
    "i": ctypes.c_int32,
    "f": ctypes.c_float,
    "-": None,
}
_SIGNATURES = {
    "read": "- pnn n",
    "read_step": "n",
    "multiply_add": "- n",
    "multiply_add_operations": "n",
    "bf16": "- n",
    "bf16_operations": "n",
    "matrices_new": "p pnnin",
    "matrices_free": "- p",
    "packed_x_bytes": "n nn",
    "linear": "- ippppn n",
    "attention_new": "p ipnnnnn",
    "attention_free": "- p",
    "attention": "- pp n",
    "layernorm": "- ippppnnf n",
    "gelu": "- ippn n",
    "gelu_table": "- ippnp n",
    "softmax": "- ippnn n",
    "add": "- ipppn n",
    "argmax": "- ippn n",
}
"""Of the functions of both files, by name without prefix: result, then arguments, the last of them loops."""

_OF_LIMITS = ("read", "read_step", "multiply_add", "multiply_add_operations", "bf16", "bf16_operations")

NATIVE_FLAGS: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
"""The first that the compiler takes is used for limits.c."""


class BuildFailed(Exception):
    """There is no C compiler, or it did not take the sources."""


class Handle:
    """Something that C allocated; freed with its last reference."""

    def __init__(self, address: int, free: Callable[[int], None]) -> None:
        self.address, self._free = address, free

    def __del__(self) -> None:
        self._free(self.address)


class Library:
    """The compiled functions. Arguments are numbers, C-contiguous arrays and handles."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        loaded = ctypes.CDLL(str(path))
        self._functions: dict[str, Callable[..., Any]] = {}
        for name in names:
            signature = _SIGNATURES[name]
            result, *arguments = (_TYPES[letter] for letter in signature.replace(" ", ""))
            function = loaded[f"gpt2c_bench_{name}"]
            function.restype, function.argtypes = result, arguments
            self._functions[name] = function

    def number(self, name: str, *arguments: int) -> int:
        return int(self._functions[name](*arguments))

    def new(self, name: str, *arguments: Any) -> Handle:
        """NAME_new(arguments), and NAME_free when it is let go. MemoryError."""
        address = self._functions[f"{name}_new"](*map(_raw, arguments))
        if not address:
            raise MemoryError(f"no memory for {name}")
        return Handle(address, self._functions[f"{name}_free"])

    def repeat(self, name: str, *arguments: Any) -> Callable[[int], None]:
        """A function of the number of loops, which holds on to the arguments."""
        function, held = self._functions[name], arguments

        def run(loops: int) -> None:
            function(*map(_raw, held), loops)

        return run


def _raw(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return argument.ctypes.data
    return argument.address if isinstance(argument, Handle) else argument


def build() -> Library:
    """Takes some seconds. BuildFailed: what the compiler said."""
    groups = native_build.groups(platform.machine())
    jobs = [(source, flags) for sources, flags in groups for source in sources]
    jobs.append(("bench/kernels.c", [*native_build.FLAGS, "-fvisibility=default"]))
    with TemporaryDirectory() as folder:
        to = Path(folder)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: _compile(job[0], job[1], to), jobs))
        objects.append(_compile_native("bench/limits.c", to))
        return _link(objects, to, _SIGNATURES)


def build_limits() -> Library:
    """The functions of limits.c alone, in a second or so. BuildFailed: what the compiler said."""
    with TemporaryDirectory() as folder:
        to = Path(folder)
        return _link([_compile_native("bench/limits.c", to)], to, _OF_LIMITS)


def _link(objects: Sequence[str], to: Path, names: Iterable[str]) -> Library:
    library = to / "bench.so"
    _call(["-shared", *objects, "-lm", "-lpthread", "-o", str(library)])
    return Library(library, names)


def _compile(source: str, flags: Sequence[str], to: Path) -> str:
    made = str(to / (source.replace("/", "-") + ".o"))
    include = [f"-I{folder}" for folder in native_build.INCLUDE_DIRS]
    _call([*flags, "-fPIC", *include, "-c", source, "-o", made])
    return made


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
