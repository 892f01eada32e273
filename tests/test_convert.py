"""`gpt2c convert`: what is written has the same weights, and is there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import CONFIGS
from other_formats import (
    arrays_of,
    to_bf16,
    torch_or_skip,
    torch_state,
    write_gguf,
    write_llmc,
    write_nanogpt,
)
from processes import INSTALLED, NO_HANG
from references import needs, optional

import gpt2c
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.checkpoints.writers import write_folder
from gpt2c.checkpoints.writers import write_gguf as write_gguf_file
from gpt2c.checkpoints.writers.atomic import new_file, new_folder
from gpt2c.cli import main as cli
from gpt2c.errors import ConfigError, ModelFileError
from gpt2c.text.tokenizer import Tokenizer

Folders = Callable[[str], Path]
ROUND = {
    "f32": lambda x: x,
    "f16": lambda x: x.astype(np.float16).astype(np.float32),
    "bf16": lambda x: (to_bf16(x).astype(np.uint32) << np.uint32(16)).view(np.float32),
}


def convert(*argv: str | Path) -> None:
    assert cli.main(["convert", *map(str, argv)]) == 0


def error_of(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    assert cli.main(["convert", *map(str, argv)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("gpt2c: error: ") and err.count("\n") == 1
    return err.removeprefix("gpt2c: error: ").rstrip("\n")


def transformers_or_skip() -> Any:
    torch_or_skip()
    return optional("transformers")


# ---- Folders ----


@pytest.mark.parametrize("name", CONFIGS)
def test_a_written_folder_has_the_logits_of_its_source_in_transformers(
    name: str, model_folder: Folders, tmp_path: Path
) -> None:
    transformers, torch = transformers_or_skip(), torch_or_skip()
    convert(model_folder(name), tmp_path / "out")
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        theirs, ours = (
            transformers.GPT2LMHeadModel.from_pretrained(folder).eval()(ids).logits
            for folder in (model_folder(name), tmp_path / "out")
        )
    assert torch.equal(theirs, ours)


@pytest.mark.parametrize("dtype", ROUND)
@pytest.mark.parametrize("name", ["odd", "untied"])
def test_a_written_folder_holds_the_rounded_weights(
    name: str, dtype: str, model_folder: Folders, tmp_path: Path
) -> None:
    convert(model_folder(name), tmp_path / "out", "--dtype", dtype)
    found = arrays_of(tmp_path / "out")
    for tensor, array in arrays_of(model_folder(name)).items():
        np.testing.assert_array_equal(found[tensor], ROUND[dtype](array))
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["torch_dtype"] == {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype]


def test_a_half_precision_folder_is_what_transformers_calls_half(
    model_folder: Folders, tmp_path: Path
) -> None:
    transformers, torch = transformers_or_skip(), torch_or_skip()
    for dtype, theirs in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        convert(model_folder("odd"), tmp_path / dtype, "--dtype", dtype)
        loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / dtype)
        expected = transformers.GPT2LMHeadModel.from_pretrained(model_folder("odd")).to(theirs)
        assert loaded.dtype == theirs
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), expected.parameters(), strict=True))


def test_every_format_becomes_the_same_folder(model_folder: Folders, tmp_path: Path) -> None:
    torch, folder = torch_or_skip(), model_folder("tiny")
    write_llmc(tmp_path / "l.bin", folder)
    write_gguf(tmp_path / "g.gguf", folder)
    write_nanogpt(tmp_path / "n.pt", folder)
    torch.save(torch_state(folder), tmp_path / "x.bin")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    expected = arrays_of(folder)
    for source in ("l.bin", "g.gguf", "n.pt", "x.bin"):
        convert(tmp_path / source, tmp_path / f"{source}-out")
        found = arrays_of(tmp_path / f"{source}-out")
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], array) for name, array in expected.items())
        with (
            load_checkpoint(tmp_path / source) as source_file,
            load_checkpoint(tmp_path / f"{source}-out") as out,
        ):
            assert out.config == source_file.config


def test_the_vocabulary_goes_along(tmp_path: Path) -> None:
    optional("gguf")
    convert(EMBEDDED_MODEL, tmp_path / "a")
    assert (tmp_path / "a" / "merges.txt").read_bytes() == (EMBEDDED_MODEL / "merges.txt").read_bytes()
    convert(tmp_path / "a", tmp_path / "a.gguf")
    convert(tmp_path / "a.gguf", tmp_path / "b")
    text = "'I am ready,' said Holmes, and the wind blew.\n\n  Über <|endoftext|> 1234"
    with load_checkpoint(EMBEDDED_MODEL) as checkpoint:
        config = checkpoint.config
    expected = Tokenizer.from_folder(EMBEDDED_MODEL, config)
    for folder in (tmp_path / "a", tmp_path / "b"):
        found = Tokenizer.from_folder(folder, config)
        for special in (False, True):
            assert found.encode(text, allow_special=special) == expected.encode(text, allow_special=special)
    transformers = transformers_or_skip()
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path / "b")
    plain = text.replace("<|endoftext|>", "")
    assert theirs(plain)["input_ids"] == expected.encode(plain)


# ---- GGUF ----


def test_padding_of_a_vocabulary_is_padding_again(tmp_path: Path) -> None:
    gguf = optional("gguf")
    folder = tmp_path / "padded"
    convert(EMBEDDED_MODEL, folder)
    ids = json.loads((folder / "vocab.json").read_text())
    last = ids.pop("<|endoftext|>")
    (folder / "vocab.json").write_text(json.dumps(ids))
    convert(folder, tmp_path / "padded.gguf")
    [named] = [
        field.contents()[last]
        for field in gguf.GGUFReader(tmp_path / "padded.gguf").fields.values()
        if field.name == "tokenizer.ggml.tokens"
    ]
    assert named == f"[PAD{last}]"
    with gpt2c.load(folder) as model, gpt2c.load(tmp_path / "padded.gguf") as draft:
        assert draft.tokenizer.decode([1, last]) == model.tokenizer.decode([1, last])
        assert draft.tokenizer.encode(named, allow_special=True) == model.tokenizer.encode(named)
        assert model.generate("The sea", 5, draft=draft).text == model.generate("The sea", 5).text


@pytest.mark.parametrize("dtype", ROUND)
@pytest.mark.parametrize("name", ["odd", "untied", "epsilon"])
def test_a_written_gguf_file_is_what_the_gguf_package_reads(
    name: str, dtype: str, model_folder: Folders, tmp_path: Path
) -> None:
    gguf = optional("gguf")
    convert(model_folder(name), tmp_path / "m.gguf", "--dtype", dtype)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    fields = json.loads((model_folder(name) / "config.json").read_text())
    assert reader.get_field("gpt2.embedding_length").contents() == fields["n_embd"]
    assert reader.get_field("tokenizer.ggml.model").contents() == "none"
    theirs = {tensor.name: tensor for tensor in reader.tensors}
    expected = arrays_of(model_folder(name))
    assert len(theirs) == len(expected)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, fields["n_layer"])
    for tensor, array in expected.items():
        full = tensor if tensor == "lm_head.weight" else f"transformer.{tensor}"
        found = theirs[names.get_name(full, (".weight", ".bias"))]
        rounded = array if array.ndim == 1 or tensor == "wpe.weight" else ROUND[dtype](array)
        values = gguf.quants.dequantize(found.data, found.tensor_type)
        np.testing.assert_array_equal(values, rounded.T if ".c_" in tensor and array.ndim == 2 else rounded)


def test_a_gguf_file_of_the_embedded_model_says_the_same_text(tmp_path: Path, binding: str) -> None:
    optional("gguf")
    convert(EMBEDDED_MODEL, tmp_path / "m.gguf", "--dtype", "f32")
    with gpt2c.load(tmp_path / "m.gguf", binding=binding) as model, gpt2c.load(binding=binding) as original:
        assert model.generate("The sea", 30).text == original.generate("The sea", 30).text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", "activation_function 'relu': llama.cpp would compute 'gelu_new'"),
        ("gelu", "activation_function 'gelu': llama.cpp would compute 'gelu_new'"),
        ("unscaled", "scale_attn_weights False: llama.cpp would compute True"),
        ("by_layer", "scale_attn_by_inverse_layer_idx True: llama.cpp would compute False"),
    ],
)
def test_a_model_that_llama_cpp_does_not_run_is_refused(
    name: str, expected: str, model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optional("gguf")
    line = error_of(capsys, model_folder(name), tmp_path / "m.gguf")
    assert line == f"GGUF has no gpt2 with {expected}"
    assert os.listdir(tmp_path) == []


# ---- Whole or not at all ----

WRITTEN_GGUF = pytest.param("m.gguf", marks=needs("gguf"))


@pytest.mark.parametrize("name", ["out", WRITTEN_GGUF, "dangling"])
def test_what_is_there_already_stays_as_it_is(
    name: str, model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "m.gguf").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    line = error_of(capsys, model_folder("odd"), tmp_path / name)
    assert line == f"'{tmp_path / name}' already exists: remove it, or choose another name"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "m.gguf", "out"]
    assert os.listdir(tmp_path / "out") == [] and (tmp_path / "m.gguf").read_text() == "mine"


@pytest.mark.parametrize("name", ["out", WRITTEN_GGUF])
def test_a_full_disk_leaves_nothing(name: str, tmp_path: Path) -> None:
    """A limit on a file's length fails a write as a full disk does: with an error and a part written."""
    n_bytes = (EMBEDDED_MODEL / "model.safetensors").stat().st_size
    for limit in (0, 1000, n_bytes // 2, n_bytes - 5000):
        done = subprocess.run(
            [sys.executable, "-m", "gpt2c", "convert", str(EMBEDDED_MODEL), str(tmp_path / name)],
            env={**os.environ, "PYTHONPATH": str(INSTALLED), "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            capture_output=True,
            text=True,
            timeout=NO_HANG,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"gpt2c: error: '{tmp_path / name}' cannot be written: ")
        assert done.stderr.count("\n") == 1
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(write_folder, id="folder"),
        pytest.param(write_gguf_file, id="gguf", marks=needs("gguf")),
    ],
)
def test_an_interrupt_leaves_nothing(write: Any, model_folder: Folders, tmp_path: Path) -> None:
    seen = []

    def interrupt(n_done: int, n_all: int) -> None:
        seen.append(n_done / n_all)
        (partial,) = os.listdir(tmp_path)
        assert re.fullmatch(r"\.out\.partial-[0-9a-f]{8}", partial)
        if len(seen) == 7:
            raise KeyboardInterrupt

    with load_checkpoint(model_folder("tiny")) as checkpoint, pytest.raises(KeyboardInterrupt):
        write(checkpoint, tmp_path / "out", progress=interrupt)
    assert os.listdir(tmp_path) == []
    assert seen == sorted(seen) and 0 < seen[-1] < 1


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_threads_that_write_one_target_have_partial_files_apart(new: Any, tmp_path: Path) -> None:
    """The one that finishes first gets the name, with its own text; the other one gets an error."""
    both_wrote, first_is_done = threading.Barrier(2, timeout=60), threading.Event()
    errors: dict[str, str] = {}

    def write(text: str) -> None:
        try:
            with new(tmp_path / "out") as partial:
                (partial / "file" if new is new_folder else partial).write_text(text)
                both_wrote.wait()
                if text == "second":
                    first_is_done.wait(60)
        except (ModelFileError, threading.BrokenBarrierError) as e:
            both_wrote.abort()
            errors[text] = str(e)
        first_is_done.set()

    threads = [threading.Thread(target=write, args=[text]) for text in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == {"second": f"'{tmp_path / 'out'}' appeared meanwhile"}
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "file" if new is new_folder else tmp_path / "out").read_text() == "first"


