"""Reader of llm.c checkpoints, such as gpt2_124M.bin: version 3 in float32, version 5 in bfloat16.

The file is a header of 256 int32 (magic 20240326, version, context, vocabulary, layers, heads, width, padded
vocabulary), then the embeddings, then the tensors in the order of `_ORDER`, each for all layers at once.
Linear layers are [n_out, n_in]; the embedding ends with rows of zeros that pad the vocabulary. The format is
that of `write_model` in llm.c's train_gpt2.py. The model is GPT-2 itself, so its activation is `gelu_new`.

Other versions lack the padded vocabulary or have another order; they are refused. So are llm.c's debug states
(magic 20240327) and tokenizers (20240328).
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import numpy as np

from ..._files import require_regular_file
from ...config import ModelConfig, config_of_fields
from ...errors import ModelFileError
from .base import MappedFile, StoredTensor, is_projection, map_file

_MAGIC = 20240326
_DTYPES = {3: ("F32", 4), 5: ("BF16", 2)}  # by version
_N_HEADER = 1024
_RELATED = {20240327: "an llm.c debug state", 20240328: "an llm.c tokenizer"}

# Each kind of tensor: its name, and its shape in the file in multiples of n_embd.
_ORDER: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("h.N.ln_1.weight", (1,)),
    ("h.N.ln_1.bias", (1,)),
    ("h.N.attn.c_attn.weight", (3, 1)),
    ("h.N.attn.c_attn.bias", (3,)),
    ("h.N.attn.c_proj.weight", (1, 1)),
    ("h.N.attn.c_proj.bias", (1,)),
    ("h.N.ln_2.weight", (1,)),
    ("h.N.ln_2.bias", (1,)),
    ("h.N.mlp.c_fc.weight", (4, 1)),
    ("h.N.mlp.c_fc.bias", (4,)),
    ("h.N.mlp.c_proj.weight", (1, 4)),
    ("h.N.mlp.c_proj.bias", (1,)),
    ("ln_f.weight", (1,)),
    ("ln_f.bias", (1,)),
)


class LlmcFile(MappedFile):
    """An open llm.c checkpoint; made by `open_llmc`."""

    def __init__(
        self,
        path: Path,
        data: mmap.mmap,
        mtime_ns: int,
        config: ModelConfig,
        tensors: dict[str, StoredTensor],
        offsets: dict[str, int],
    ) -> None:
        width = 4 if "F32" in {tensor.dtype for tensor in tensors.values()} else 2
        ranges = {name: (offsets[name], width * math.prod(t.shape)) for name, t in tensors.items()}
        super().__init__(path, data, mtime_ns, tensors, _N_HEADER, ranges)
        self.config = config

    def view(self, name: str) -> memoryview:
        """See `TensorFile.view`; a matrix is copied and transposed."""
        tensor, (offset, _) = self._tensors[name], self._ranges[name]
        stored_as = np.dtype("<f4" if tensor.dtype == "F32" else "<u2")
        array = np.frombuffer(self._open(), stored_as, math.prod(tensor.shape), offset)
        if is_projection(name):
            array = np.ascontiguousarray(array.reshape(tensor.shape[::-1]).T)
        return array.reshape(-1).view(np.uint8).data


def is_llmc(path: Path) -> bool:
    """Whether a file begins with one of llm.c's magic numbers."""
    require_regular_file(path, ModelFileError)
    try:
        with open(path, "rb") as file:
            magic = int.from_bytes(file.read(4), "little")
    except OSError as e:
        raise ModelFileError(f"{path.name}: cannot be read: {e.strerror}") from e
    return magic == _MAGIC or magic in _RELATED


def open_llmc(path: Path) -> LlmcFile:
    """Map an llm.c checkpoint whose header fits its size. Raises `ModelFileError`, `ConfigError`."""
    data, mtime_ns = map_file(path)
    if len(data) < _N_HEADER:
        raise ModelFileError(f"{path.name}: is too short for an llm.c checkpoint ({len(data)} bytes)")
    magic, version, n_ctx, n_vocab, n_layer, n_head, n_embd, n_padded = np.frombuffer(data, "<i4", 8).tolist()
    if magic != _MAGIC:
        raise ModelFileError(f"{path.name}: is {_RELATED.get(magic, 'a file of another kind')}, not a model")
    if version not in _DTYPES:
        raise ModelFileError(
            f"{path.name}: llm.c checkpoint version {version} is not supported (3 and 5 are)"
        )
    sizes = {
        "n_layer": n_layer,
        "n_head": n_head,
        "n_embd": n_embd,
        "n_positions": n_ctx,
        "vocab_size": n_vocab,
    }
    config = config_of_fields(sizes, path.name)
    if not n_vocab <= n_padded <= 2 * n_vocab + 1024:
        raise ModelFileError(f"{path.name}: a vocabulary of {n_vocab} cannot be padded to {n_padded} rows")
    dtype, width = _DTYPES[version]
    tensors, offsets, end = _places(config, n_padded, dtype, width)
    if end != len(data):
        raise ModelFileError(f"{path.name}: has {len(data)} bytes; a model of its sizes has {end}")
    return LlmcFile(path, data, mtime_ns, config, tensors, offsets)


def _places(
    config: ModelConfig, n_padded: int, dtype: str, width: int
) -> tuple[dict[str, StoredTensor], dict[str, int], int]:
    """The tensors, the offset of each one, and the offset at which the last one ends."""
    tensors: dict[str, StoredTensor] = {}
    offsets: dict[str, int] = {}
    end = _N_HEADER

    def place(name: str, shape: tuple[int, ...], n_rows: int = 0) -> None:
        nonlocal end
        tensors[name] = StoredTensor(name, dtype, shape)
        offsets[name] = end
        end += width * math.prod((n_rows or shape[0], *shape[1:]))

    place("wte.weight", (config.n_vocab, config.n_embd), n_padded)
    place("wpe.weight", (config.n_ctx, config.n_embd))
    for pattern, times in _ORDER:
        shape = tuple(n * config.n_embd for n in reversed(times))  # as [n_in, n_out]
        for layer in range(config.n_layer if "N" in pattern else 1):
            place(pattern.replace("N", str(layer)), shape)
    return tensors, offsets, end
