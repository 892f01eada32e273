"""What the suite promises of itself: where it skips, and which tests are quick."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import quick
import references

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


def test_only_references_py_skips() -> None:
    skips = re.compile(r"importorskip|skipif|mark\.skip|pytest\.skip\(")
    found = {path.name for path in TESTS.rglob("*.py") if skips.search(path.read_text())}
    assert found == {"references.py", Path(__file__).name}


def test_every_skip_names_an_extra_that_there_is() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    extras = re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2], re.MULTILINE)
    for source in references.INSTALLED_BY.values():
        package, extra = re.fullmatch(r"(\w+)\[(\w+)\]", source).groups()  # type: ignore[union-attr]
        assert package != "gpt2c" or extra in extras
    assert references.install_hint("torch", "transformers", "gguf") == (
        "torch and transformers and gguf not installed: pip install 'gpt2c[parity]' 'gpt2c[gguf]'"
    )


@pytest.mark.parametrize("name", sorted(quick.SLOW))
def test_what_is_slow_is_there(name: str) -> None:
    file, _, function = name.partition("::")
    tree = ast.parse((TESTS / file).read_text())
    assert not function or function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def case(**parameters: Any) -> Any:
    return SimpleNamespace(callspec=SimpleNamespace(params=parameters), parameters=parameters)


def test_the_quick_cases_of_a_function_have_every_value_but_not_every_combination() -> None:
    sizes = [1, 16, 768]
    cases = [
        case(on={"isa": isa, "binding": binding}, size=size)
        for isa in ("ref", "avx2")
        for binding in ("cython", "cffi")
        for size in sizes
    ]
    chosen = [one.parameters for one in quick.each_value_once(cases)]
    assert len(chosen) == 3
    assert {one["size"] for one in chosen} == set(sizes)
    assert {one["on"]["isa"] for one in chosen} == {"ref", "avx2"}
    assert {one["on"]["binding"] for one in chosen} == {"cython", "cffi"}


def test_a_function_without_parameters_is_quick_once() -> None:
    alone = SimpleNamespace()
    assert list(quick.each_value_once([alone])) == [alone]  # type: ignore[list-item]
