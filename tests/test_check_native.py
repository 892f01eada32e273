"""tools/check_native.py: which objects it disassembles, and that it sees what must not be there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from references import NEEDS_X86_64

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
import check_native
import native_build

ROOT = Path(__file__).resolve().parent.parent

VECTORS = """
typedef float floats __attribute__((vector_size(16)));
floats sum(floats a, floats b) { return a + b; }
"""


def test_every_source_but_those_of_sets_with_cpu_features_is_disassembled() -> None:
    """The rule once more, from the folders: all of native/, and the two sets that run everywhere."""
    portable = ["ref", "unroll"]
    folders = ["native", *(f"native/kernels/{name}" for name in portable)]
    expected = {
        path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).glob("*.c")
    }
    assert set(check_native.baseline_sources()) == expected
    assert "native/kernel_api.c" in expected
    assert native_build.portable_isas() == portable


@NEEDS_X86_64
@pytest.mark.parametrize(("flags", "seen"), [([], False), (["-mavx"], True), (["-mavx512vl"], True)])
def test_an_instruction_above_the_baseline_is_seen(flags: list[str], seen: bool, tmp_path: Path) -> None:
    source, made = tmp_path / "sum.c", tmp_path / "sum.o"
    source.write_text(VECTORS)
    subprocess.run(["gcc", "-O2", *flags, "-c", str(source), "-o", str(made)], check=True)
    assert (check_native.above_baseline(made) is not None) == seen
