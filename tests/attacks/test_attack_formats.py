"""GGUF files, files of torch.save, and llm.c's."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from other_formats import torch_or_skip, torch_state, write_gguf, write_llmc, write_nanogpt
from references import optional

import gpt2c

Refused = Callable[[Path, str], None]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(n_tensors: int = 0, n_keys: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + rest


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


KEY = text("general.architecture") + struct.pack("<I", 8)
GGUFS = {
    "nothing": (b"", "is empty"),
    "half a header": (b"GGUF\3", "is truncated, or its header is damaged (byte 4)"),
    "another format": (b"GGML" + bytes(100), "is not a GGUF file"),
    "the other byte order": (gguf(version=3 << 24), "GGUF version 50331648 is not supported (2 and 3 are)"),
    "2^63 tensors": (gguf(n_tensors=2**63), f"claims {2**63} tensors (at most 1048576)"),
    "2^64 - 1 keys": (gguf(n_keys=2**64 - 1), f"claims {2**64 - 1} keys (at most 1048576)"),
    "keys that are not there": (gguf(n_keys=1000), "is truncated, or its header is damaged (byte 24)"),
    "a text of 2^63 bytes": (
        gguf(0, 1, struct.pack("<Q", 2**63)),
        f"string of {2**63} bytes at byte 32 (at most 1048576)",
    ),
    "text that is none": (gguf(0, 1, struct.pack("<Q", 1) + b"\xff"), "text at byte 32 is not UTF-8"),
    "an unknown type": (gguf(0, 1, text("a") + struct.pack("<I", 99)), "'a' has the unknown type 99"),
    "a list of 2^63 numbers": (
        gguf(0, 1, text("a") + struct.pack("<IIQ", 9, 0, 2**63)),
        f"'a' claims {2**63} entries",
    ),
    "a list of 2^63 empty texts": (
        gguf(0, 1, text("a") + struct.pack("<IIQ", 9, 8, 2**63)),
        f"'a' claims {2**63} entries",
    ),
    "lists in lists": (
        gguf(0, 1, text("a") + struct.pack("<IIQ", 9, 9, 1)),
        "'a' is a list of the unknown type 9",
    ),
    "a key twice": (gguf(0, 2, 2 * (KEY + text("gpt2"))), "the key 'general.architecture' appears twice"),
    "another model": (
        gguf(0, 1, KEY + text("llama")),
        "general.architecture 'llama' is not supported (gpt2 is)",
    ),
    "no tensors": (gguf(0, 1, KEY + text("gpt2")), "tensor 'token_embd.weight' is missing"),
    "an alignment of 0": (
        gguf(0, 1, text("general.alignment") + struct.pack("<II", 4, 0)),
        "general.alignment 0 is not a power of two",
    ),
    "0 dimensions": (gguf(1, 0, tensor("a", ())), "tensor 'a' has 0 dimensions (1 to 4)"),
    "a tensor of 2^252 numbers": (
        gguf(1, 0, tensor("a", (2**63, 2**63, 2**63, 2**63))),
        f"tensor 'a': ends at byte {96 + 4 * 2**252}, the file at 81",
    ),
    "sizes whose product is 0 in 64 bits": (
        gguf(1, 0, tensor("a", (2**32, 2**32))),
        f"tensor 'a': ends at byte {96 + 4 * 2**64}, the file at 65",
    ),
    "an offset of 2^63": (
        gguf(1, 0, tensor("a", (1,), offset=2**63)),
        f"tensor 'a': ends at byte {64 + 2**63 + 4}, the file at 57",
    ),
    "one tensor twice": (
        gguf(2, 0, 2 * tensor("a", (1,)) + bytes(100)),
        "tensor 'a' appears twice",
    ),
    "two tensors in one place": (
        gguf(2, 0, tensor("a", (1,)) + tensor("b", (1,)) + bytes(100)),
        "tensor 'b': overlaps the tensor before it",
    ),
}


@pytest.mark.parametrize(("data", "line"), GGUFS.values(), ids=GGUFS)
def test_a_gguf_file_that_lies(tmp_path: Path, refused: Refused, data: bytes, line: str) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    refused(tmp_path / "m.gguf", f"m.gguf: {line}")


@pytest.mark.parametrize(("kind", "line"), [(4, "unknown type 4"), (2**31, "unknown type 2147483648")])
def test_a_gguf_tensor_of_no_type(tmp_path: Path, refused: Refused, kind: int, line: str) -> None:
    optional("gguf")
    (tmp_path / "m.gguf").write_bytes(gguf(1, 0, tensor("a", (32,), kind)))
    refused(tmp_path / "m.gguf", f"m.gguf: tensor 'a': {line}")


@pytest.mark.parametrize("part", ["tokens", "merges"])
@pytest.mark.parametrize("value", [struct.pack("<II", 4, 7), struct.pack("<I", 8) + text("ab")])
def test_a_gguf_vocabulary_that_is_no_list(tmp_path: Path, refused: Refused, part: str, value: bytes) -> None:
    numbers = {"block_count": 1, "attention.head_count": 1, "embedding_length": 4, "context_length": 8}
    words = struct.pack("<IIQ", 9, 8, 1) + text("a b")
    keys = {
        **{f"gpt2.{name}": struct.pack("<II", 4, n) for name, n in numbers.items()},
        "general.architecture": struct.pack("<I", 8) + text("gpt2"),
        "tokenizer.ggml.model": struct.pack("<I", 8) + text("gpt2"),
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.merges": words,
        f"tokenizer.ggml.{part}": value,
    }
    rest = b"".join(text(name) + value for name, value in keys.items())
    (tmp_path / "m.gguf").write_bytes(
        gguf(1, len(keys), rest + tensor("token_embd.weight", (4, 5)) + bytes(200))
    )
    refused(tmp_path / "m.gguf", "m.gguf: tokenizer.ggml.tokens and merges must be lists of strings")


def test_a_gguf_file_cut_short_anywhere(folder: Path, tmp_path: Path, binding: str) -> None:
    write_gguf(tmp_path / "whole.gguf", folder)
    data = (tmp_path / "whole.gguf").read_bytes()
    header = data.index(b"output_norm.bias")
    for n in [*range(0, header, 7), header + 40, len(data) // 2, len(data) - 1]:
        (tmp_path / "m.gguf").write_bytes(data[:n])
        with pytest.raises(gpt2c.ModelFileError, match=r"^m\.gguf: "):
            gpt2c.load(tmp_path / "m.gguf", binding=binding)


# ---- torch.save ----


class Runs:
    """What a pickle would call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("ran", "w"))


