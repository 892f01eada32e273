"""What all readers share: the surface that they have, and files mapped into memory."""

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
    """A tensor in a file. `dtype` is as in safetensors: "F32", "F16", "BF16", or one that no model has."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class TensorFile(Protocol):
    """An open file of weights. Safe to read from many threads."""

    path: Path

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """By name."""

    @property
    def config(self) -> ModelConfig | None:
        """What the file itself says of its model; None where a config.json beside it does."""

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The file's own; None where files beside it have it."""

    def view(self, name: str) -> memoryview:
        """A tensor's raw little-endian bytes, row-major, of any alignment. A view outlives `close()`.

        Raises `KeyError` for a name that is not in `tensors`, `ClosedError` after `close()`.
        """

    def release(self, name: str) -> None:
        """Say that a tensor's pages are not needed in memory for now; views stay good."""

    def fingerprint(self) -> str:
        """Text that changes when the file does. Raises `ClosedError` after `close()`."""

    def close(self) -> None:
        """Let go of the file. Again is harmless."""


class MappedFile:
    """A file mapped read-only, the part of a `TensorFile` that does not depend on its format.

    `path`: the file; `tensors`: name -> what it is, for the subclass to fill.
    """

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
        """`n_header`: how many bytes at the start say what the rest means; `ranges`: where the tensors
        lie, (offset, bytes)."""
        self.path = path
        self._tensors = MappingProxyType(dict(tensors))
        self._map: mmap.mmap | None = data
        self._n_header = n_header
        self._mtime_ns = mtime_ns
        self._ranges = ranges

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """By name."""
        return self._tensors

    def fingerprint(self) -> str:
        """Text that changes when the file does: of its size, time and header, and a sample of its data.

        The sample, 16 pieces all over the file, is for other weights of the same shapes whose time was
        set back to the same: by an archive, a container image, `cp -p`. Raises `ClosedError`.
        """
        data = self._open()
        n_bytes, first = len(data), self._n_header
        digest = sha256(f"{n_bytes} {self._mtime_ns} ".encode())
        digest.update(data[:first])
        for offset in range(first, n_bytes, max(1, (n_bytes - first) // 16)):
            digest.update(data[offset : offset + 4096])
        return digest.hexdigest()

    def release(self, name: str) -> None:
        """See `TensorFile`. Nothing where a reader does not know a tensor's place."""
        if self._map is not None and name in self._ranges and hasattr(mmap, "MADV_DONTNEED"):
            offset, n_bytes = self._ranges[name]
            # Whole pages; what a neighbour still needs of the first and last one is read again.
            first = offset // mmap.PAGESIZE * mmap.PAGESIZE
            if n_bytes > 0:
                self._map.madvise(mmap.MADV_DONTNEED, first, offset + n_bytes - first)

    def _open(self) -> mmap.mmap:
        if self._map is None:
            raise ClosedError(f"{self.path.name}: is closed")
        return self._map

    def close(self) -> None:
        """Give up the mapping; the memory goes when the last view does. Again is harmless."""
        # Not mmap.close(): it refuses while a view exists, and dropping the reference unmaps too.
        self._map = None

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_projection(name: str) -> bool:
    """Whether a tensor is one of the four matrices of a layer, which other formats keep as [n_out, n_in]."""
    return name.startswith("h.") and ".c_" in name and name.endswith(".weight")


def map_file(path: Path) -> tuple[mmap.mmap, int]:
    """A regular file of at least one byte, mapped read-only, and its time in nanoseconds."""
    require_regular_file(path, ModelFileError)
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            if about.st_size == 0:
                raise ModelFileError(f"{path.name}: is empty")
            return mmap.mmap(file.fileno(), about.st_size, access=mmap.ACCESS_READ), about.st_mtime_ns
    except ModelFileError:
        raise
    except (OSError, OverflowError, ValueError) as e:  # ValueError: it has become shorter meanwhile
        raise ModelFileError(f"{path.name}: cannot be read: {getattr(e, 'strerror', None) or e}") from e
