"""Reader of the safetensors format that maps files, copies nothing and trusts nothing in them.

The format (https://huggingface.co/docs/safetensors) is an 8-byte little-endian header length, a JSON header
that gives each tensor's dtype, shape and byte range, and the raw data. Files are mapped read-only, and
tensors are views of the map. The whole header is checked against the file's size first; see
`open_safetensors`. (If another program truncates a file while it is mapped, the process ends with a bus
error. No reader of mapped files can prevent that.)

Views are raw bytes, not floats: a header may have any length (that of the published gpt2 file is 14,283), so
tensors may start at odd addresses and must not be read through float pointers.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..._files import parse_json_object, quoted, require_regular_file
from ...errors import ModelFileError
from .base import MappedFile, StoredTensor

MAX_HEADER_BYTES = 100_000_000
"""Maximum length of a safetensors header; the same limit as in the safetensors package."""

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
"""Bits per element of every dtype that the format defines."""


@dataclass(frozen=True)
class TensorInfo(StoredTensor):
    """A tensor and its place: `n_bytes` bytes at `offset` from the start of the file."""

    offset: int
    n_bytes: int


class SafetensorsFile(MappedFile):
    """An open safetensors file; made by `open_safetensors`. Safe to read from many threads.

    `path`: the file; `tensors`: name -> `TensorInfo`, in the order of the data; `metadata`: the
    header's `__metadata__`, str -> str.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, TensorInfo],
        metadata: Mapping[str, str],
        data: mmap.mmap,
        n_header: int,
        mtime_ns: int,
    ) -> None:
        ranges = {name: (info.offset, info.n_bytes) for name, info in tensors.items()}
        super().__init__(path, data, mtime_ns, tensors, 8 + n_header, ranges)
        self.metadata = metadata

    def view(self, name: str) -> memoryview:
        """The raw bytes of a tensor: one-dimensional, read-only, not copied, of any alignment.

        A view keeps the map alive, also after `close()`. Raises `KeyError` for a name that is not in
        `tensors`, `ClosedError` after `close()`.
        """
        offset, n_bytes = self._ranges[name]
        return memoryview(self._open())[offset : offset + n_bytes]

    def __enter__(self) -> SafetensorsFile:
        return self


def open_safetensors(path: str | os.PathLike[str]) -> SafetensorsFile:
    """Map a safetensors file whose header fits its size.

    Checked: the header has at most 100 MB, is inside the file and is a strict JSON object; every dtype is
    known; every shape holds non-negative integers, and its range has exactly the bytes that it needs; the
    ranges cover the data without overlap, hole or remainder; `__metadata__` maps strings to strings.

    Raises `ModelNotFoundError` if there is no such file, else `ModelFileError`, which names the file and the
    tensor.
    """
    path = Path(path)
    name = path.name
    require_regular_file(path, ModelFileError)
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            n_file = about.st_size
            n_header = _header_length(file.read(8), n_file, name)
            header = file.read(n_header)
            if len(header) != n_header:
                raise ModelFileError(f"{name}: became shorter while it was read")
            tensors, metadata = _parse_header(header, n_file - 8 - n_header, name)
            data = mmap.mmap(file.fileno(), n_file, access=mmap.ACCESS_READ)
    except ModelFileError:
        raise
    except (OSError, OverflowError, ValueError) as e:  # ValueError: the file became shorter meanwhile
        raise ModelFileError(f"{name}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
    return SafetensorsFile(path, tensors, MappingProxyType(metadata), data, n_header, about.st_mtime_ns)


def _header_length(start: bytes, n_file: int, name: str) -> int:
    if len(start) < 8:
        raise ModelFileError(f"{name}: is too short for a safetensors file ({n_file} bytes)")
    if start == b"version ":
        raise ModelFileError(
            f"{name}: is a Git LFS pointer, not the weights; run 'git lfs pull' in its folder"
        )
    n_header = int.from_bytes(start, "little")
    if n_header > MAX_HEADER_BYTES:
        raise ModelFileError(
            f"{name}: is not a safetensors file, or damaged: its header claims {n_header} bytes "
            f"(at most {MAX_HEADER_BYTES})"
        )
    if n_header > n_file - 8:
        raise ModelFileError(f"{name}: is truncated: the header has {n_header} bytes, the file {n_file}")
    return n_header


def _parse_header(header: bytes, n_data: int, name: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    if not header.startswith(b"{"):
        raise ModelFileError(f"{name}: is not a safetensors file: its header is not a JSON object")
    entries = parse_json_object(header, f"{name}: header", ModelFileError)
    metadata = entries.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ModelFileError(f"{name}: __metadata__ must map strings to strings")
    n_before = 8 + len(header)
    tensors = [_parse_entry(key, entry, n_before, name) for key, entry in entries.items()]
    tensors.sort(key=lambda info: (info.offset, info.n_bytes))
    _check_cover(tensors, n_before, n_data, name)
    return {info.name: info for info in tensors}, metadata


def _parse_entry(key: str, entry: object, n_before: int, name: str) -> TensorInfo:
    """A tensor from its header entry, which is checked alone; `n_before` bytes precede the data."""
    where = f"{name}: tensor {quoted(key)}"
    if not isinstance(entry, dict):
        raise ModelFileError(f"{where}: its entry must be an object, not {quoted(entry)}")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ModelFileError(f"{where}: unknown dtype {quoted(dtype)}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ModelFileError(f"{where}: shape must be a list of whole numbers, not {quoted(shape)}")
    if len(shape) > 64:  # bounds the product below; NumPy and torch allow 64 dimensions too
        raise ModelFileError(f"{where}: has {len(shape)} dimensions (at most 64)")
    offsets = entry.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        raise ModelFileError(f"{where}: data_offsets must be two whole numbers, not {quoted(offsets)}")
    start, end = offsets
    if not 0 <= start <= end:
        raise ModelFileError(f"{where}: data_offsets [{start}, {end}] are not a range")
    n_bits = math.prod(shape) * DTYPE_BITS[dtype]  # exact: Python integers do not overflow
    if n_bits != 8 * (end - start):
        raise ModelFileError(
            f"{where}: {dtype} of shape {quoted(shape)} needs {n_bits // 8} bytes, "
            f"data_offsets give {end - start}"
        )
    return TensorInfo(key, dtype, tuple(shape), n_before + start, end - start)


def _check_cover(tensors: list[TensorInfo], n_before: int, n_data: int, name: str) -> None:
    """Check that the tensors, sorted by offset, cover the `n_data` bytes of data exactly once."""
    end = n_before
    for info in tensors:
        if info.offset != end:
            fault = "overlaps the tensor before it" if info.offset < end else "follows a hole in the data"
            raise ModelFileError(f"{name}: tensor {quoted(info.name)}: {fault}")
        end += info.n_bytes
    if end - n_before > n_data:
        raise ModelFileError(
            f"{name}: is truncated: tensor {quoted(tensors[-1].name)} ends at byte {end}, "
            f"the file at {n_before + n_data}"
        )
    if end - n_before < n_data:
        raise ModelFileError(f"{name}: {n_data - (end - n_before)} bytes follow the last tensor")
