"""Packed files: the same model, mapped; and files that are not what they claim."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2c
from gpt2c import bindings, options
from gpt2c.backends.native import native_config
from gpt2c.bindings import Outputs
from gpt2c.checkpoints.checkpoint import load_checkpoint, tensor_specs
from gpt2c.config import ModelConfig

IDS = np.array([3, 1, 4, 1, 5], np.int32)
KEY = b"tiny, for a test"


class Packed:
    """A packed model and how to open it."""

    def __init__(self, name: str, folder: Path, base: Path, opts: str = "all") -> None:
        self.native = bindings.load(name)
        isas = [(isa, ok) for isa, _, ok in self.native.isas()]
        plan = options.resolve(opts, isas=isas)
        with load_checkpoint(folder) as checkpoint:
            self.config: dict[str, Any] = native_config(checkpoint.config, plan, [isa for isa, _ in isas])
        with gpt2c.load(folder, opts=opts, binding=name) as model:
            self.expected = model.logits(IDS)
            model.save_packed(base / "model.packed", KEY)
        self.path = base / "model.packed"

    def open(self, key: bytes | None = KEY, **changed: Any) -> Any:
        return self.native.Model.open_packed(bytes(self.path), key, {**self.config, **changed})


@pytest.fixture
def packed(binding: str, model_folder: Callable[[str], Path], tmp_path: Path) -> Packed:
    return Packed(binding, model_folder("tiny"), tmp_path)


def logits_of(packed: Packed, model: Any) -> np.ndarray:
    out = np.empty((IDS.size, 128), np.float32)
    packed.native.Session(model).feed(IDS, Outputs(logits=out))
    return out


@pytest.mark.parametrize("opts", ["none", "all", "aligned,gelu_table"])
def test_a_packed_model_gives_the_same_bits(
    opts: str, binding: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    packed = Packed(binding, model_folder("odd"), tmp_path, opts)
    out = np.empty((IDS.size, 101), np.float32)
    packed.native.Session(packed.open()).feed(IDS, Outputs(logits=out))
    assert np.array_equal(out, packed.expected)
    assert [path.name for path in tmp_path.iterdir()] == ["model.packed"]


def test_the_other_binding_opens_it_too(
    binding: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    packed = Packed(binding, model_folder("tiny"), tmp_path)
    packed.native = bindings.load("cffi" if binding == "cython" else "cython")
    assert np.array_equal(logits_of(packed, packed.open()), packed.expected)


def test_a_file_tells_its_shape_and_is_verified(packed: Packed) -> None:
    found = packed.native.packed_info(bytes(packed.path), True)
    for name in ("n_layer", "n_head", "n_embd", "n_inner", "n_ctx", "n_vocab", "aligned"):
        assert found[name] == packed.config[name]


def test_a_null_key_takes_any_file_and_another_key_none(packed: Packed) -> None:
    packed.open(key=None)
    with pytest.raises(gpt2c.ModelFileError, match="not a packed file of this version and model"):
        packed.open(key=b"tiny, for a tesT")


@pytest.mark.parametrize(
    "changed",
    [{"n_layer": 3}, {"n_vocab": 127}, {"head_screen": 0}, {"format": 1}, {"layer_norm_epsilon": 1e-6}],
)
def test_a_file_of_another_model_is_refused(packed: Packed, changed: dict[str, Any]) -> None:
    with pytest.raises(gpt2c.ModelFileError, match="not a packed file of this version and model"):
        packed.open(**changed)


def test_any_flipped_bit_in_the_header_is_noticed(packed: Packed) -> None:
    whole = packed.path.read_bytes()
    for byte in range(200):
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << byte % 8
        packed.path.write_bytes(damaged)
        with pytest.raises(gpt2c.ModelFileError):
            packed.open()


def test_a_flipped_bit_in_the_weights_is_noticed_when_they_are_verified(packed: Packed) -> None:
    damaged = bytearray(packed.path.read_bytes())
    damaged[-5] ^= 4
    packed.path.write_bytes(damaged)
    packed.native.packed_info(bytes(packed.path), False)
    with pytest.raises(gpt2c.ModelFileError):
        packed.native.packed_info(bytes(packed.path), True)


@pytest.mark.parametrize("n_bytes", [0, 7, 216, 4095, 4096, 5000])
def test_a_truncated_file_is_refused(packed: Packed, n_bytes: int) -> None:
    packed.path.write_bytes(packed.path.read_bytes()[:n_bytes])
    with pytest.raises(gpt2c.ModelFileError):
        packed.open()


def test_a_missing_file_and_a_folder_are_refused(packed: Packed, tmp_path: Path) -> None:
    packed.path.unlink()
    with pytest.raises(gpt2c.ModelFileError, match="could not be opened"):
        packed.open()
    packed.path.mkdir()
    with pytest.raises(gpt2c.ModelFileError):
        packed.open()


def test_saving_where_nothing_can_be_written_leaves_nothing(
    binding: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with gpt2c.load(model_folder("tiny"), binding=binding) as model:
        with pytest.raises(gpt2c.ModelFileError, match="could not be opened, mapped or written"):
            model.save_packed(tmp_path / "no" / "such", KEY)
        with pytest.raises(gpt2c.ModelFileError):
            model.save_packed(Path(os.devnull), KEY)
        assert not Path(os.devnull).is_file()
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "full").touch()
        with pytest.raises(gpt2c.ModelFileError):
            model.save_packed(tmp_path / "taken", KEY)
    shutil.rmtree(tmp_path / "taken")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opts", ["none", "all"])
@pytest.mark.parametrize("dtype", [1, 2], ids=["f16", "bf16"])
def test_every_half_precision_number_is_laid_out_exactly(
    dtype: int, opts: str, binding: str, tmp_path: Path
) -> None:
    native = bindings.load(binding)
    plan = options.resolve(opts, isas=[(isa, ok) for isa, _, ok in native.isas()], cores=1)
    config = ModelConfig(n_layer=1, n_head=1, n_embd=32, n_inner=32, n_ctx=2048, n_vocab=32)
    model = native.Model(native_config(config, plan, [isa for isa, _, _ in native.isas()]))
    every = np.arange(65536, dtype=np.uint16)
    for spec in tensor_specs(config):
        data = every if spec.kind == "wpe" else np.zeros(math.prod(spec.shape), np.uint16)
        model.set(spec.kind_index, max(spec.layer, 0), dtype, data.view(np.uint8))
    model.freeze()
    model.save_packed(bytes(tmp_path / "model.packed"), KEY)
    found = np.fromfile(tmp_path / "model.packed", np.uint32, 65536, offset=4096 + 4 * 32 * 32)
    wide = every.view(np.float16).astype(np.float32) if dtype == 1 else every.astype(np.uint32) << 16
    assert np.array_equal(found, wide.view(np.uint32))


def test_a_pipe_is_refused_at_once(packed: Packed, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    packed.path = tmp_path / "pipe"
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(5)  # ends an open() that waits for somebody to write
    try:
        with pytest.raises(gpt2c.ModelFileError, match="not a packed file"):
            packed.open()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_what_a_killed_process_of_the_same_number_left_does_no_harm(
    binding: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    left = [tmp_path / f"x.packed.{os.getpid()}{end}.tmp" for end in ("", "-0", "-1")]
    for path in left:
        path.write_text("half")
    with gpt2c.load(model_folder("tiny"), binding=binding) as model:
        model.save_packed(tmp_path / "x.packed", KEY)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "x.packed", *left])


def test_threads_may_save_to_one_path_at_the_same_time(
    binding: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with gpt2c.load(model_folder("tiny"), binding=binding) as model, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: model.save_packed(tmp_path / "x.packed", KEY), range(20)))
    assert [path.name for path in tmp_path.iterdir()] == ["x.packed"]


@pytest.mark.parametrize(("name", "key"), [("model\0.packed", KEY), ("model.packed", b"one\0two")])
def test_a_name_or_key_that_c_would_cut_short_is_refused(
    name: str, key: bytes, binding: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = gpt2c.load(model_folder("tiny"), binding=binding)
    with model, pytest.raises(gpt2c.OptionError, match="null byte"):
        model.save_packed(tmp_path / name, key)
    assert list(tmp_path.iterdir()) == []
