"""Readers of weight files, one per file format, with one small interface: `TensorFile`.

`open_weights` picks the reader by the file's name. Readers return tensors under Hugging Face's names and in
its orientation: projections are [n_in, n_out]. Which tensors a GPT-2 has is defined in checkpoint.py.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..._files import quoted, require_regular_file
from ...errors import ModelFileError
from .base import MappedFile, StoredTensor, TensorFile
from .quantized import QuantizedFile

__all__ = [
    "SUFFIXES",
    "MappedFile",
    "QuantizedFile",
    "StoredTensor",
    "TensorFile",
    "names_of_suffixes",
    "open_weights",
]

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
"""The suffixes of the files that `open_weights` reads."""


def open_weights(path: str | os.PathLike[str]) -> TensorFile:
    """Open a weight file. Its suffix decides how it is read, and for `.bin` also its first bytes.

    Raises `ModelNotFoundError`, `ModelFileError`, `ConfigError` (for a config in the file), or
    `BackendUnavailable` if the format needs a package that is not installed.
    """
    # Imported here, because a model needs at most one of them.
    path = Path(path)
    if path.suffix == ".safetensors":
        from .safetensors import open_safetensors

        return open_safetensors(path)
    if path.suffix == ".gguf":
        from .gguf import open_gguf

        return open_gguf(path)
    if path.suffix == ".bin":
        from .llmc import is_llmc, open_llmc

        if is_llmc(path):
            return open_llmc(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        from .torch_pickle import open_torch

        return open_torch(path)
    require_regular_file(path, ModelFileError)
    raise ModelFileError(f"{quoted(str(path), 300)} is neither a folder nor a {names_of_suffixes()} file")


def names_of_suffixes() -> str:
    """The suffixes as a message lists them: ".a, .b or .c"."""
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
