"""tools/random_model.py: reproducible, whole or not there at all, and what the loader expects."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.numpy

from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.writers import encode
from gpt2c.config import parse_config
from gpt2c.errors import ConfigError

TOOL = Path(__file__).resolve().parent.parent / "tools" / "random_model.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("random_model", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_shapes_have_their_published_sizes(tool: ModuleType) -> None:
    published = {
        "distilgpt2": 81_912_576,
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
    }
    for shape, n_parameters in published.items():
        assert parse_config(json.dumps(tool.config_json(shape)).encode()).n_parameters == n_parameters


def test_the_explicit_form_gives_the_sizes_it_names(tool: ModuleType) -> None:
    fields = tool.config_json("L2-H4-E64-V512-C128-I96")
    keys = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions", "n_inner")
    assert [fields[key] for key in keys] == [2, 4, 64, 512, 128, 96]
    assert tool.config_json("L2-H4-E64-V512-C128")["n_inner"] is None


def test_the_command_writes_a_model_that_loads(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tiny"
    result = subprocess.run(
        [sys.executable, str(TOOL), "tiny", "--seed", "3", "-o", str(folder)], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert os.listdir(folder.parent) == ["tiny"]
    with load_checkpoint(folder) as checkpoint:
        assert (checkpoint.config.n_layer, checkpoint.config.eos_token_id) == (2, 127)
        arrays = {spec.name: checkpoint.array(spec) for spec in checkpoint.specs()}
    theirs = safetensors.numpy.load_file(folder / "model.safetensors")
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, theirs[name])
        assert np.ptp(array) > 0  # nothing is constant, so nothing can be left out unnoticed
    assert abs(arrays["ln_f.weight"].mean() - 1) < 0.1
    assert abs(arrays["wte.weight"].std() - 0.02) < 0.002
    assert abs(arrays["h.0.mlp.c_proj.weight"].std() - 0.01) < 0.001


def test_the_same_seed_gives_the_same_file_and_another_another(tool: ModuleType, tmp_path: Path) -> None:
    files = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tool.write_random_model(tmp_path / name, "L1-H2-E8-V9-C4", seed)
        files[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert files["a"] == files["b"] != files["c"]


def test_making_a_tensor_in_pieces_changes_nothing(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool.write_random_model(tmp_path / "whole", "L1-H2-E8-V9-C4")
    monkeypatch.setattr(tool, "_PIECE", 7)
    tool.write_random_model(tmp_path / "pieces", "L1-H2-E8-V9-C4")
    name = "model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


@pytest.mark.parametrize(("dtype", "stored", "step"), [("f16", "F16", 2.0**-11), ("bf16", "BF16", 2.0**-8)])
def test_the_halves_are_the_float32_model_rounded(
    tool: ModuleType, tmp_path: Path, dtype: str, stored: str, step: float
) -> None:
    tool.write_random_model(tmp_path / "f32", "tiny", seed=5)
    tool.write_random_model(tmp_path / dtype, "tiny", seed=5, dtype=dtype)
    with load_checkpoint(tmp_path / "f32") as full, load_checkpoint(tmp_path / dtype) as half:
        for spec in full.specs():
            assert half.tensor(spec.kind, spec.layer)[0] == stored
            np.testing.assert_allclose(half.array(spec), full.array(spec), rtol=step, atol=2.0**-25)


def test_bfloat16_is_rounded_to_nearest_even(tool: ModuleType) -> None:
    bits = np.array([0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0xBF80FFFF], np.uint32)
    encoded = np.frombuffer(encode(bits.view(np.float32), "bf16"), "<u2")
    assert encoded.tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xBF81]
    nan = np.array([0x7F800001, 0x7FFFFFFF, 0xFFC00000], np.uint32)  # rounding up would carry into the sign
    upper = np.frombuffer(encode(nan.view(np.float32), "bf16"), "<u2").astype(np.uint32) << 16
    assert np.isnan(upper.astype(np.uint32).view(np.float32)).all()


def test_a_model_that_is_there_is_not_overwritten_unless_told_to(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["L1-H1-E4-V5-C3", "-o", str(tmp_path / "m")]
    assert tool.main(command) == 0
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    assert tool.main([*command, "--seed", "1"]) == 1
    assert "exists (--force overwrites it)" in capsys.readouterr().err
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    (tmp_path / "m" / "vocab.json").write_text("{}")
    assert tool.main([*command, "--seed", "1", "--force"]) == 0
    assert (tmp_path / "m" / "model.safetensors").read_bytes() != before
    assert sorted(os.listdir(tmp_path / "m")) == ["config.json", "model.safetensors", "vocab.json"]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 1)])
def test_an_interrupted_run_leaves_nothing(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    def fail(*args: object) -> bytes:
        raise error

    monkeypatch.setattr(tool, "encode", fail)
    assert tool.main(["tiny", "-o", str(tmp_path / "m")]) == status
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "shape", ["gpt3", "L2-H4", "L0-H1-E4-V5-C3", "L1-H3-E4-V5-C3", "L1-H1-E4-V0-C3", "L9999-H1-E4-V5-C3"]
)
def test_a_shape_that_is_no_gpt2_is_refused(tool: ModuleType, tmp_path: Path, shape: str) -> None:
    with pytest.raises(ConfigError):
        tool.write_random_model(tmp_path / "m", shape)
    with pytest.raises(SystemExit, match=r"^2$"):
        tool.main([shape, "-o", str(tmp_path / "m")])
    assert os.listdir(tmp_path) == []


def test_a_bad_seed_is_a_bad_flag(tool: ModuleType, tmp_path: Path) -> None:
    for seed in ("-1", "x"):
        with pytest.raises(SystemExit, match=r"^2$"):
            tool.main(["tiny", "--seed", seed, "-o", str(tmp_path / "m")])


def test_progress_ends_at_the_whole_size(tool: ModuleType, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tool.write_random_model(tmp_path / "m", "tiny", progress=lambda *done: seen.append(done))
    size = (tmp_path / "m" / "model.safetensors").stat().st_size
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
