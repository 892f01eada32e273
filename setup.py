"""Builds the C core once and links it into both extensions.

What is compiled, and how, is found by tools/native_build.py. GPT2C_BUILD=cffi leaves Cython out.
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
sys.path.insert(0, str(ROOT / "tools"))
import native_build  # noqa: E402

BINDINGS = "gpt2c/bindings"
WITHOUT_CYTHON = os.environ.get("GPT2C_BUILD") == "cffi"
# Python's own flags ask for debug information, seven eighths of what would be in the wheel.
DEBUG_FLAGS = [] if "-g" in os.environ.get("CFLAGS", "").split() else ["-g0"]


HEADER = (ROOT / "include/gpt2c.h").read_text()
DECLARATIONS = HEADER.split("/* BEGIN DECLARATIONS */")[1].split("/* END DECLARATIONS */")[0]


def version() -> str:
    found = re.search(r'#define GPT2C_VERSION "(.+)"', HEADER)
    assert found
    return found[1]


def generate_constants(path: Path) -> None:
    """Writes constants() of the Cython binding: every enumerator of the header, whose value C knows."""
    names = re.findall(r"^    (GPT2C_\w+) = ", DECLARATIONS, re.M)
    lines = ['cdef extern from "gpt2c.h":', *(f'    int c_{name} "{name}"' for name in names)]
    lines += ["", "", "def constants():", "    return {", *(f'        "{name}": c_{name},' for name in names)]
    text = "\n".join([*lines, "    }", ""])
    if not path.exists() or path.read_text() != text:  # or Cython would translate the binding each time
        path.write_text(text)


def generate_cffi_source(path: Path) -> None:
    """Writes the CFFI extension's C from the text between the header's markers."""
    import cffi

    builder = cffi.FFI()
    builder.cdef(DECLARATIONS + '\nextern "Python" int gpt2c_cffi_poll(void *context);\n')
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
            sys.exit(f"gpt2c: no working C compiler (Debian: apt install gcc): {error}")

    def build_extensions(self) -> None:
        if WITHOUT_CYTHON:  # one from an earlier build would be packed as well
            for stale in (Path(self.build_lib) / BINDINGS).glob("_cython*.so"):
                stale.unlink()
        objects = self.compile_core()
        for extension in self.extensions:
            extension.extra_objects = objects
            extension.depends = objects  # or a change in C alone would not be linked
        generate_cffi_source(ROOT / BINDINGS / "_cffi.c")
        super().build_extensions()

    def compile_core(self) -> list[str]:
        def compile_one(source: str, flags: list[str]) -> str:
            (made,) = self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=native_build.INCLUDE_DIRS,
                extra_postargs=flags + DEBUG_FLAGS,
            )
            return str(made)

        return native_build.compile_all(compile_one, native_build.groups(platform.machine()))


def extensions() -> list[Extension]:
    common = {
        "include_dirs": ["include"],
        "libraries": ["m", "pthread"],
        "extra_compile_args": DEBUG_FLAGS,
    }
    made = [Extension("gpt2c.bindings._cffi", [f"{BINDINGS}/_cffi.c"], py_limited_api=True, **common)]
    if not WITHOUT_CYTHON:
        from Cython.Build import cythonize

        generate_constants(ROOT / BINDINGS / "_constants.pxi")
        made += cythonize(
            [Extension("gpt2c.bindings._cython", [f"{BINDINGS}/_cython.pyx"], **common)],
            compiler_directives={"language_level": "3"},
        )
    return made


if sys.platform == "win32":
    sys.exit("gpt2c: Windows is not supported yet (Linux is; macOS is expected to work)")

setup(version=version(), ext_modules=extensions(), cmdclass={"build_ext": BuildCore})
