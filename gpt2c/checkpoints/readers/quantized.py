"""Weight files whose matrices are quantized to 8 or 4 bits, read as float32 or as the stored bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ..._files import quoted
from ...config import ModelConfig
from ...errors import ModelFileError
from ...text.tokenizer import Vocabulary
from ..formats import Format
from .base import StoredTensor, TensorFile


class QuantizedFile:
    """A `TensorFile` on top of another one, whose quantized matrices appear as F32 tensors.

    matrices: name -> (shape, whether that is [n_out, n_in]). Raises `ModelFileError` if a matrix does not
    have the dtype and size that the format gives to that shape.
    """

    config: ModelConfig | None = None
    vocabulary: Vocabulary | None = None

    def __init__(
        self, file: TensorFile, format: Format, matrices: Mapping[str, tuple[tuple[int, int], bool]]
    ) -> None:
        self.path: Path = file.path
        self._file = file
        self._format = format
        self._matrices = {name: matrix for name, matrix in matrices.items() if name in file.tensors}
        tensors = dict(file.tensors)
        for name, (shape, transposed) in self._matrices.items():
            n_in, n_out = shape[::-1] if transposed else shape
            self._check(tensors[name], format.n_bytes(n_in, n_out))
            tensors[name] = StoredTensor(name, "F32", shape)
        self._tensors = MappingProxyType(tensors)

    def _check(self, found: StoredTensor, n_bytes: int) -> None:
        if found.dtype != "U8" or found.shape != (n_bytes,):
            raise ModelFileError(
                f"{self.path.name}: tensor {quoted(found.name)} is {found.dtype} of shape "
                f"{quoted(list(found.shape))}, but {self._format.name} needs U8 of shape [{n_bytes}]"
            )

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The tensors by name; a matrix is the F32 tensor that `view` returns."""
        return self._tensors

    def stored(self, name: str) -> tuple[str, memoryview] | None:
        """The format and the stored bytes of a quantized matrix; None for any other tensor."""
        return (self._format.name, self._matrix(name)[0]) if name in self._matrices else None

    def view(self, name: str) -> memoryview:
        """See `TensorFile`; a matrix is dequantized at each call."""
        if name not in self._matrices:
            return self._file.view(name)
        raw, n_in, n_out = self._matrix(name)
        w = self._format.dequantize(np.frombuffer(raw, np.uint8), n_in, n_out)
        transposed = self._matrices[name][1]
        return np.ascontiguousarray(w.T if transposed else w).reshape(-1).view(np.uint8).data

    def _matrix(self, name: str) -> tuple[memoryview, int, int]:
        """A matrix's stored bytes, n_in and n_out. `ModelFileError`: a scale is not valid."""
        raw = self._file.view(name)
        shape, transposed = self._matrices[name]
        n_in, n_out = shape[::-1] if transposed else shape
        if not self._format.is_sound(np.frombuffer(raw, np.uint8), n_in, n_out):
            wrong = "a scale is negative, too large or not a number"
            raise ModelFileError(f"{self.path.name}: tensor {quoted(name)} is damaged: {wrong}")
        return raw, n_in, n_out

    def release(self, name: str) -> None:
        """See `TensorFile`."""
        self._file.release(name)

    def fingerprint(self) -> str:
        """See `TensorFile`."""
        return self._file.fingerprint()

    def close(self) -> None:
        """See `TensorFile`."""
        self._file.close()
