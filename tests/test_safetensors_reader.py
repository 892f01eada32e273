"""The safetensors reader: what the safetensors package writes reads back equal; hostile files are refused."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2c.checkpoints.readers.safetensors import open_safetensors
from gpt2c.errors import ClosedError, ModelFileError, ModelNotFoundError


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def write(
    path: Path, header: bytes | dict[str, object], data: bytes = b"", length: int | None = None
) -> Path:
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def fault(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        open_safetensors(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_arrays_of_every_numpy_dtype_read_back_equal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{np.dtype(dtype).name}.{shape}": rng.integers(0, 2, shape).astype(dtype)
        for dtype in ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8")
        for shape in ((), (3,), (2, 5), (0, 4), (1, 1, 7))
    }
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors", metadata={"format": "np", "ü": "é"})
    with open_safetensors(tmp_path / "m.safetensors") as file:
        assert file.metadata == {"format": "np", "ü": "é"}
        assert file.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            assert file.tensors[name].shape == array.shape
            assert bytes(file.view(name)) == array.tobytes()


def test_a_dtype_that_numpy_has_not_reads_back_by_its_bytes(tmp_path: Path) -> None:
    raw = os.urandom(12)
    path = write(tmp_path / "m.safetensors", {"b": entry("BF16", (2, 3), (0, 12))}, raw)
    with safetensors.safe_open(path, "numpy") as theirs:
        assert (theirs.get_slice("b").get_dtype(), theirs.get_slice("b").get_shape()) == ("BF16", [2, 3])
    with open_safetensors(tmp_path / "m.safetensors") as file:
        assert (file.tensors["b"].dtype, file.tensors["b"].shape) == ("BF16", (2, 3))
        assert bytes(file.view("b")) == raw


def test_a_view_is_read_only_raw_bytes_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a": entry()}, b"\1\2\3\4")
    with open_safetensors(str(path)) as file:
        view = file.view("a")
        info = file.tensors["a"]
        assert (view.format, view.ndim, view.nbytes, view.readonly) == ("B", 1, 4, True)
        assert path.read_bytes()[info.offset : info.offset + info.n_bytes] == bytes(view)
        with pytest.raises(KeyError):
            file.view("b")


def test_a_view_outlives_the_file_but_a_closed_file_gives_no_more(tmp_path: Path) -> None:
    file = open_safetensors(write(tmp_path / "m.safetensors", {"a": entry()}, b"\1\2\3\4"))
    view = file.view("a")
    file.close()
    file.close()
    with pytest.raises(ClosedError, match=r"^m\.safetensors: is closed$"):
        file.view("a")
    del file
    gc.collect()
    assert bytes(view) == b"\1\2\3\4"


def test_an_empty_file_of_no_tensors_is_valid(tmp_path: Path) -> None:
    with open_safetensors(write(tmp_path / "m.safetensors", b"{}   ")) as file:
        assert not file.tensors
        assert not file.metadata


HOSTILE: list[tuple[str, bytes | dict[str, object], bytes, str]] = [
    ("not an object", b"[]", b"", "is not a safetensors file: its header is not a JSON object"),
    ("leading space", b" {}", b"", "is not a safetensors file: its header is not a JSON object"),
    ("empty header", b"", b"", "is not a safetensors file: its header is not a JSON object"),
    ("bad json", b"{", b"",
     "header: is not JSON: Expecting property name enclosed in double quotes (line 1, column 2)"),
    ("bad utf-8", b'{"\xff": 1}', b"", "header: is not UTF-8 text (byte 2)"),
    ("deep", b'{"a":' * 100_000, b"", "header: the JSON is nested too deeply"),
    ("twice", b'{"a":{},"a":{}}', b"", "header: the key 'a' appears twice"),
    ("metadata list", {"__metadata__": []}, b"", "__metadata__ must map strings to strings"),
    ("metadata number", {"__metadata__": {"a": 1}}, b"", "__metadata__ must map strings to strings"),
    ("entry", {"a": 1}, b"", "tensor 'a': its entry must be an object, not 1"),
    ("dtype", {"a": entry(dtype="F31")}, b"1234", "tensor 'a': unknown dtype 'F31'"),
    ("dtype list", {"a": entry(dtype=["F32"])}, b"1234", "tensor 'a': unknown dtype ['F32']"),
    ("no dtype", {"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234", "tensor 'a': unknown dtype null"),
    ("no shape", {"a": entry(shape=None)}, b"1234",
     "tensor 'a': shape must be a list of whole numbers, not null"),
    ("shape -1", {"a": entry(shape=[-1])}, b"1234",
     "tensor 'a': shape must be a list of whole numbers, not [-1]"),
    ("shape 1.0", {"a": entry(shape=[1.0])}, b"1234",
     "tensor 'a': shape must be a list of whole numbers, not [1.0]"),
    ("shape true", {"a": entry(shape=[True])}, b"1234",
     "tensor 'a': shape must be a list of whole numbers, not [True]"),
    ("rank", {"a": entry(shape=[1] * 65)}, b"1234", "tensor 'a': has 65 dimensions (at most 64)"),
    ("offsets", {"a": entry(offsets=[0])}, b"1234",
     "tensor 'a': data_offsets must be two whole numbers, not [0]"),
    ("offset text", {"a": entry(offsets=[0, "4"])}, b"1234",
     "tensor 'a': data_offsets must be two whole numbers, not [0, '4']"),
    ("backwards", {"a": entry(offsets=[4, 0])}, b"1234", "tensor 'a': data_offsets [4, 0] are not a range"),
    ("negative", {"a": entry(offsets=[-4, 0])}, b"1234", "tensor 'a': data_offsets [-4, 0] are not a range"),
    ("size", {"a": entry(shape=[2])}, b"1234",
     "tensor 'a': F32 of shape [2] needs 8 bytes, data_offsets give 4"),
    ("wraps to 4 bytes", {"a": entry(shape=[2**62 + 1])}, b"1234",
     "tensor 'a': F32 of shape [4611686018427387905] needs 18446744073709551620 bytes, data_offsets give 4"),
    ("wraps to 0 bytes", {"a": entry(shape=[2**32, 2**32], offsets=[0, 0])}, b"",
     "tensor 'a': F32 of shape [4294967296, 4294967296] needs 73786976294838206464 bytes, "
     "data_offsets give 0"),
    ("half a byte", {"a": entry("F4", [3], [0, 1])}, b"1",
     "tensor 'a': F4 of shape [3] needs 1 bytes, data_offsets give 1"),
    ("overlap", {"a": entry(), "b": entry()}, b"1234", "tensor 'b': overlaps the tensor before it"),
    ("part overlap", {"a": entry(), "b": entry(offsets=[2, 6])}, b"123456",
     "tensor 'b': overlaps the tensor before it"),
    ("hole", {"a": entry(), "b": entry(offsets=[8, 12])}, b"\0" * 12,
     "tensor 'b': follows a hole in the data"),
    ("late start", {"a": entry(offsets=[4, 8])}, b"\0" * 8, "tensor 'a': follows a hole in the data"),
    ("remainder", {"a": entry()}, b"12345", "1 bytes follow the last tensor"),
    ("control characters", {"a\n\x1b[31m": 1}, b"",
     "tensor 'a\\n\\x1b[31m': its entry must be an object, not 1"),
    ("a lone surrogate", {"\ud800": 1}, b"", "tensor '\\ud800': its entry must be an object, not 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "data", "expected"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE]
)
def test_a_hostile_header_is_refused_in_one_line(
    tmp_path: Path, header: bytes | dict[str, object], data: bytes, expected: str
) -> None:
    message = fault(write(tmp_path / "m.safetensors", header, data))
    assert message in (f"m.safetensors: {expected}", f"m.safetensors {expected}")


def test_a_file_cut_short_is_said_to_be_truncated(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a": entry(shape=[2], offsets=[0, 8])}, b"\0" * 8)
    n_header = path.stat().st_size - 16
    os.truncate(path, n_header + 12)
    assert fault(path) == (
        f"m.safetensors: is truncated: tensor 'a' ends at byte {n_header + 16}, the file at {n_header + 12}"
    )
    os.truncate(path, 20)
    assert fault(path) == f"m.safetensors: is truncated: the header has {n_header} bytes, the file 20"
    os.truncate(path, 7)
    assert fault(path) == "m.safetensors: is too short for a safetensors file (7 bytes)"
    os.truncate(path, 0)
    assert fault(path) == "m.safetensors: is too short for a safetensors file (0 bytes)"


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1])
def test_a_header_of_absurd_length_is_not_read(tmp_path: Path, length: int) -> None:
    assert fault(write(tmp_path / "m.safetensors", b"{}", length=length)) == (
        f"m.safetensors: is not a safetensors file, or damaged: its header claims {length} bytes "
        "(at most 100000000)"
    )


def test_a_git_lfs_pointer_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    )
    assert fault(tmp_path / "m.safetensors") == (
        "m.safetensors: is a Git LFS pointer, not the weights; run 'git lfs pull' in its folder"
    )


def test_what_is_not_there_or_not_a_file_is_refused_without_waiting(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no\.safetensors' does not exist$"):
        open_safetensors(tmp_path / "no.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert fault(tmp_path / "pipe.safetensors") == "pipe.safetensors: is not a regular file"


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_as_the_package_reads_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = safetensors.numpy.save({"a": np.arange(3, dtype=np.float32), "b": np.ones((2, 2), np.float16)})
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(damaged)
    try:
        file = open_safetensors(path)
    except ModelFileError as e:
        assert str(e).isprintable()
        return
    with file:
        theirs = safetensors.deserialize(bytes(damaged))  # type: ignore[no-untyped-call]
        assert {name: bytes(file.view(name)) for name in file.tensors} == {
            n: bytes(t["data"]) for n, t in theirs
        }
