"""Packed files, as the C core opens them and as the cache does.

That a file is cut short while it is mapped cannot be caught: the next read of a lost page ends the process
with SIGBUS, as in every program that maps files. So the cache's folder is its user's alone.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gpt2c
from gpt2c import bindings
from gpt2c.backends import packed_cache
from gpt2c.backends.native import native_config

KEY = b"a key"
HEADER = 4096
N_CHECKED = 8 + 4 + 4 + 10 * 4 + 4 + 3 * 4 + 8 + 8 + 128  # bytes before the header's checksum


class Packed:
    def __init__(self, folder: Path, binding: str) -> None:
        self.native = bindings.load(binding)
        self.path = folder / "x.packed"
        with gpt2c.load(folder, opts="aligned", binding=binding) as model:
            model.save_packed(self.path, KEY)
            self.config = native_config(model.config, model.plan, [name for name, *_ in self.native.isas()])

    def refused(self, key: bytes | None = KEY, **changed: Any) -> None:
        with pytest.raises(gpt2c.ModelFileError) as caught:
            self.native.Model.open_packed(bytes(self.path), key, {**self.config, **changed})
        assert str(caught.value) == "not a packed file of this version and model, or a damaged one"

    def rewrite(self, at: int, data: bytes, checksum: bool = True) -> None:
        """Put other bytes into the header, and make its checksum right again."""
        whole = bytearray(self.path.read_bytes())
        whole[at : at + len(data)] = data
        if checksum:
            whole[N_CHECKED : N_CHECKED + 8] = struct.pack("<Q", checksum_of(bytes(whole[:N_CHECKED])))
        self.path.write_bytes(whole)


def checksum_of(data: bytes) -> int:
    """native/packed.c's."""
    h, mask = 0xCBF29CE484222325, (1 << 64) - 1
    for i in range(0, len(data) - 7, 8):
        h = ((h ^ int.from_bytes(data[i : i + 8], "little")) * 0x100000001B3) & mask
        h ^= h >> 29
    for byte in data[len(data) // 8 * 8 :]:
        h = ((h ^ byte) * 0x100000001B3) & mask
    return h


@pytest.fixture
def packed(folder: Path, binding: str) -> Packed:
    return Packed(folder, binding)


def test_the_header_rewritten_with_its_checksum_is_still_a_good_file(packed: Packed) -> None:
    """Else the attacks below would prove nothing."""
    packed.rewrite(0, packed.path.read_bytes()[:8])
    packed.native.Model.open_packed(bytes(packed.path), KEY, packed.config)


def test_a_flipped_bit_in_the_header(packed: Packed) -> None:
    for bit in range(0, 8 * (N_CHECKED + 8), 13):
        byte = packed.path.read_bytes()[bit // 8]
        packed.rewrite(bit // 8, bytes([byte ^ 1 << bit % 8]), checksum=False)
        packed.refused(None)
        packed.rewrite(bit // 8, bytes([byte]), checksum=False)


@pytest.mark.parametrize(
    "changed",
    [
        {"n_layer": 3},
        {"n_head": 2},
        {"n_vocab": 127},
        {"layer_norm_epsilon": 1e-6},
        {"activation": 1},
        {"untied": 1},
    ],
    ids=str,
)
def test_a_file_of_another_model(packed: Packed, changed: dict[str, Any]) -> None:
    packed.refused(**changed)


LIES = {
    "another version": (8, struct.pack("<I", 99)),
    "the other byte order": (12, b"\1\2\3\4"),
    "2^31 - 1 layers": (16, struct.pack("<i", 2**31 - 1)),
    "no heads": (20, struct.pack("<i", 0)),
    "weights of 2^63 bytes": (72, struct.pack("<Q", 2**63)),
    "weights of 0 bytes": (72, struct.pack("<Q", 0)),
    "a key without an end": (88, b"k" * 128),
}


@pytest.mark.parametrize(("at", "data"), LIES.values(), ids=LIES)
def test_a_header_that_lies_with_a_right_checksum(packed: Packed, at: int, data: bytes) -> None:
    packed.rewrite(at, data)
    packed.refused(None)


@pytest.mark.parametrize("n", [0, 1, 7, 100, HEADER - 1, HEADER, HEADER + 1])
def test_a_file_cut_short(packed: Packed, n: int) -> None:
    packed.path.write_bytes(packed.path.read_bytes()[:n])
    packed.refused(None)


def test_a_shape_from_the_file_itself_cannot_ask_for_memory(packed: Packed) -> None:
    """A C program takes the shape from the file: what it says must fit the weights that are there."""
    packed.rewrite(16, struct.pack("<6i", 1024, 1024, 65536, 262144, 65536, 1 << 24))
    told = packed.native.packed_info(bytes(packed.path))
    assert told["n_layer"] == 1024
    shape = {key: told[key] for key in ("n_layer", "n_head", "n_embd", "n_inner", "n_ctx", "n_vocab")}
    packed.refused(None, **shape)


def test_a_bad_file_in_the_cache_is_replaced_with_a_warning(
    folder: Path, binding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2C_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packed_cache, "MIN_BYTES", 0)
    packed_cache._warned.clear()
    with gpt2c.load(folder, binding=binding) as model:
        expected = model.logits([1, 2, 3]).tolist()
    [file] = packed_cache.packed_files(tmp_path / "cache")
    spoil: list[Callable[[bytes], bytes]] = [
        lambda data: b"",
        lambda data: data[:HEADER],
        lambda data: data[:20] + b"\xff" + data[21:],
    ]
    for change in spoil:
        file.write_bytes(change(file.read_bytes()))
        packed_cache._warned.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with gpt2c.load(folder, binding=binding) as model:
                assert model.logits([1, 2, 3]).tolist() == expected
        assert len(caught) == 1 and "; rebuilt" in str(caught[0].message)


def test_the_fuzzers_seeds_are_files_of_this_version(binding: str) -> None:
    """Or fuzzing would begin at files that are refused by their first bytes."""
    seeds = list((Path(__file__).parent.parent / "fuzz" / "corpus" / "packed").iterdir())
    shapes = [bindings.load(binding).packed_info(bytes(path), verify=True) for path in seeds]
    assert len(shapes) >= 6 and {config["n_embd"] for config in shapes} == {4}
