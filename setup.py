"""Builds the C core once and links it into both extensions.

What is compiled is found, not listed: native/*.c, and native/kernels/<name>/*.c for every row of
native/isa.def whose architecture fits, with that row's flags. GPT2C_BUILD=cffi leaves Cython out.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

ROOT = Path(__file__).parent
BINDINGS = Path("gpt2c/bindings")
BASE_FLAGS = "-std=c99 -O3 -ffp-contract=off -fvisibility=hidden -D_POSIX_C_SOURCE=200809L".split()
WITHOUT_CYTHON = os.environ.get("GPT2C_BUILD") == "cffi"
ARCHITECTURE = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())


def isa_rows() -> list[tuple[str, list[str]]]:
    """(name, compiler flags) of the rows of isa.def that this architecture can have."""
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "native/isa.def").read_text(), flags=re.S)
    rows = re.findall(r'GPT2C_ISA\((\w+),\s*(\w+),[^"]*"([^"]*)"\)', text)
    return [(name, flags.split()) for name, architecture, flags in rows if architecture in ("any", ARCHITECTURE)]


def sources(folder: str) -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("*.c"))


def generate_cffi_source(path: Path) -> None:
    """Writes the CFFI extension's C from the text between the header's markers."""
    import cffi

    header = (ROOT / "include/gpt2c.h").read_text()
    declarations = header.split("/* BEGIN DECLARATIONS */")[1].split("/* END DECLARATIONS */")[0]
    builder = cffi.FFI()
    builder.cdef(declarations + '\nextern "Python" int gpt2c_cffi_poll(void *context);\n')
    builder.set_source("gpt2c.bindings._cffi", '#include "gpt2c.h"')
    builder.emit_c_code(str(path))


class BuildCore(build_ext):
    """Compiles the core's objects with their own flags, then the two extensions against them."""

    def run(self) -> None:
        if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
            sys.exit("gpt2c: Python.h is missing; install Python's headers (Debian: apt install python3-dev)")
        try:
            super().run()
        except (CCompilerError, ExecError, PlatformError) as error:
            sys.exit(f"gpt2c: the C core could not be built; a C compiler is needed (Debian: apt install gcc): {error}")

    def build_extensions(self) -> None:
        objects = self.compile_core()
        for extension in self.extensions:
            extension.extra_objects = extension.depends = objects
        generate_cffi_source(ROOT / BINDINGS / "_cffi.c")
        super().build_extensions()

    def compile_core(self) -> list[str]:
        groups = [("native", [])] + [(f"native/kernels/{name}", flags) for name, flags in isa_rows()]
        objects: list[str] = []
        for folder, flags in groups:
            objects += self.compiler.compile(
                sources(folder),
                output_dir=self.build_temp,
                include_dirs=["include", "native"],
                extra_postargs=BASE_FLAGS + flags,
            )
        return objects


def extensions() -> list[Extension]:
    common = {"include_dirs": ["include"], "libraries": ["m", "pthread"]}
    made = [Extension("gpt2c.bindings._cffi", [f"{BINDINGS}/_cffi.c"], py_limited_api=True, **common)]
    if not WITHOUT_CYTHON:
        from Cython.Build import cythonize

        made += cythonize(
            [Extension("gpt2c.bindings._cython", [f"{BINDINGS}/_cython.pyx"], **common)],
            compiler_directives={"language_level": "3"},
        )
    return made


if sys.platform == "win32":
    sys.exit("gpt2c: Windows is not supported yet (Linux is; macOS is expected to work)")

setup(ext_modules=extensions(), cmdclass={"build_ext": BuildCore})
