"""docs/tour.md: what is committed is what the command writes, no figure is typed, and every file is there."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))
from ladder import tour  # noqa: E402

TEMPLATE = tour.TEMPLATE.read_text()
RECORD = json.loads(tour.RECORD.read_text())


def test_the_committed_tour_is_what_the_command_writes(tmp_path: Path) -> None:
    tour.write(to=tmp_path / "tour.md")
    assert (tmp_path / "tour.md").read_text() == tour.TOUR.read_text()


def test_another_record_gives_another_tour() -> None:
    changed = json.loads(json.dumps(RECORD))
    changed["models"]["embedded"]["rungs"][0]["ms"]["median"] = 123456.0
    assert "123456 ms" in tour.render(TEMPLATE, changed)


def test_no_figure_is_typed() -> None:
    text = re.sub(r"\{\{[^}]*\}\}", "", TEMPLATE)
    typed = re.findall(r"\b\d[\d.,]*\s*(?:ms\b|us\b|MB\b|GB\b|x\b|%|million\b)", text)
    assert typed == []


def test_every_link_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", tour.TOUR.read_text())
    assert len(links) > 20
    for link in links:
        assert (tour.TOUR.parent / link).exists(), link


def test_every_stop_of_the_ladder_is_visited() -> None:
    text = tour.TOUR.read_text()
    for step in RECORD["models"]["embedded"]["rungs"][1:]:
        assert f"`{step['step']}`" in text, step["name"]


def test_the_sequence_diagram_is_the_recorded_trace() -> None:
    [diagram] = re.findall(r"```mermaid\n(.*?)```", tour.TOUR.read_text(), re.DOTALL)
    names = re.findall(r"F->>K: (\w+),", diagram)
    ops = RECORD["models"]["embedded"]["token"]
    assert names == [op["name"] for op in ops if op["layer"] <= 0]
    assert diagram.count("loop each of ") == diagram.count("    end\n") == 1


@pytest.mark.parametrize(
    "placeholder", ["{{nothing}}", "{{ms embedded}}", "{{ms embedded kv x}}", "{{_step a b}}"]
)
def test_a_wrong_placeholder_is_an_error(placeholder: str) -> None:
    with pytest.raises(ValueError):
        tour.render(placeholder, RECORD)
