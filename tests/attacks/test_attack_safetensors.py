"""model.safetensors, and the index of shards."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[[Path, str], None]
Entries = dict[str, Any]

ST = "model.safetensors: "
FIRST, SECOND = "h.0.attn.c_attn.bias", "h.0.attn.c_attn.weight"  # in the order of the data


def blob(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def spoil(folder: Path, change: Callable[[Entries], None]) -> None:
    """Let `change` do something to the header; the data stays."""
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    n = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + n])
    change(entries)
    file.write_bytes(blob(json.dumps(entries).encode(), whole[8 + n :]))


def at(name: str, **fields: Any) -> Callable[[Entries], None]:
    return lambda entries: entries[name].update(fields)


HEADERS = {
    "two tensors in one place": (
        at(SECOND, data_offsets=[0, 12288]),
        f"{ST}tensor '{SECOND}': overlaps the tensor before it",
    ),
    "an overlap of a byte": (
        at(SECOND, data_offsets=[383, 383 + 12288]),
        f"{ST}tensor '{SECOND}': overlaps the tensor before it",
    ),
    "beyond the file": (
        at(FIRST, data_offsets=[10**9, 10**9 + 384]),
        f"{ST}tensor '{SECOND}': follows a hole in the data",
    ),
    "before the file": (
        at(FIRST, data_offsets=[-384, 0]),
        f"{ST}tensor '{FIRST}': data_offsets [-384, 0] are not a range",
    ),
    "an offset of 2^63": (
        at(FIRST, data_offsets=[2**63, 2**63 + 384]),
        f"{ST}tensor '{SECOND}': follows a hole in the data",
    ),
    "a range that wraps around": (
        at(FIRST, data_offsets=[2**64 - 384, 2**64]),
        f"{ST}tensor '{SECOND}': follows a hole in the data",
    ),
    "a size of 2^63": (
        at(FIRST, shape=[2**63]),
        f"{ST}tensor '{FIRST}': F32 of shape [9223372036854775808] needs {4 * 2**63} bytes, "
        "data_offsets give 384",
    ),
    "sizes whose product is 0 in 64 bits": (
        at(FIRST, shape=[2**32, 2**32]),
        f"{ST}tensor '{FIRST}': F32 of shape [4294967296, 4294967296] needs {4 * 2**64} bytes, "
        "data_offsets give 384",
    ),
    "sizes whose product is right in 64 bits": (
        at(FIRST, shape=[2**62 + 96], data_offsets=[0, 384]),
        f"{ST}tensor '{FIRST}': F32 of shape [4611686018427388000] needs {4 * (2**62 + 96)} bytes, "
        "data_offsets give 384",
    ),
    "a size of 0 that hides the others": (
        at(FIRST, shape=[0, 2**60], data_offsets=[0, 0]),
        f"{ST}tensor '{SECOND}': follows a hole in the data",
    ),
    "65 dimensions": (at(FIRST, shape=[1] * 65), f"{ST}tensor '{FIRST}': has 65 dimensions (at most 64)"),
    "a size that is a float": (
        at(FIRST, shape=[96.0]),
        f"{ST}tensor '{FIRST}': shape must be a list of whole numbers, not [96.0]",
    ),
    "a size that is true": (
        at(FIRST, shape=[True, 96]),
        f"{ST}tensor '{FIRST}': shape must be a list of whole numbers, not [True, 96]",
    ),
    "metadata that is no text": (
        lambda entries: entries.update(__metadata__={"format": 7}),
        f"{ST}__metadata__ must map strings to strings",
    ),
}


@pytest.mark.parametrize(("change", "line"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies(
    folder: Path, refused: Refused, change: Callable[[Entries], None], line: str
) -> None:
    spoil(folder, change)
    refused(folder, line)


TEXTS = {
    "a header of 2^63 bytes": (
        (2**63).to_bytes(8, "little"),
        f"is not a safetensors file, or damaged: its header claims {2**63} bytes (at most 100000000)",
    ),
    "a header of 100 MB and a byte": (
        (100_000_001).to_bytes(8, "little") + b"{}",
        "is not a safetensors file, or damaged: its header claims 100000001 bytes (at most 100000000)",
    ),
    "a header longer than the file": (
        (100_000_000).to_bytes(8, "little") + b"{}",
        "is truncated: the header has 100000000 bytes, the file 10",
    ),
    "a key twice": (blob(b'{"a":{},"a":{}}'), "header: the key 'a' appears twice"),
    "a field twice": (blob(b'{"a":{"dtype":"F32","dtype":"F16"}}'), "header: the key 'dtype' appears twice"),
    "deep lists": (blob(b'{"a":' + b"[" * 1_000_000), "header: the JSON is nested too deeply"),
    "deep objects": (blob(b'{"a":' * 1_000_000), "header: the JSON is nested too deeply"),
    "NaN": (blob(b'{"a":NaN}'), "header: NaN is not JSON"),
    "a number of a million digits": (
        blob(b'{"a":' + b"9" * 1_000_000 + b"}"),
        "header: the number '9999999...99999999' is too long",
    ),
    "a million tensors": (
        blob(b"{" + b",".join(b'"%d":0' % i for i in range(1_000_001)) + b"}"),
        "header: has more than 1000000 entries",
    ),
}


@pytest.mark.parametrize(("text", "line"), TEXTS.values(), ids=TEXTS)
def test_a_file_that_is_no_model(folder: Path, refused: Refused, text: bytes, line: str) -> None:
    (folder / "model.safetensors").write_bytes(text)
    refused(folder, ST + line)


def test_a_hundred_megabytes_of_nothing(folder: Path, refused: Refused) -> None:
    file = folder / "model.safetensors"
    with open(file, "wb") as out:
        out.write((100_000_000).to_bytes(8, "little") + b"{")
        for _ in range(100):
            out.write(b" " * 999_999 + b"\n")
        out.truncate(8 + 100_000_000)
    expected = "Expecting property name enclosed in double quotes (line 100, column 1000000)"
    refused(folder, f"{ST}header: is not JSON: {expected}")


def test_a_file_that_is_cut_between_opening_and_mapping(
    folder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = folder / "model.safetensors", mmap.mmap

    def cut_first(*args: Any, **more: Any) -> mmap.mmap:
        os.truncate(file, 5000)
        return real(*args, **more)

    monkeypatch.setattr("gpt2c.checkpoints.readers.safetensors.mmap.mmap", cut_first)
    refused(folder, f"{ST}cannot be read: mmap length is greater than file size")


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("index", "line"),
    [
        (
            b'{"weight_map": {"wte.weight": "../w/model.safetensors"}}',
            "'../w/model.safetensors' is not a plain",
        ),
        (b'{"weight_map": {"wte.weight": "/etc/passwd"}}', "'/etc/passwd' is not a plain"),
        (b'{"weight_map": {"wte.weight": ".safetensors"}}', "'.safetensors' is not a plain"),
        (b'{"weight_map": {"wte.weight": "a\\u0000.safetensors"}}', "'a\\x00.safetensors' is not a plain"),
    ],
)
def test_an_index_that_leads_elsewhere(folder: Path, refused: Refused, index: bytes, line: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_bytes(index)
    refused(folder, f"{INDEX}: tensor 'wte.weight': {line} .safetensors file name")