def archive(payload: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr("archive/data.pkl", payload)
        file.writestr("archive/version", "3")
    return out.getvalue()


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_pickle_that_would_run_code(
    folder: Path, binding: str, as_zip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_or_skip()
    monkeypatch.chdir(folder)
    payload = pickle.dumps({"wte.weight": Runs()}, 2)
    (folder / "pytorch_model.bin").write_bytes(archive(payload) if as_zip else payload)
    with pytest.raises(
        gpt2c.ModelFileError, match=r"^pytorch_model\.bin: torch cannot load it as weights only: "
    ):
        gpt2c.load(folder / "pytorch_model.bin", binding=binding)
    assert not (folder / "ran").exists()


def test_a_compressed_archive(folder: Path, refused: Refused) -> None:
    (folder / "pytorch_model.bin").write_bytes(archive(b"\0" * 10_000_000, zipfile.ZIP_DEFLATED))
    refused(folder / "pytorch_model.bin", "pytorch_model.bin: its member 'archive/data.pkl' is compressed")


def test_one_number_shown_as_a_billion(folder: Path, refused: Refused) -> None:
    torch = torch_or_skip()
    state = torch_state(folder)
    state["transformer.wte.weight"] = torch.zeros(1).expand(1 << 30)
    torch.save(state, folder / "pytorch_model.bin")
    line = (
        "pytorch_model.bin: tensor 'transformer.wte.weight' is not a dense CPU tensor with all its elements"
    )
    refused(folder / "pytorch_model.bin", line)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", ["meta", "nested", "sparse"])
def test_a_tensor_without_numbers_of_its_own(folder: Path, refused: Refused, kind: str) -> None:
    torch = torch_or_skip()
    state = torch_state(folder)
    state["transformer.wte.weight"] = {
        "meta": lambda like: like.to("meta"),
        "nested": lambda like: torch.nested.nested_tensor([like, like[:1]]),
        "sparse": lambda like: like.to_sparse(),
    }[kind](state["transformer.wte.weight"])
    torch.save(state, folder / "pytorch_model.bin")
    line = (
        "pytorch_model.bin: tensor 'transformer.wte.weight' is not a dense CPU tensor with all its elements"
    )
    refused(folder / "pytorch_model.bin", line)


def test_a_norm_of_a_single_number(folder: Path, refused: Refused) -> None:
    torch = torch_or_skip()
    write_nanogpt(folder / "x.pt", folder, bias=False)
    content = torch.load(folder / "x.pt")
    content["model"] = {name: t for name, t in content["model"].items() if not name.endswith(".bias")}
    content["model"]["transformer.ln_f.weight"] = torch.tensor(1.0)
    torch.save(content, folder / "x.pt")
    refused(folder / "x.pt", "x.pt: tensor 'transformer.ln_f.weight' has shape [], but the config needs [32]")


CONTENTS = {
    "a list": ([1, 2], "holds list, not a dict of tensors"),
    "a number among tensors": ({"wte.weight": 5}, "'wte.weight' is int, not a tensor"),
    "sizes that are none": (
        {"model": {}, "model_args": {"n_layer": "2"}},
        "model_args: n_head is missing",
    ),
    "arguments that are none": ({"model": {}, "model_args": [1]}, "model_args is list, not a dict"),
}


@pytest.mark.parametrize(("content", "line"), CONTENTS.values(), ids=CONTENTS)
def test_something_else_than_a_model(tmp_path: Path, refused: Refused, content: Any, line: str) -> None:
    torch_or_skip().save(content, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", f"x.pt: {line}")


def test_a_file_of_torch_cut_short_anywhere(folder: Path, tmp_path: Path, binding: str) -> None:
    write_nanogpt(tmp_path / "whole.pt", folder)
    data = (tmp_path / "whole.pt").read_bytes()
    for n in (0, 3, 64, len(data) // 3, len(data) - 30, len(data) - 1):
        (tmp_path / "x.pt").write_bytes(data[:n])
        with pytest.raises(gpt2c.ModelFileError, match=r"^x\.pt: "):
            gpt2c.load(tmp_path / "x.pt", binding=binding)


# ---- llm.c ----


def test_a_file_of_llmc_cut_short_or_longer(folder: Path, tmp_path: Path, refused: Refused) -> None:
    write_llmc(tmp_path / "whole.bin", folder)
    data = (tmp_path / "whole.bin").read_bytes()
    for changed in (data[:1024], data[:-1], data + b"\0"):
        (tmp_path / "x.bin").write_bytes(changed)
        refused(tmp_path / "x.bin", f"x.bin: has {len(changed)} bytes; a model of its sizes has {len(data)}")
    (tmp_path / "x.bin").write_bytes(data[:1000])
    refused(tmp_path / "x.bin", "x.bin: is too short for an llm.c checkpoint (1000 bytes)")
