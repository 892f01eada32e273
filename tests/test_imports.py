"""tools/check_imports.py: the package has no import cycle, and docs/architecture.md maps its imports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import check_imports as checker

ROWS = [
    checker.Row(("top",), ("middle/", "low")),
    checker.Row(("middle/",), ("low",)),
    checker.Row(("low",), ()),
]
SOUND: checker.Graph = {
    "top": {"middle.a", "low"},
    "middle": set(),
    "middle.a": {"middle.b"},
    "middle.b": {"low"},
    "low": set(),
}


def test_the_package_is_as_its_map_says() -> None:
    text = (checker.ROOT / checker.MAP).read_text()
    assert list(checker.problems(checker.read_graph(), checker.read_map(text))) == []


def test_a_sound_graph_has_no_problem() -> None:
    assert list(checker.problems(SOUND, ROWS)) == []


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"middle.b": {"low", "middle.a"}}, "import cycle: middle.a, middle.b"),
        ({"low": {"middle"}}, "low imports upwards: middle"),
        ({"new": set()}, "docs/architecture.md: no row for new"),
        ({"top": {"low"}}, "docs/architecture.md: the row of top lists middle/, which it does not import"),
    ],
)
def test_what_is_wrong_is_named(changed: checker.Graph, line: str) -> None:
    assert line in checker.problems({**SOUND, **changed}, ROWS)


def test_an_import_that_the_map_leaves_out_is_named() -> None:
    rows = [checker.Row(("top",), ("low",)), *ROWS[1:]]
    assert list(checker.problems(SOUND, rows)) == [
        "docs/architecture.md: the row of top does not list middle/, which it imports"
    ]


def test_imports_in_functions_and_for_type_checkers_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gpt2c" / "part"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("import gpt2c.part.a\n")
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from . import b\ndef f():\n    from ..part.c import x\n"
    )
    (package / "b.py").write_text("from .. import __version__\n")
    (package / "c.pyx").write_text("from gpt2c.part.b import y\n")
    monkeypatch.setattr(checker, "ROOT", tmp_path)
    assert checker.read_graph() == {
        "__init__": {"part.a"},
        "part": set(),
        "part.a": {"part.b", "part.c"},
        "part.b": {"__init__"},
        "part.c": {"part.b"},
    }
