"""tools/make_assets.py: the recipe of the embedded model runs to the end, and does nothing twice."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from references import optional

import gpt2c

torch = optional("torch")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import make_assets  # noqa: E402

WORDS = ["the", "old", "house", "at", "sea", "was", "dark", "and", "she", "said", "to", "him", "again"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    random = np.random.Generator(np.random.PCG64(3))
    text = " ".join(WORDS[i] for i in random.integers(len(WORDS), size=6000))
    (folder / "train.txt").write_text(f"{text}<|endoftext|>{text[:1000]}")
    (folder / "valid.txt").write_text(text[2000:3000])
    return folder


def times(work: Path) -> dict[Path, int]:
    kept = [work / name for name in ("vocabulary", "tokens", "run-1", "run-2", "run-3", "draft")]
    return {path: path.stat().st_mtime_ns for folder in kept for path in folder.rglob("*") if path.is_file()}


def test_the_recipe_runs_to_its_end_and_does_nothing_twice(data: Path, tmp_path: Path) -> None:
    command = [str(data), "-o", str(tmp_path), "--quick"]
    assert make_assets.main(command) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    with gpt2c.load(tmp_path / "assets") as model:
        score = model.score((data / "valid.txt").read_text())
        assert score.bits_per_byte == pytest.approx(record["scores"]["f32"]["bits_per_byte"])
        with gpt2c.load(tmp_path / "draft" / "model") as draft:
            prompt = "the old house"
            assert model.generate(prompt, 8, draft=draft).ids == model.generate(prompt, 8).ids
    page = (tmp_path / "assets" / "README.md").read_text()
    assert f"{score.bits_per_byte:.4f}" in page
    before = times(tmp_path)
    shutil.rmtree(tmp_path / "draft")
    assert make_assets.main(command) == 0
    after = times(tmp_path)
    assert before.keys() == after.keys()
    assert {path for path in before if before[path] != after[path]} == {
        path for path in before if path.is_relative_to(tmp_path / "draft")
    }


def test_a_step_that_fails_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_assets.main([str(tmp_path / "none"), "-o", str(tmp_path / "work"), "--quick"]) == 1
    assert "make_assets: tools/train_tokenizer.py failed" in capsys.readouterr().err
