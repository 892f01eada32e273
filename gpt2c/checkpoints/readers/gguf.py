"""Reader of GGUF files of architecture gpt2, as llama.cpp's tools write them, vocabulary included.

The format (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) is a header of counts, metadata as
typed keys and values, a table of tensors, and the aligned data. The header is parsed here, because the reader
of the `gguf` package trusts every count and length in the file. That package (an extra) only converts
quantized tensors to float32.

llama.cpp computes gpt2 with the tanh form of GELU, so that is the activation of such a model.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..._files import quoted
from ...config import ModelConfig, config_of_fields
from ...errors import BackendUnavailable, ModelFileError
from ...text.tokenizer import Vocabulary
from .base import MappedFile, StoredTensor, is_projection, map_file

# GGUF's types of metadata -> format characters of `struct`.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# Types of tensors that need no conversion -> dtype, bytes per element.
_PLAIN = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}

_UNUSED = 5  # the type of a vocabulary's unused tokens

_MAX_ENTRIES = 1 << 20  # keys, tensors, elements of an array
_MAX_STRING_BYTES = 1 << 20

# llama.cpp's names -> Hugging Face's.
_PARTS = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_NAMES_OUTSIDE = {
    "token_embd.weight": "wte.weight",
    "position_embd.weight": "wpe.weight",
    "output_norm.weight": "ln_f.weight",
    "output_norm.bias": "ln_f.bias",
    "output.weight": "lm_head.weight",
}
_THEIR_PARTS = {ours: theirs for theirs, ours in _PARTS.items()}
_THEIR_NAMES_OUTSIDE = {ours: theirs for theirs, ours in _NAMES_OUTSIDE.items()}
_IN_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,8})\.(\w+)\.(weight|bias)")


def huggingface_name(name: str) -> str:
    """llama.cpp's name of a tensor -> Hugging Face's; a name that gpt2 does not have stays unchanged."""
    match = _IN_LAYER.fullmatch(name)
    if match and match[2] in _PARTS:
        return f"h.{match[1]}.{_PARTS[match[2]]}.{match[3]}"
    return _NAMES_OUTSIDE.get(name, name)


def gguf_name(name: str) -> str:
    """Hugging Face's name of a tensor of a GPT-2 -> llama.cpp's. `KeyError` for any other name."""
    match = re.fullmatch(r"h\.(\d+)\.(.+)\.(weight|bias)", name)
    if match:
        return f"blk.{match[1]}.{_THEIR_PARTS[match[2]]}.{match[3]}"
    return _THEIR_NAMES_OUTSIDE[name]


def padding_token(id: int) -> str:
    """The name that llama.cpp's converter gives to an id without a token."""
    return f"[PAD{id}]"


@dataclass(frozen=True)
class _Place:
    """Where a tensor's bytes are in the file, and how they are stored."""

    offset: int
    n_bytes: int
    ggml_type: int
    stored_shape: tuple[int, ...]  # row-major, slowest dimension first


