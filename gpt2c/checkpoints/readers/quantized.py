"""A file whose matrices are stored in 8 or 4 bits, handed out as float32 or as they are stored."""

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
    """A `TensorFile` over another one: its quantized matrices look like F32 ones.

    matrices: their names -> (shape, whether that is [n_out, n_in]). Raises `ModelFileError` where one is
    not what the format makes of that shape.
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
                f"{quoted(list(found.shape))}, {self._format.name} asks for U8 of shape [{n_bytes}]"
            )

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """By name; the matrices as what `view` makes of them."""
        return self._tensors

    def stored(self, name: str) -> tuple[str, memoryview] | None:
        """A quantized matrix's format, and its bytes as they are; None for any other tensor."""
        return (self._format.name, self._matrix(name)[0]) if name in self._matrices else None

    def view(self, name: str) -> memoryview:
        """See `TensorFile`; a matrix is dequantized each time."""
        if name not in self._matrices:
            return self._file.view(name)
        raw, n_in, n_out = self._matrix(name)
        w = self._format.dequantize(np.frombuffer(raw, np.uint8), n_in, n_out)
        transposed = self._matrices[name][1]
        return np.ascontiguousarray(w.T if transposed else w).reshape(-1).view(np.uint8).data

    def _matrix(self, name: str) -> tuple[memoryview, int, int]:
        """Its bytes, whose scales are good ones, n_in and n_out."""
        raw = self._file.view(name)
        shape, transposed = self._matrices[name]
        n_in, n_out = shape[::-1] if transposed else shape
        if not self._format.is_sound(np.frombuffer(raw, np.uint8), n_in, n_out):
            wrong = "a scale is negative, too large or no number"
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
