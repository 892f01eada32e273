"""Models in other formats than safetensors: the same arrays, the same logits, the same text."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import PROMPTS, write_model
from other_formats import (
    arrays_of,
    is_projection,
    to_bf16,
    torch_or_skip,
    torch_state,
    write_gguf,
    write_llmc,
    write_nanogpt,
)
from references import optional

import gpt2c
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.errors import BackendUnavailable, ConfigError, ModelFileError

Folders = Callable[[str], Path]


def assert_holds(path: Path, folder: Path, **config: Any) -> None:
    """`path` has the tensors and the config of `folder`, but for these fields of it."""
    expected = arrays_of(folder)
    with load_checkpoint(path) as found, load_checkpoint(folder) as original:
        assert found.config == replace(original.config, **config)
        for spec in found.specs():
            np.testing.assert_array_equal(found.array(spec), expected[spec.name], strict=True)


def config_next_to(path: Path, folder: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    shutil.copy(folder / "config.json", path.parent)
    return path


# ---- torch.save ----


@pytest.mark.parametrize("name", ["odd", "together"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pytorch_model_loads_from_folder_and_file(
    name: str, legacy: bool, model_folder: Folders, tmp_path: Path
) -> None:
    torch = torch_or_skip()
    file = config_next_to(tmp_path / "m" / "pytorch_model.bin", model_folder(name))
    state = torch_state(model_folder(name))
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 128, 128, dtype=torch.uint8)
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    for path in (file.parent, file):
        assert_holds(path, model_folder(name))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_pytorch_model_may_have_half_the_bits(dtype: str, model_folder: Folders, tmp_path: Path) -> None:
    torch = torch_or_skip()
    file = config_next_to(tmp_path / "m" / "pytorch_model.bin", model_folder("odd"))
    state = {
        name: tensor.to(getattr(torch, dtype)) for name, tensor in torch_state(model_folder("odd")).items()
    }
    torch.save(state, file)
    with load_checkpoint(file) as checkpoint:
        for spec in checkpoint.specs():
            expected = state[f"transformer.{spec.name}"].float().numpy()
            np.testing.assert_array_equal(checkpoint.array(spec), expected)


def test_shards_of_a_pytorch_model_load(model_folder: Folders, tmp_path: Path) -> None:
    torch = torch_or_skip()
    config_next_to(tmp_path / "m" / "x", model_folder("odd"))
    state = torch_state(model_folder("odd"))
    files = {name: f"pytorch_model-0000{1 + i % 3}-of-00003.bin" for i, name in enumerate(state)}
    for file in set(files.values()):
        part = {name: tensor for name, tensor in state.items() if files[name] == file}
        torch.save(part, tmp_path / "m" / file)
    index = tmp_path / "m" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    assert_holds(tmp_path / "m", model_folder("odd"))
    index.write_text(json.dumps({"weight_map": {**files, "wte.weight": "model.safetensors"}}))
    with pytest.raises(ModelFileError, match=r"'model\.safetensors' is not a plain \.bin file name$"):
        load_checkpoint(tmp_path / "m")


def test_a_tensor_that_is_a_view_of_another_loads(model_folder: Folders, tmp_path: Path) -> None:
    torch = torch_or_skip()
    file = config_next_to(tmp_path / "m" / "pytorch_model.bin", model_folder("odd"))
    state = torch_state(model_folder("odd"))
    name = "transformer.h.0.mlp.c_fc.weight"
    state[name] = state[name].t().contiguous().t()  # the same numbers, columns first
    torch.save(state, file)
    assert_holds(file, model_folder("odd"))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_nanogpt_checkpoint_loads_without_a_config_next_to_it(
    compiled: bool, model_folder: Folders, tmp_path: Path
) -> None:
    torch = torch_or_skip()
    write_nanogpt(tmp_path / "ckpt.pt", model_folder("tiny"))
    if compiled:
        content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
        content["model"] = {f"_orig_mod.{name}": tensor for name, tensor in content["model"].items()}
        torch.save(content, tmp_path / "ckpt.pt")
    for path in (tmp_path, tmp_path / "ckpt.pt"):
        assert_holds(path, model_folder("tiny"), activation_function="gelu")


def test_a_nanogpt_checkpoint_gives_the_logits_of_transformers(
    model_folder: Folders, tmp_path: Path, binding: str
) -> None:
    torch = torch_or_skip()
    transformers = optional("transformers")
    write_nanogpt(tmp_path / "ckpt.pt", model_folder("tiny"))
    theirs = transformers.GPT2LMHeadModel.from_pretrained(
        model_folder("tiny"), activation_function="gelu"
    ).eval()
    with gpt2c.load(tmp_path, binding=binding) as model:
        for ids in PROMPTS["tiny"]:
            with torch.no_grad():
                expected = theirs(torch.tensor([ids])).logits[0].numpy()
            assert np.abs(model.logits(ids) - expected).max() < 1e-4


def test_a_nanogpt_checkpoint_without_biases_has_zeros(model_folder: Folders, tmp_path: Path) -> None:
    torch = torch_or_skip()
    write_nanogpt(tmp_path / "ckpt.pt", model_folder("tiny"), bias=False)
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    content["model"] = {name: t for name, t in content["model"].items() if not name.endswith(".bias")}
    torch.save(content, tmp_path / "ckpt.pt")
    expected = arrays_of(model_folder("tiny"))
    with load_checkpoint(tmp_path) as checkpoint:
        for spec in checkpoint.specs():
            array = expected[spec.name]
            assert np.array_equal(checkpoint.array(spec), 0 * array if spec.name.endswith(".bias") else array)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"use_rmsnorm": True}, "model_args has 'use_rmsnorm', which nanoGPT does not know"),
        ({"n_head": 0}, "model_args: n_head 0 is outside 1 to 1024"),
        ({"vocab_size": None}, "model_args: vocab_size is missing"),
    ],
)
def test_a_relative_of_nanogpt_is_refused_by_name(
    arguments: dict[str, Any], expected: str, model_folder: Folders, tmp_path: Path
) -> None:
    write_nanogpt(tmp_path / "ckpt.pt", model_folder("tiny"), **arguments)
    with pytest.raises((ModelFileError, ConfigError)) as caught:
        load_checkpoint(tmp_path)
    assert str(caught.value) == f"ckpt.pt: {expected}"


def test_without_torch_its_files_name_the_extra(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = config_next_to(tmp_path / "m" / "pytorch_model.bin", model_folder("odd"))
    file.write_bytes(b"\x80\x02}q\x00.")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendUnavailable) as caught:
        load_checkpoint(file)
    assert str(caught.value) == ("pytorch_model.bin: torch is needed to read it: pip install 'gpt2c[torch]'")


# ---- llm.c ----


@pytest.mark.parametrize("name", ["tiny", "long"])
def test_a_checkpoint_of_llmc_loads(name: str, model_folder: Folders, tmp_path: Path) -> None:
    write_llmc(tmp_path / "gpt2_124M.bin", model_folder(name))
    assert_holds(tmp_path / "gpt2_124M.bin", model_folder(name))


def test_a_bfloat16_checkpoint_of_llmc_loads(model_folder: Folders, tmp_path: Path) -> None:
    write_llmc(tmp_path / "gpt2_124M_bf16.bin", model_folder("long"), version=5)
    expected = arrays_of(model_folder("long"))
    with load_checkpoint(tmp_path / "gpt2_124M_bf16.bin") as checkpoint:
        assert checkpoint.tensor("wte")[0] == "BF16"
        for spec in checkpoint.specs():
            bits = to_bf16(expected[spec.name]).astype(np.uint32) << np.uint32(16)
            np.testing.assert_array_equal(checkpoint.array(spec), bits.view(np.float32))


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (0, 20240327, "is an llm.c debug state, not a model"),
        (0, 20240328, "is an llm.c tokenizer, not a model"),
        (1, 2, "llm.c checkpoint version 2 is not supported (3 and 5 are)"),
        (2, -1, "n_positions -1 is outside 1 to 65536"),
        (4, 3, "has 135680 bytes; a model of its sizes has 186496"),
        (5, 0, "n_head 0 is outside 1 to 1024"),
        (7, 0, "a vocabulary of 128 cannot be padded to 0 rows"),
        (7, 2**31 - 1, "a vocabulary of 128 cannot be padded to 2147483647 rows"),
    ],
)
def test_a_header_of_llmc_that_is_not_right_is_named(
    place: int, value: int, expected: str, model_folder: Folders, tmp_path: Path
) -> None:
    file = tmp_path / "x.bin"
    write_llmc(file, model_folder("tiny"))
    data = bytearray(file.read_bytes())
    data[4 * place : 4 * place + 4] = value.to_bytes(4, "little", signed=True)
    file.write_bytes(data)
    with pytest.raises((ModelFileError, ConfigError)) as caught:
        load_checkpoint(file)
    assert str(caught.value) == f"x.bin: {expected}"


# ---- GGUF ----


@pytest.mark.parametrize("name", ["odd", "untied", "n_inner", "epsilon"])
def test_a_gguf_file_loads(name: str, model_folder: Folders, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", model_folder(name))
    with load_checkpoint(model_folder(name)) as checkpoint:
        epsilon = float(np.float32(checkpoint.config.layer_norm_epsilon))
    assert_holds(tmp_path / "m.gguf", model_folder(name), layer_norm_epsilon=epsilon)


def test_a_head_that_copies_the_embedding_is_tied(model_folder: Folders, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", model_folder("odd"), head="copy")
    with load_checkpoint(tmp_path / "m.gguf") as checkpoint:
        assert checkpoint.config.tie_word_embeddings


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_a_quantized_gguf_file_has_the_numbers_of_the_gguf_package(
    kind: str, model_folder: Folders, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "m.gguf", model_folder("tiny"), kind)
    gguf = sys.modules["gguf"]
    theirs = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type)
        for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors
    }
    with load_checkpoint(tmp_path / "m.gguf") as checkpoint:
        from gpt2c.checkpoints.readers.gguf import gguf_name

        for spec in checkpoint.specs():
            expected = theirs[gguf_name(spec.name)].astype(np.float32)
            array = checkpoint.array(spec)
            np.testing.assert_array_equal(array, expected.T if is_projection(spec.name) else expected)


def test_a_gguf_file_brings_its_own_vocabulary(tmp_path: Path, binding: str) -> None:
    write_gguf(tmp_path / "m.gguf", EMBEDDED_MODEL, vocabulary=True)
    with gpt2c.load(tmp_path / "m.gguf", binding=binding) as model, gpt2c.load(binding=binding) as original:
        ids = original.tokenizer.encode("It was a dark night, and the wind <|endoftext|> blew.")
        assert model.tokenizer.encode("It was a dark night, and the wind <|endoftext|> blew.") == ids
        assert model.tokenizer.eos_token_id == original.tokenizer.eos_token_id
        prompt = "Once upon a time"
        assert model.generate(prompt, 30).text == original.generate(prompt, 30).text


def test_without_the_gguf_package_a_plain_file_loads_and_a_quantized_one_names_the_extra(
    model_folder: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "plain.gguf", model_folder("tiny"), "BF16")
    write_gguf(tmp_path / "q.gguf", model_folder("tiny"), "Q8_0")
    monkeypatch.setitem(sys.modules, "gguf", None)
    load_checkpoint(tmp_path / "plain.gguf").close()
    with pytest.raises(BackendUnavailable) as caught:
        load_checkpoint(tmp_path / "q.gguf")
    assert str(caught.value).endswith("need the package gguf: pip install 'gpt2c[gguf]'")


# ---- All of them ----


def test_every_format_gives_the_bits_of_safetensors(
    model_folder: Folders, tmp_path: Path, binding: str
) -> None:
    folder = write_model(tmp_path / "tiny", "tiny")
    torch = torch_or_skip()
    write_llmc(tmp_path / "l.bin", folder)
    write_gguf(tmp_path / "g.gguf", folder)
    torch.save(torch_state(folder), config_next_to(tmp_path / "t" / "pytorch_model.bin", folder))
    ids = PROMPTS["tiny"][-1]
    with gpt2c.load(folder, binding=binding) as model:
        expected = model.logits(ids)
    for path in (tmp_path / "l.bin", tmp_path / "g.gguf", tmp_path / "t"):
        with gpt2c.load(path, binding=binding) as model:
            np.testing.assert_array_equal(model.logits(ids), expected)


def test_a_closed_file_says_so_and_its_fingerprint_follows_its_time(
    model_folder: Folders, tmp_path: Path
) -> None:
    import os

    torch = torch_or_skip()
    write_llmc(tmp_path / "l.bin", model_folder("tiny"))
    write_gguf(tmp_path / "g.gguf", model_folder("tiny"))
    torch.save(
        torch_state(model_folder("tiny")), config_next_to(tmp_path / "t" / "x.bin", model_folder("tiny"))
    )
    for path in (tmp_path / "l.bin", tmp_path / "g.gguf", tmp_path / "t" / "x.bin"):
        before = load_checkpoint(path)
        fingerprints = before.fingerprints()
        os.utime(path, ns=(1, 1))
        with load_checkpoint(path) as after:
            assert after.fingerprints() != fingerprints
        before.close()
        with pytest.raises(gpt2c.ClosedError):
            before.tensor("wte")
        with pytest.raises(gpt2c.ClosedError):
            before.fingerprints()