class GgufFile(MappedFile):
    """An open GGUF file; made by `open_gguf`. `metadata`: key -> value, arrays as lists."""

    def __init__(self, path: Path, data: mmap.mmap, mtime_ns: int) -> None:
        reader = _Reader(data, path.name)
        self.metadata, table = reader.read_header()
        self._places = {huggingface_name(name): place for name, place in table.items()}
        if len(self._places) != len(table):
            raise ModelFileError(f"{path.name}: two tensors have names for the same part of the model")
        tensors = {name: _as_viewed(name, place) for name, place in self._places.items()}
        ranges = {name: (place.offset, place.n_bytes) for name, place in self._places.items()}
        super().__init__(path, data, mtime_ns, tensors, reader.at, ranges)
        self.config = self._read_config()
        self.vocabulary = self._read_vocabulary()

    def view(self, name: str) -> memoryview:
        """See `TensorFile.view`; a matrix is transposed, and a quantized tensor is converted to float32."""
        place = self._places[name]
        raw = np.frombuffer(self._open(), np.uint8, place.n_bytes, place.offset)
        if place.ggml_type in _PLAIN:
            array = raw.view("<f4" if place.ggml_type == 0 else "<u2")
        else:
            array = _dequantized(raw, place, self.path.name).reshape(-1)
        if is_projection(name):
            array = np.ascontiguousarray(array.reshape(place.stored_shape).T)
        return array.reshape(-1).view(np.uint8).data

    def _read_config(self) -> ModelConfig:
        name = self.path.name
        architecture = self.metadata.get("general.architecture")
        if architecture != "gpt2":
            raise ModelFileError(
                f"{name}: general.architecture {quoted(architecture)} is not supported (gpt2 is)"
            )
        if self.metadata.get("split.count", 1) not in (0, 1):
            raise ModelFileError(
                f"{name}: is one part of a split model; merge the parts with llama-gguf-split"
            )
        embedding = self.tensors.get("wte.weight")
        if embedding is None:
            raise ModelFileError(f"{name}: tensor 'token_embd.weight' is missing")
        fields = {
            "n_layer": self.metadata.get("gpt2.block_count"),
            "n_head": self.metadata.get("gpt2.attention.head_count"),
            "n_embd": self.metadata.get("gpt2.embedding_length"),
            "n_positions": self.metadata.get("gpt2.context_length"),
            "n_inner": self.metadata.get("gpt2.feed_forward_length"),
            "vocab_size": embedding.shape[0],
            "layer_norm_epsilon": self.metadata.get("gpt2.attention.layer_norm_epsilon", 1e-5),
            "eos_token_id": self.metadata.get("tokenizer.ggml.eos_token_id"),
            "tie_word_embeddings": self._is_tied(),
        }
        return config_of_fields(fields, name)

    def _is_tied(self) -> bool:
        """Whether the file has no head, or one equal to the embedding: older converters always wrote one."""
        head, wte = self._places.get("lm_head.weight"), self._places["wte.weight"]
        if head is None:
            return True
        if (head.ggml_type, head.stored_shape) != (wte.ggml_type, wte.stored_shape):
            return False
        a, b = (np.frombuffer(self._open(), np.uint8, p.n_bytes, p.offset) for p in (head, wte))
        step = 1 << 20
        return all(np.array_equal(a[i : i + step], b[i : i + step]) for i in range(0, a.size, step))

    def _read_vocabulary(self) -> Vocabulary | None:
        tokens, merges = (self.metadata.get(f"tokenizer.ggml.{part}") for part in ("tokens", "merges"))
        if self.metadata.get("tokenizer.ggml.model") != "gpt2" or tokens is None or merges is None:
            return None
        name = self.path.name
        lists = isinstance(tokens, list) and isinstance(merges, list)
        if not lists or not all(isinstance(text, str) for text in (*tokens, *merges)):
            raise ModelFileError(f"{name}: tokenizer.ggml.tokens and merges must be lists of strings")
        types = self.metadata.get("tokenizer.ggml.token_type")
        types = types if isinstance(types, list) else []
        ids: dict[str, Any] = {}
        for id, token in enumerate(tokens):
            if token == padding_token(id) and types[id : id + 1] == [_UNUSED]:
                continue
            if ids.setdefault(token, id) != id:
                raise ModelFileError(f"{name}: token {quoted(token)} appears twice")
        place = f"{name}: merge"
        pairs = []
        for number, merge in enumerate(merges, 1):
            left, _, right = merge.partition(" ")
            if not left or not right:
                raise ModelFileError(f"{place} {number}: {quoted(merge)} is not two tokens")
            pairs.append((number, left, right))
        return Vocabulary(ids, pairs, self.path, place)


def open_gguf(path: Path) -> GgufFile:
    """Map a GGUF file after checking its header against its size.

    Raises `ModelFileError`, `ConfigError`, `BackendUnavailable` (a quantized file without the package).
    """
    data, mtime_ns = map_file(path)
    file = GgufFile(path, data, mtime_ns)
    if any(place.ggml_type not in _PLAIN for place in file._places.values()):
        _gguf_package(path.name)
    return file


def _as_viewed(name: str, place: _Place) -> StoredTensor:
    """A tensor with the dtype and shape of what `view` returns."""
    shape = place.stored_shape[::-1] if is_projection(name) else place.stored_shape
    dtype, _ = _PLAIN.get(place.ggml_type, ("F32", 4))
    return StoredTensor(name, dtype, shape)


def _gguf_package(name: str) -> Any:
    try:
        import gguf
    except ImportError:
        raise BackendUnavailable(
            f"{name}: its quantized tensors need the package gguf: pip install 'gpt2c[gguf]'"
        ) from None
    return gguf


def _dequantized(raw: np.ndarray, place: _Place, name: str) -> np.ndarray:
    gguf = _gguf_package(name)
    kind = gguf.GGMLQuantizationType(place.ggml_type)
    try:
        return np.asarray(gguf.quants.dequantize(raw, kind), np.float32)
    except NotImplementedError:
        raise ModelFileError(f"{name}: tensors of type {kind.name} are not supported") from None


