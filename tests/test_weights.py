"""GPT-2's tensors in a folder: every layout that is out there loads, every misfit is named."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from references import optional

from gpt2c.checkpoints.checkpoint import TENSOR_KINDS, Checkpoint, load_checkpoint, tensor_specs, to_float32
from gpt2c.config import ModelConfig
from gpt2c.errors import ClosedError, ConfigError, ModelFileError, ModelNotFoundError

Arrays = Mapping[str, NDArray[Any]]

CONFIG = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 6, "vocab_size": 11}
SHAPE = ModelConfig(n_layer=2, n_head=2, n_embd=8, n_inner=32, n_ctx=6, n_vocab=11)


def make_arrays() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {spec.name: rng.standard_normal(spec.shape, dtype=np.float32) for spec in tensor_specs(SHAPE)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def save(folder: Path, arrays: Arrays, name: str = "model.safetensors") -> None:
    safetensors.numpy.save_file(dict(arrays), folder / name)


def assert_holds(checkpoint: Checkpoint, arrays: Arrays) -> None:
    for spec in checkpoint.specs():
        array = checkpoint.array(spec)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, arrays[spec.name], strict=True)


def fault(folder: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load_checkpoint(folder)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_tensors_come_in_the_documented_order() -> None:
    specs = tensor_specs(SHAPE)
    assert [spec.name for spec in specs[:4]] == [
        "wte.weight",
        "wpe.weight",
        "h.0.ln_1.weight",
        "h.0.ln_1.bias",
    ]
    assert [spec.name for spec in specs[-3:]] == ["h.1.mlp.c_proj.bias", "ln_f.weight", "ln_f.bias"]
    assert [(s.kind, s.layer) for s in specs[13:16]] == [
        ("mlp.c_proj.bias", 0),
        ("ln_1.weight", 1),
        ("ln_1.bias", 1),
    ]
    assert {spec.layer for spec in specs[:2] + specs[-2:]} == {-1}
    assert all(TENSOR_KINDS[spec.kind_index] == spec.kind for spec in specs)
    assert len(TENSOR_KINDS) == 17
    assert len(specs) == 4 + 12 * SHAPE.n_layer
    untied = tensor_specs(replace(SHAPE, tie_word_embeddings=False))
    assert untied[:-1] == specs
    assert (untied[-1].name, untied[-1].kind_index, untied[-1].shape) == ("lm_head.weight", 16, (11, 8))


def test_the_tensors_have_as_many_numbers_as_the_config_says() -> None:
    for config in (SHAPE, ModelConfig(12, 12, 768, 3072, 1024, 50257), ModelConfig(1, 1, 4, 3, 5, 2)):
        untied = replace(config, tie_word_embeddings=False)
        assert sum(np.prod(spec.shape) for spec in tensor_specs(untied)) == untied.n_parameters
        assert sum(np.prod(spec.shape) for spec in tensor_specs(config)) == config.n_parameters


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_model_loads_with_or_without_the_prefix_from_folder_or_file(folder: Path, prefix: str) -> None:
    arrays = make_arrays()
    save(folder, {prefix + name: array for name, array in arrays.items()})
    for path in (folder, str(folder), folder / "model.safetensors"):
        with load_checkpoint(path) as checkpoint:
            assert checkpoint.config == SHAPE
            assert checkpoint.folder == folder
            assert checkpoint.files == (folder / "model.safetensors",)
            assert_holds(checkpoint, arrays)


def test_the_raw_bytes_are_those_of_the_file(folder: Path) -> None:
    arrays = make_arrays()
    save(folder, arrays)
    with load_checkpoint(folder) as checkpoint:
        for spec in checkpoint.specs():
            dtype, raw = checkpoint.tensor(spec.kind, spec.layer)
            assert dtype == "F32"
            assert bytes(raw) == arrays[spec.name].tobytes()
        with pytest.raises(KeyError):
            checkpoint.tensor("ln_1.weight", 2)
        with pytest.raises(KeyError):
            checkpoint.tensor("wte", 0)


def test_half_precision_loads_and_converts_exactly(folder: Path) -> None:
    half = {name: array.astype(np.float16) for name, array in make_arrays().items()}
    save(folder, half)
    with load_checkpoint(folder) as checkpoint:
        assert checkpoint.tensor("wte")[0] == "F16"
        assert_holds(checkpoint, {name: array.astype(np.float32) for name, array in half.items()})


def test_bfloat16_loads_and_converts_exactly(folder: Path) -> None:
    upper = {name: array.view(np.uint32) >> np.uint32(16) for name, array in make_arrays().items()}
    # NumPy has no bfloat16: the package writes the bits as U16, and the header names their dtype.
    blob = safetensors.numpy.save({name: bits.astype("<u2") for name, bits in upper.items()})
    n_header = int.from_bytes(blob[:8], "little")
    header = blob[8 : 8 + n_header].replace(b'"U16"', b'"BF16"')
    (folder / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + blob[8 + n_header :]
    )
    with load_checkpoint(folder) as checkpoint:
        assert checkpoint.tensor("ln_f.bias")[0] == "BF16"
        assert_holds(checkpoint, {n: (bits << np.uint32(16)).view(np.float32) for n, bits in upper.items()})


def test_every_16_bit_pattern_converts_exactly() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    f16 = to_float32("F16", memoryview(bits.tobytes()))
    np.testing.assert_array_equal(f16, bits.view(np.float16).astype(np.float32))
    bf16 = to_float32("BF16", memoryview(bits.tobytes()))
    np.testing.assert_array_equal(bf16.view(np.uint32), bits.astype(np.uint32) << np.uint32(16))


def test_bfloat16_converts_as_in_torch() -> None:
    torch = optional("torch")
    bits = np.arange(1 << 16, dtype=np.uint16)
    bf16 = to_float32("BF16", memoryview(bits.tobytes()))
    theirs = torch.frombuffer(bytearray(bits.tobytes()), dtype=torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(bf16, theirs)


def test_tensors_at_an_odd_address_load(folder: Path) -> None:
    arrays = make_arrays()
    save(folder, arrays)
    blob = (folder / "model.safetensors").read_bytes()
    n_header = int.from_bytes(blob[:8], "little")
    # A header of odd length, as in the published gpt2 file: one more space after the JSON.
    odd = blob[8 : 8 + n_header].rstrip() + b" "
    odd += b" " * (1 - len(odd) % 2)
    (folder / "model.safetensors").write_bytes(len(odd).to_bytes(8, "little") + odd + blob[8 + n_header :])
    with load_checkpoint(folder) as checkpoint:
        assert_holds(checkpoint, arrays)


def test_the_published_layout_loads_with_its_mask_buffers(folder: Path) -> None:
    config = {**CONFIG, "n_layer": 12, "n_positions": 1024, "n_ctx": 1024}
    (folder / "config.json").write_text(json.dumps(config))
    shape = ModelConfig(n_layer=12, n_head=2, n_embd=8, n_inner=32, n_ctx=1024, n_vocab=11)
    arrays = {spec.name: np.full(spec.shape, i, np.float32) for i, spec in enumerate(tensor_specs(shape))}
    mask = np.tril(np.ones((1024, 1024), np.float32))[None, None]
    masks = {f"h.{layer}.attn.bias": mask for layer in range(12)}
    save(folder, {**arrays, **masks})
    with load_checkpoint(folder) as checkpoint:
        assert len(list(checkpoint.specs())) == 148  # of the file's 160 tensors
        assert_holds(checkpoint, arrays)


def test_mask_buffers_of_every_kind_are_ignored_silently(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = make_arrays()
    extra = {
        "h.0.attn.bias": np.ones((1, 1, 6, 6), np.bool_),
        "transformer.h.1.attn.bias": np.ones((1, 1, 6, 6), np.uint8),
        "h.1.attn.masked_bias": np.array(-1e9, np.float32),
    }
    save(folder, {**arrays, **extra})
    with caplog.at_level(logging.INFO, "gpt2c"), load_checkpoint(folder) as checkpoint:
        assert_holds(checkpoint, arrays)
    assert not caplog.messages


def test_other_heads_are_ignored_and_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays = make_arrays()
    save(folder, {**arrays, "score.weight": np.ones((2, 8), np.float32)})
    with caplog.at_level(logging.INFO, "gpt2c"), load_checkpoint(folder) as checkpoint:
        assert_holds(checkpoint, arrays)
    assert caplog.messages == ["ignored 1 tensors that are not part of GPT-2: ['score.weight']"]


def test_a_head_equal_to_the_embedding_is_tied(folder: Path) -> None:
    arrays = make_arrays()
    save(folder, {**arrays, "lm_head.weight": arrays["wte.weight"].copy()})
    with load_checkpoint(folder) as checkpoint:
        assert_holds(checkpoint, arrays)


def test_a_head_that_differs_in_one_bit_is_refused(folder: Path) -> None:
    arrays = make_arrays()
    head = arrays["wte.weight"].copy()
    head.view(np.uint32)[-1, -1] ^= 1
    for other in (head, head[:-1], head.astype(np.float16)):
        save(folder, {**arrays, "lm_head.weight": other})
        assert fault(folder) == (
            "model.safetensors: tensor 'lm_head.weight' differs from 'wte.weight', "
            "to which the config ties it"
        )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h.2.ln_1.weight", "tensor 'h.2.ln_1.weight': the config has only 2 layers"),
        ("h.12.attn.bias", "tensor 'h.12.attn.bias': the config has only 2 layers"),
        ("transformer.h.2.x", "tensor 'h.2.x': the config has only 2 layers"),
        ("h.0.attn.c_attn.lora_A", "tensor 'h.0.attn.c_attn.lora_A' is not part of a GPT-2 that gpt2c runs"),
        ("h.00.ln_1.weight", "tensor 'h.00.ln_1.weight' is not part of a GPT-2 that gpt2c runs"),
        ("wte.scale", "tensor 'wte.scale' is not part of a GPT-2 that gpt2c runs"),
        ("lm_head.bias", "tensor 'lm_head.bias' is not part of a GPT-2 that gpt2c runs"),
        ("transformer.ln_f.bias", "tensor 'ln_f.bias' appears with and without the prefix 'transformer.'"),
    ],
)
def test_a_tensor_that_must_not_be_left_out_is_refused(folder: Path, name: str, expected: str) -> None:
    save(folder, {**make_arrays(), name: np.ones(8, np.float32)})
    assert fault(folder) == f"model.safetensors: {expected}"


@pytest.mark.parametrize("missing", ["wte.weight", "h.1.attn.c_attn.bias", "ln_f.bias"])
def test_a_missing_tensor_is_named(folder: Path, missing: str) -> None:
    arrays = make_arrays()
    del arrays[missing]
    save(folder, arrays)
    assert fault(folder) == f"model.safetensors: tensor '{missing}' is missing"


def test_a_file_without_tensors_misses_the_first(folder: Path) -> None:
    save(folder, {})
    assert fault(folder) == "model.safetensors: tensor 'wte.weight' is missing"


def test_a_wrong_shape_is_named_with_both_shapes(folder: Path) -> None:
    arrays = make_arrays()
    arrays["h.1.attn.c_attn.weight"] = np.ascontiguousarray(arrays["h.1.attn.c_attn.weight"].T)
    save(folder, arrays)
    assert fault(folder) == (
        "model.safetensors: tensor 'h.1.attn.c_attn.weight' has shape [24, 8], but the config needs [8, 24]"
    )


def test_a_dtype_that_no_backend_reads_is_named(folder: Path) -> None:
    arrays = make_arrays()
    save(folder, {**arrays, "wpe.weight": arrays["wpe.weight"].astype(np.float64)})
    assert fault(folder) == (
        "model.safetensors: tensor 'wpe.weight' has dtype F64 (F32, F16, BF16 are supported)"
    )


def shard(folder: Path, arrays: Arrays, n_first: int = 5) -> dict[str, str]:
    names = list(arrays)
    parts = {
        "model-00001-of-00002.safetensors": names[:n_first],
        "model-00002-of-00002.safetensors": names[n_first:],
    }
    for file, part in parts.items():
        save(folder, {name: arrays[name] for name in part}, file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def test_shards_load_also_as_links_into_another_folder(folder: Path) -> None:
    arrays = make_arrays()
    shard(folder, arrays)
    snapshot = folder / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for file in folder.glob("*.*"):
        (snapshot / file.name).symlink_to(Path("..") / ".." / file.name)
    for path in (folder, snapshot):
        with load_checkpoint(path) as checkpoint:
            assert len(checkpoint.files) == 2
            assert_holds(checkpoint, arrays)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "a\\x.safetensors", "..", "", "x.bin", 3, None],
)
def test_a_shard_must_be_a_plain_file_name(folder: Path, name: object) -> None:
    write_index(folder, {"wte.weight": name})
    assert fault(folder).endswith("is not a plain .safetensors file name")


def test_an_index_that_disagrees_with_its_shards_is_refused(folder: Path) -> None:
    weight_map = shard(folder, make_arrays())
    write_index(folder, {**weight_map, "more": "model-00001-of-00002.safetensors"})
    assert fault(folder) == (
        "model.safetensors.index.json: 'model-00001-of-00002.safetensors' has no tensor 'more'"
    )
    write_index(folder, {**weight_map, "more": "none.safetensors"})
    with pytest.raises(ModelNotFoundError, match=r"none\.safetensors' does not exist$"):
        load_checkpoint(folder)
    write_index(folder, [])
    assert fault(folder) == "model.safetensors.index.json: weight_map must be an object, not []"


def test_what_is_missing_from_a_folder_is_said(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^no model\.safetensors in '.*' \(nor .*, ckpt\.pt\)$"):
        load_checkpoint(folder)
    with pytest.raises(
        ModelFileError, match=r"config\.json' is neither a folder nor a \.safetensors, .* file$"
    ):
        load_checkpoint(folder / "config.json")
    with pytest.raises(ModelNotFoundError, match=r"nowhere' does not exist$"):
        load_checkpoint(folder / "nowhere")
    save(folder, make_arrays())
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"^config\.json: n_head is missing$"):
        load_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"config\.json' does not exist$"):
        load_checkpoint(folder)


def test_a_closed_checkpoint_says_so(folder: Path) -> None:
    save(folder, make_arrays())
    checkpoint = load_checkpoint(folder)
    checkpoint.close()
    with pytest.raises(ClosedError, match=r"^model\.safetensors: is closed$"):
        checkpoint.tensor("wte")


def test_the_embedded_model_loads() -> None:
    from gpt2c.checkpoints.hub import EMBEDDED_MODEL

    with load_checkpoint(EMBEDDED_MODEL) as checkpoint:
        assert all(np.isfinite(checkpoint.array(spec)).all() for spec in checkpoint.specs())


def test_what_transformers_saves_loads(tmp_path: Path) -> None:
    torch = optional("torch")
    transformers = optional("transformers")
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 6, "vocab_size": 11}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    state = {name.removeprefix("transformer."): value for name, value in model.state_dict().items()}
    variants = {
        "whole": (model, "10GB", torch.float32),
        "sharded": (model, "2KB", torch.float32),
        "body": (model.transformer, "10GB", torch.float32),
        "bf16": (model, "10GB", torch.bfloat16),
    }
    for name, (saved, shard_size, dtype) in variants.items():
        saved.to(dtype).save_pretrained(tmp_path / name, max_shard_size=shard_size)
        with load_checkpoint(tmp_path / name) as checkpoint:
            assert checkpoint.config == SHAPE  # whose default eos, 50256, is not in this vocabulary
            assert (len(checkpoint.files) > 1) == (name == "sharded")
            for spec in checkpoint.specs():
                expected = state[spec.name].to(dtype).float().numpy()
                np.testing.assert_array_equal(checkpoint.array(spec), expected)
