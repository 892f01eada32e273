"""What all readers share: their interface, and files mapped into memory."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Protocol

from ..._files import require_regular_file, sha256
from ...config import ModelConfig
from ...errors import ClosedError, ModelFileError
from ...text.tokenizer import Vocabulary


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. `dtype`: a name as in safetensors; a model's tensors are "F32", "F16" or "BF16"."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class TensorFile(Protocol):
    """An open weight file. Safe to read from many threads."""

    path: Path

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The tensors by name."""

    @property
    def config(self) -> ModelConfig | None:
        """The config in the file; None if it is in a config.json in the same folder."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary in the file; None if it is in other files of the same folder."""

    def view(self, name: str) -> memoryview:
        """A tensor's raw little-endian bytes, row-major, of any alignment. A view outlives `close()`.

        Raises `KeyError` for a name that is not in `tensors`, `ClosedError` after `close()`.
        """

    def release(self, name: str) -> None:
        """Allow the system to drop a tensor's pages from memory. Views stay valid: pages are read again."""

    def fingerprint(self) -> str:
        """A string that changes when the file does. Raises `ClosedError` after `close()`."""

    def close(self) -> None:
        """Release the file. May be called again."""


class MappedFile:
    """A file mapped read-only: the part of a `TensorFile` that does not depend on the file's format."""

    config: ModelConfig | None = None
    vocabulary: Vocabulary | None = None

    def __init__(
        self,
        path: Path,
        data: mmap.mmap,
        mtime_ns: int,
        tensors: Mapping[str, StoredTensor],
        n_header: int,
        ranges: Mapping[str, tuple[int, int]],
    ) -> None:
        """n_header: bytes of the header at the start of the file. ranges: name -> (offset, bytes)."""
        self.path = path
        self._tensors = MappingProxyType(dict(tensors))
        self._map: mmap.mmap | None = data
        self._n_header = n_header
        self._mtime_ns = mtime_ns
        self._ranges = ranges

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The tensors by name."""
        return self._tensors

    def fingerprint(self) -> str:
        """A hash of the file's size, its modification time, its header and 16 samples of its data.

        The samples distinguish weights of the same shapes in files of the same time: archives, container
        images and `cp -p` set the time of a file. Raises `ClosedError` after `close()`.
        """
        data = self._open()
        n_bytes, first = len(data), self._n_header
        digest = sha256(f"{n_bytes} {self._mtime_ns} ".encode())
        digest.update(data[:first])
        for offset in range(first, n_bytes, max(1, (n_bytes - first) // 16)):
            digest.update(data[offset : offset + 4096])
        return digest.hexdigest()

    def release(self, name: str) -> None:
        """See `TensorFile`. Does nothing for a tensor that is not in the ranges."""
        if self._map is not None and name in self._ranges and hasattr(mmap, "MADV_DONTNEED"):
            offset, n_bytes = self._ranges[name]
            # Whole pages: if a neighbour still needs the first or last one, it is read again.
            first = offset // mmap.PAGESIZE * mmap.PAGESIZE
            if n_bytes > 0:
                self._map.madvise(mmap.MADV_DONTNEED, first, offset + n_bytes - first)

    def _open(self) -> mmap.mmap:
        if self._map is None:
            raise ClosedError(f"{self.path.name}: is closed")
        return self._map

    def close(self) -> None:
        """Release the mapping; the memory is freed with the last view. May be called again."""
        # Not mmap.close(), which fails while a view exists. Dropping the reference unmaps, too.
        self._map = None

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_projection(name: str) -> bool:
    """Whether a tensor is one of the four matrices of a layer, which other formats store as [n_out, n_in]."""
    return name.startswith("h.") and ".c_" in name and name.endswith(".weight")


def map_file(path: Path) -> tuple[mmap.mmap, int]:
    """Map a regular, non-empty file read-only. Returns the map and the modification time in nanoseconds."""
    require_regular_file(path, ModelFileError)
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            if about.st_size == 0:
                raise ModelFileError(f"{path.name}: is empty")
            return mmap.mmap(file.fileno(), about.st_size, access=mmap.ACCESS_READ), about.st_mtime_ns
    except ModelFileError:
        raise
    except (OSError, OverflowError, ValueError) as e:  # ValueError: the file became shorter meanwhile
        raise ModelFileError(f"{path.name}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
