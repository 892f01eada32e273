"""What the C core consists of, and how each part is compiled: read by setup.py and what checks the core.

Nothing is listed here: sources are found, and flags stand in native/isa.def.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c99", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-D_POSIX_C_SOURCE=200809L"]
INCLUDE_DIRS = ["include", "native"]


def architecture(machine: str) -> str:
    """`platform.machine()` -> the name that isa.def uses."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())


def isa_rows(machine: str) -> list[tuple[str, list[str]]]:
    """(name, compiler flags) of the rows of isa.def that a machine of this architecture can have."""
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "native/isa.def").read_text(), flags=re.S)
    rows = re.findall(r'GPT2C_ISA\((\w+),\s*(\w+),[^"]*"([^"]*)"\)', text)
    return [(name, flags.split()) for name, where, flags in rows if where in ("any", architecture(machine))]


def portable_isas() -> list[str]:
    """Names of the instruction sets of every architecture, which need no feature of a CPU."""
    return [name for name, _ in isa_rows("any")]


def groups(machine: str) -> list[tuple[list[str], list[str]]]:
    """(sources, flags) of each part of the core, paths relative to the root."""
    folders: list[tuple[str, list[str]]] = [("native", [])]
    folders += [(f"native/kernels/{name}", flags) for name, flags in isa_rows(machine)]
    return [
        (sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("*.c")), FLAGS + flags)
        for folder, flags in folders
    ]


def compile_all(
    compile_one: Callable[[str, list[str]], str], parts: Iterable[tuple[list[str], list[str]]]
) -> list[str]:
    """`compile_one(source, flags)` for each source of `groups`, one a CPU at a time; the objects in order."""
    work = [(source, flags) for sources, flags in parts for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, *zip(*work, strict=True)))
