"""Rounding with error feedback: the scales stay, and what a matrix gives comes closer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gpt2c
from gpt2c.checkpoints import formats as quantized
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.cli import main as cli
from gpt2c.quantization import calibration


def stored_of(folder: Path, name: str) -> np.ndarray:
    with load_checkpoint(folder) as checkpoint:
        spec = next(spec for spec in checkpoint.specs() if spec.name == name)
        stored = checkpoint.quantized(spec.kind, spec.layer)
        assert stored is not None
        return np.array(np.frombuffer(stored[1], np.uint8))


def quantize(folder: Path, *argv: str | Path, weights: str = "q4", status: int = 0) -> Path:
    argv = ("quantize", EMBEDDED_MODEL, "--weights", weights, "-o", folder, *argv)
    assert cli.main([str(word) for word in argv]) == status
    return folder


@pytest.mark.parametrize("weights", quantized.FORMATS)
def test_what_the_matrix_gives_comes_closer(weights: str, tmp_path: Path) -> None:
    """On inputs that depend on each other, as a layer's do; the error is that of the product itself."""
    folder = quantize(tmp_path / "plain", weights=weights)
    name = "h.2.attn.c_proj.weight"
    with load_checkpoint(EMBEDDED_MODEL) as checkpoint:
        w = next(checkpoint.array(spec) for spec in checkpoint.specs() if spec.name == name)
    plain = stored_of(folder, name)
    random = np.random.Generator(np.random.PCG64(1))
    x = random.standard_normal((4096, 24)) @ random.standard_normal((24, 256))
    x = (x + 0.3 * random.standard_normal((4096, 256))).astype(np.float32)
    fed = calibration.feed_errors(plain, quantized.FORMATS[weights], w, (x.T @ x).astype(np.float64))

    before, after = (
        np.linalg.norm(x @ (w - quantized.FORMATS[weights].dequantize(s, *w.shape))) for s in (plain, fed)
    )
    assert after < 0.5 * before
    for name in ("scale", "offset") if weights == "q4" else ("scale",):
        blocks = [quantized.FORMATS[weights].split(s, *w.shape)[0][name] for s in (plain, fed)]
        np.testing.assert_array_equal(*blocks)


def test_inputs_that_never_came_change_nothing(tmp_path: Path) -> None:
    folder = quantize(tmp_path / "plain")
    stored = stored_of(folder, "h.0.mlp.c_fc.weight")
    w = quantized.FORMATS["q4"].dequantize(stored, 256, 1024)
    assert calibration.feed_errors(stored, quantized.FORMATS["q4"], w, np.zeros((256, 256))) is stored


def test_a_calibrated_model_is_closer_to_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the prose of a text that the rounding has not seen."""
    monkeypatch.setattr("gpt2c.cli.quantize.N_WINDOWS", 2)
    with gpt2c.load() as exact:
        text = exact.generate("It was a dark night", 400, temperature=1.0, seed=1).text
        text += exact.generate("'My dear Watson,' said he", 400, temperature=1.0, seed=2).text
        (tmp_path / "text").write_text(text, encoding="utf-8")
        ids = exact.tokenizer.encode(exact.generate("The sea", 300, temperature=1.0, seed=3).text)
        expected = log_softmax(exact.logits(ids))
    divergences = []
    for folder in (
        quantize(tmp_path / "plain"),
        quantize(tmp_path / "fed", "--calibrate", tmp_path / "text"),
    ):
        with gpt2c.load(folder) as model:
            found = log_softmax(model.logits(ids))
            divergences.append((np.exp(expected) * (expected - found)).sum(-1).mean())
    assert divergences[1] < 0.8 * divergences[0]
    assert (tmp_path / "fed" / "model.safetensors").stat().st_size < 6_000_000
    assert json.loads((tmp_path / "fed" / "config.json").read_text())["quantization"]["format"] == "q4"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def test_a_calibration_text_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short").write_text("Too short.")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, expected in [
        ("none", "cannot be read: No such file or directory"),
        ("short", "has 4 tokens, but at least 512 are needed"),
        ("bytes", "cannot be read: it is not UTF-8"),
    ]:
        quantize(tmp_path / "out", "--calibrate", tmp_path / name, status=1)
        line = capsys.readouterr().err
        assert line == f"gpt2c: error: calibration text '{tmp_path / name}' {expected}\n"
    assert not (tmp_path / "out").exists()
