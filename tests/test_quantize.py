"""`gpt2c quantize`: a folder that loads as what it was made from does in that format, or nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from models import CONFIGS
from processes import INSTALLED, NO_HANG

import gpt2c
from gpt2c.checkpoints import formats as quantized
from gpt2c.checkpoints.checkpoint import load_checkpoint, tensor_specs
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.cli import main as cli
from gpt2c.quantization.write import write_quantized

Folders = Callable[[str], Path]


def quantize(source: Path, format: str, folder: Path) -> Path:
    assert cli.main(["quantize", str(source), "--weights", format, "-o", str(folder)]) == 0
    return folder


def error_of(capsys: pytest.CaptureFixture[str], *argv: str | Path, status: int = 1) -> str:
    assert cli.main([*map(str, argv)]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("gpt2c: error: ") and err.count("\n") == 1
    return err.removeprefix("gpt2c: error: ").rstrip("\n")


# ---- What is written ----


@pytest.mark.parametrize("format", quantized.FORMATS)
@pytest.mark.parametrize("name", ["tiny", "odd", "untied"])
def test_a_quantized_folder_has_the_bits_of_quantizing_while_loading(
    name: str, format: str, binding: str, model_folder: Folders, tmp_path: Path
) -> None:
    folder = quantize(model_folder(name), format, tmp_path / "out")
    ids = [5, 4, 3, 2, 1]
    with (
        gpt2c.load(folder, binding=binding) as stored,
        gpt2c.load(model_folder(name), weights=format, binding=binding) as made,
    ):
        assert stored.plan == made.plan and stored.plan.weights == format
        np.testing.assert_array_equal(stored.logits(ids), made.logits(ids))


@pytest.mark.parametrize("format", quantized.FORMATS)
def test_another_format_is_made_of_the_dequantized_weights(
    format: str, model_folder: Folders, tmp_path: Path
) -> None:
    """The same numbers in a float32 folder, written with the safetensors package."""
    folder = quantize(model_folder("odd"), format, tmp_path / "out")
    plain = tmp_path / "plain"
    plain.mkdir()
    fields = json.loads((folder / "config.json").read_text())
    del fields["quantization"]
    (plain / "config.json").write_text(json.dumps(fields))
    with load_checkpoint(folder) as checkpoint:
        arrays = {spec.name: checkpoint.array(spec) for spec in checkpoint.specs()}
    safetensors.numpy.save_file(arrays, plain / "model.safetensors")
    for weights in gpt2c.options.WEIGHTS:
        if weights != format:
            with gpt2c.load(folder, weights=weights) as a, gpt2c.load(plain, weights=weights) as b:
                assert a.plan.weights == weights
                np.testing.assert_array_equal(a.logits([3, 1, 4]), b.logits([3, 1, 4]))


def test_the_file_is_one_that_the_safetensors_package_reads(tmp_path: Path) -> None:
    folder = quantize(EMBEDDED_MODEL, "q4", tmp_path / "out")
    found = safetensors.numpy.load_file(folder / "model.safetensors")
    with load_checkpoint(EMBEDDED_MODEL) as original, load_checkpoint(folder) as written:
        assert written.config == original.config
        for spec in original.specs():
            if spec.is_matrix:
                assert found[spec.name].dtype == np.uint8
                error = written.array(spec) - original.array(spec)
                assert 0 < np.sqrt(np.mean(error**2)) < 0.1 * original.array(spec).std()
            else:
                np.testing.assert_array_equal(found[spec.name], original.array(spec))
    about = json.loads((folder / "config.json").read_text())["quantization"]
    assert about == {"format": "q4", "version": 1}


def test_text_comes_out_as_from_the_model_itself(tmp_path: Path) -> None:
    folder = quantize(EMBEDDED_MODEL, "q8", tmp_path / "out")
    with gpt2c.load(folder) as stored, gpt2c.load(weights="q8") as made:
        assert stored.generate("The sea", 20).text == made.generate("The sea", 20).text


@pytest.mark.parametrize(("format", "max_ratio"), [("q8", 0.27), ("q4", 0.16)])
def test_the_shape_of_gpt2_small_is_as_small_as_promised(format: str, max_ratio: float) -> None:
    fields = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
    specs = tensor_specs(gpt2c.config.config_of_fields(fields, "config.json"))
    stored = plain = 0
    for spec in specs:
        shape = spec.shape[::-1] if spec.is_transposed else spec.shape
        n_floats = 4 * int(np.prod(shape))
        plain += n_floats
        stored += quantized.FORMATS[format].n_bytes(*shape) if spec.is_matrix else n_floats
    assert stored < max_ratio * plain


def test_a_quantized_folder_can_be_converted_back_to_floats(tmp_path: Path, model_folder: Folders) -> None:
    folder = quantize(model_folder("tiny"), "q4", tmp_path / "out")
    assert cli.main(["convert", str(folder), str(tmp_path / "floats")]) == 0
    with gpt2c.load(folder, weights="f32") as a, gpt2c.load(tmp_path / "floats") as b:
        assert b.plan.weights == "f32"
        np.testing.assert_array_equal(a.logits([1, 2, 3]), b.logits([1, 2, 3]))


# ---- Whole or not at all ----


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    for limit in (0, 1000, 1 << 20, 4 << 20):
        done = subprocess.run(
            [sys.executable, "-m", "gpt2c", "quantize", EMBEDDED_MODEL, "--weights", "q4", "-o", "out"],
            env={**os.environ, "PYTHONPATH": str(INSTALLED), "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=NO_HANG,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("gpt2c: error: 'out' cannot be written: ")
        assert done.stderr.count("\n") == 1
        assert os.listdir(tmp_path) == []


def test_an_interrupt_leaves_nothing(model_folder: Folders, tmp_path: Path) -> None:
    seen = []

    def interrupt(n_done: int, n_all: int) -> None:
        seen.append(n_done / n_all)
        if len(seen) == 7:
            raise KeyboardInterrupt

    with load_checkpoint(model_folder("tiny")) as checkpoint, pytest.raises(KeyboardInterrupt):
        write_quantized(checkpoint, tmp_path / "out", "q8", interrupt)
    assert os.listdir(tmp_path) == []
    assert seen == sorted(seen) and 0 < seen[-1] < 1


def test_what_cannot_be_quantized_is_said(
    model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, out = model_folder("tiny"), tmp_path / "out"
    line = error_of(capsys, "quantize", tiny, "--weights", "q5", "-o", out, status=2)
    assert line == "unknown format 'q5' (choose from q8, q4)"
    quantize(tiny, "q8", out)
    for format in quantized.FORMATS:
        line = error_of(capsys, "quantize", out, "--weights", format, "-o", tmp_path / "again")
        assert line == "the model is in q8 already: quantize the model that it was made from"
    line = error_of(capsys, "quantize", tiny, "--weights", "q8", "-o", out)
    assert line == f"'{out}' already exists: remove it, or choose another name"
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    arrays = safetensors.numpy.load_file(tiny / "model.safetensors")
    arrays["h.1.mlp.c_fc.weight"][3, 5] = np.nan
    safetensors.numpy.save_file(arrays, broken / "model.safetensors")
    line = error_of(capsys, "quantize", broken, "--weights", "q4", "-o", tmp_path / "no")
    assert line == "tensor 'h.1.mlp.c_fc.weight' has an element that is not finite"
    assert sorted(os.listdir(tmp_path)) == ["broken", "out"]


# ---- Damaged folders ----


def damaged(folder: Path, damage: Callable[[dict[str, np.ndarray]], None]) -> None:
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    damage(arrays)
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")


def cut(arrays: dict[str, np.ndarray]) -> None:
    arrays["h.0.attn.c_attn.weight"] = arrays["h.0.attn.c_attn.weight"][:-1].copy()


def lose(arrays: dict[str, np.ndarray]) -> None:
    del arrays["h.1.attn.c_proj.weight"]


def spoil(arrays: dict[str, np.ndarray]) -> None:
    c = CONFIGS["tiny"]
    _, columns = quantized.FORMATS["q4"].split(arrays["wte.weight"], c["n_embd"], c["vocab_size"])
    columns["scale"][1, 7] = np.nan


def widen(arrays: dict[str, np.ndarray]) -> None:
    arrays["wte.weight"] = arrays["wte.weight"].astype(np.float32)


DAMAGE = {
    "cut": (cut, "tensor 'h.0.attn.c_attn.weight' is U8 of shape [2495], but q4 needs U8 of shape [2496]"),
    "lose": (lose, "tensor 'h.1.attn.c_proj.weight' is missing"),
    "spoil": (spoil, "tensor 'wte.weight' is damaged: a scale is negative, too large or not a number"),
    "widen": (widen, "tensor 'wte.weight' is F32 of shape [3328], but q4 needs U8 of shape [3328]"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_folder_is_one_line(
    how: str, model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quantize(model_folder("tiny"), "q4", tmp_path / "out")
    damage, expected = DAMAGE[how]
    damaged(folder, damage)
    assert error_of(capsys, "run", "--model", folder).endswith(expected)


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"format": "q4", "version": 2}, "quantization has version 2; this gpt2c reads version 1"),
        ({"format": "q4"}, "quantization has version null; this gpt2c reads version 1"),
        ({"format": "q3", "version": 1}, "is not supported (q8, q4 are)"),
        ("q4", "quantization 'q4' is not supported (q8, q4 are)"),
        ({"format": "q8", "version": 1}, "q8 needs U8 of shape [8448]"),
        (None, "has dtype U8 (F32, F16, BF16 are supported)"),
    ],
)
def test_a_wrong_config_is_one_line(
    about: object, expected: str, model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = quantize(model_folder("tiny"), "q4", tmp_path / "out")
    fields = json.loads((folder / "config.json").read_text())
    fields["quantization"] = about
    (folder / "config.json").write_text(json.dumps(fields))
    assert error_of(capsys, "run", "--model", folder).endswith(expected)