def _size_of(ggml_type: int, n: int, where: str) -> int:
    """Bytes of n elements in one of ggml's types."""
    if ggml_type in _PLAIN:
        return n * _PLAIN[ggml_type][1]
    gguf = _gguf_package(where)
    try:
        block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(ggml_type)]
    except (ValueError, KeyError):
        raise ModelFileError(f"{where}: unknown type {ggml_type}") from None
    if n % block:
        raise ModelFileError(f"{where}: {n} elements are not a multiple of the block size {block}")
    return int(n // block * n_bytes)


class _Reader:
    """Parses a header. Checks every count, length and offset against the file's size before using it."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data = data
        self._name = name
        self.at = 0

    def read_header(self) -> tuple[dict[str, Any], dict[str, _Place]]:
        """The metadata, and where each tensor is."""
        if self._take(4) != b"GGUF":
            raise ModelFileError(f"{self._name}: is not a GGUF file")
        version = self._scalar("I")
        if version not in (2, 3):
            raise ModelFileError(f"{self._name}: GGUF version {version} is not supported (2 and 3 are)")
        n_tensors, n_keys = self._count("tensors"), self._count("keys")
        metadata: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._string()
            if key in metadata:
                raise ModelFileError(f"{self._name}: the key {quoted(key)} appears twice")
            metadata[key] = self._value(self._scalar("I"), key)
        infos = [self._tensor_info() for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ModelFileError(f"{self._name}: general.alignment {quoted(alignment)} is not a power of two")
        start = -(-self.at // alignment) * alignment
        return metadata, self._places(infos, start)

    def _places(self, infos: list[tuple[str, tuple[int, ...], int, int]], start: int) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        end = start
        for name, shape, kind, offset in sorted(infos, key=lambda info: info[3]):
            where = f"{self._name}: tensor {quoted(name)}"
            if name in places:
                raise ModelFileError(f"{where} appears twice")
            place = _Place(start + offset, _size_of(kind, math.prod(shape), where), kind, shape)
            if place.offset < end:
                raise ModelFileError(f"{where}: overlaps the tensor before it")
            end = place.offset + place.n_bytes
            if end > len(self._data):
                raise ModelFileError(f"{where}: ends at byte {end}, the file at {len(self._data)}")
            places[name] = place
        return places

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        n_dimensions = self._scalar("I")
        if not 1 <= n_dimensions <= 4:
            raise ModelFileError(
                f"{self._name}: tensor {quoted(name)} has {n_dimensions} dimensions (1 to 4)"
            )
        shape = tuple(self._scalar("Q") for _ in range(n_dimensions))
        return name, shape[::-1], self._scalar("I"), self._scalar("Q")

    def _take(self, n: int) -> bytes:
        if n > len(self._data) - self.at:
            raise ModelFileError(f"{self._name}: is truncated, or its header is damaged (byte {self.at})")
        self.at += n
        return self._data[self.at - n : self.at]

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _count(self, what: str) -> int:
        n = self._scalar("Q")
        if n > _MAX_ENTRIES:
            raise ModelFileError(f"{self._name}: claims {n} {what} (at most {_MAX_ENTRIES})")
        return int(n)

    def _string(self) -> str:
        n = self._scalar("Q")
        if n > _MAX_STRING_BYTES:
            raise ModelFileError(
                f"{self._name}: string of {n} bytes at byte {self.at} (at most {_MAX_STRING_BYTES})"
            )
        try:
            return self._take(n).decode()
        except UnicodeDecodeError:
            raise ModelFileError(f"{self._name}: text at byte {self.at - n} is not UTF-8") from None

    def _value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ModelFileError(f"{self._name}: {quoted(key)} has the unknown type {kind}")
        kind, n = self._scalar("I"), self._scalar("Q")
        if kind in _SCALARS:
            code = _SCALARS[kind]
            if n > _MAX_ENTRIES:
                raise ModelFileError(f"{self._name}: {quoted(key)} claims {n} entries")
            return list(struct.unpack(f"<{n}{code}", self._take(n * struct.calcsize("<" + code))))
        if kind != _STRING:
            raise ModelFileError(f"{self._name}: {quoted(key)} is a list of the unknown type {kind}")
        if n > (len(self._data) - self.at) // 8:  # a string takes at least the 8 bytes of its length
            raise ModelFileError(f"{self._name}: {quoted(key)} claims {n} entries")
        return [self._string() for _ in range(n)]