def test_a_weight_that_is_too_large_for_a_dtype_is_named(tmp_path: Path, model_folder: Folders) -> None:
    import safetensors.numpy

    arrays = safetensors.numpy.load_file(model_folder("tiny") / "model.safetensors")
    arrays["h.1.mlp.c_fc.bias"][3] = 70000.0
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes((model_folder("tiny") / "config.json").read_bytes())
    safetensors.numpy.save_file(arrays, tmp_path / "m" / "model.safetensors")
    with load_checkpoint(tmp_path / "m") as checkpoint:
        with pytest.raises(
            ModelFileError, match=r"^tensor 'h\.1\.mlp\.c_fc\.bias': the weight 70000 is too large"
        ):
            write_folder(checkpoint, tmp_path / "out", "f16")
        write_folder(checkpoint, tmp_path / "out", "bf16")
    assert sorted(os.listdir(tmp_path)) == ["m", "out"]


def test_a_broken_source_and_an_unknown_dtype_write_nothing(
    model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(capsys, tmp_path / "x", tmp_path / "out").startswith("no model at ")
    assert cli.main(["convert", str(model_folder("odd")), str(tmp_path / "out"), "--dtype", "f8"]) == 2
    assert capsys.readouterr().err == "gpt2c: error: unknown dtype 'f8' (choose from f32, f16, bf16)\n"
    file = tmp_path / "a-file"
    file.write_text("")
    line = error_of(capsys, model_folder("odd"), file / "out")
    assert line == f"'{file / 'out'}' cannot be written: Not a directory"
    assert os.listdir(tmp_path) == ["a-file"]


def test_a_model_that_gguf_does_not_have_writes_nothing(model_folder: Folders, tmp_path: Path) -> None:
    optional("gguf")
    with load_checkpoint(model_folder("relu")) as checkpoint, pytest.raises(ConfigError):
        write_gguf_file(checkpoint, tmp_path / "m.gguf")
    assert os.listdir(tmp_path) == []
