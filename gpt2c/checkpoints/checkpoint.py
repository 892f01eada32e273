"""A model's weights on disk: GPT-2's tensors, found and checked in a folder's files of weights.

`load_checkpoint` is the way in. The table `_ROWS` is the one list of what a GPT-2 consists of; who
builds a model walks `Checkpoint.specs()` and takes each tensor's raw bytes from `Checkpoint.tensor`,
straight from the mapped file where it has them as they are needed (the kinds of files are read in
readers/), or a float32 copy from `Checkpoint.array`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .._files import MAX_JSON_BYTES, parse_json_object, quoted, read_bounded
from ..config import ModelConfig, config_of_fields, read_config_fields
from ..errors import ModelFileError, ModelNotFoundError
from ..text.tokenizer import Vocabulary, read_vocabulary
from .formats import Format, format_of
from .readers import QuantizedFile, StoredTensor, TensorFile, open_weights

__all__ = [
    "SUPPORTED_DTYPES",
    "TENSOR_KINDS",
    "Checkpoint",
    "TensorSpec",
    "load_checkpoint",
    "tensor_specs",
    "to_float32",
]

_LOG = logging.getLogger("gpt2c")

_STORED_AS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: its bits instead

SUPPORTED_DTYPES = tuple(_STORED_AS)
"""The dtypes that a GPT-2's tensors may have; each tensor its own."""


@dataclass(frozen=True)
class _Row:
    """A kind of tensor: its name with N for the layer's number, and its shape."""

    kind: str
    pattern: str
    shape: Callable[[ModelConfig], tuple[int, ...]]

    @property
    def in_layer(self) -> bool:
        return self.pattern.startswith("h.N.")


# The one list of what a GPT-2 consists of, in the order in which models are built. The projections
# are Conv1D layers: [n_in, n_out], y = x @ w + b.
_ROWS = (
    _Row("wte", "wte.weight", lambda c: (c.n_vocab, c.n_embd)),
    _Row("wpe", "wpe.weight", lambda c: (c.n_ctx, c.n_embd)),
    _Row("ln_1.weight", "h.N.ln_1.weight", lambda c: (c.n_embd,)),
    _Row("ln_1.bias", "h.N.ln_1.bias", lambda c: (c.n_embd,)),
    _Row("attn.c_attn.weight", "h.N.attn.c_attn.weight", lambda c: (c.n_embd, 3 * c.n_embd)),
    _Row("attn.c_attn.bias", "h.N.attn.c_attn.bias", lambda c: (3 * c.n_embd,)),
    _Row("attn.c_proj.weight", "h.N.attn.c_proj.weight", lambda c: (c.n_embd, c.n_embd)),
    _Row("attn.c_proj.bias", "h.N.attn.c_proj.bias", lambda c: (c.n_embd,)),
    _Row("ln_2.weight", "h.N.ln_2.weight", lambda c: (c.n_embd,)),
    _Row("ln_2.bias", "h.N.ln_2.bias", lambda c: (c.n_embd,)),
    _Row("mlp.c_fc.weight", "h.N.mlp.c_fc.weight", lambda c: (c.n_embd, c.n_inner)),
    _Row("mlp.c_fc.bias", "h.N.mlp.c_fc.bias", lambda c: (c.n_inner,)),
    _Row("mlp.c_proj.weight", "h.N.mlp.c_proj.weight", lambda c: (c.n_inner, c.n_embd)),
    _Row("mlp.c_proj.bias", "h.N.mlp.c_proj.bias", lambda c: (c.n_embd,)),
    _Row("ln_f.weight", "ln_f.weight", lambda c: (c.n_embd,)),
    _Row("ln_f.bias", "ln_f.bias", lambda c: (c.n_embd,)),
    _Row("lm_head", "lm_head.weight", lambda c: (c.n_vocab, c.n_embd)),  # only where it is not tied to wte
)

TENSOR_KINDS = tuple(row.kind for row in _ROWS)
"""The kinds of tensors, in order; `TensorSpec.kind_index` counts in it."""

_KIND_INDEX = {kind: index for index, kind in enumerate(TENSOR_KINDS)}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that a model must have. `layer` is -1 for one outside the layers."""

    name: str
    kind: str
    layer: int
    shape: tuple[int, ...]

    @property
    def kind_index(self) -> int:
        """The place of `kind` in `TENSOR_KINDS`."""
        return _KIND_INDEX[self.kind]

    @property
    def is_matrix(self) -> bool:
        """Whether it is multiplied with, and so what a weight format is of."""
        return len(self.shape) == 2 and self.kind != "wpe"

    @property
    def is_transposed(self) -> bool:
        """Of a matrix: [n_out, n_in], as the embeddings are, instead of [n_in, n_out]."""
        return self.kind in ("wte", "lm_head")


def tensor_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Every tensor of a GPT-2 of this shape, in order: embeddings, layer after layer, final norm, head."""

    def outside(rows: tuple[_Row, ...]) -> list[TensorSpec]:
        return [TensorSpec(row.pattern, row.kind, -1, row.shape(config)) for row in rows]

    first = [row.in_layer for row in _ROWS].index(True)
    inside = tuple(row for row in _ROWS if row.in_layer)
    layers = [
        TensorSpec(row.pattern.replace("N", str(layer)), row.kind, layer, row.shape(config))
        for layer in range(config.n_layer)
        for row in inside
    ]
    end = len(_ROWS) - config.tie_word_embeddings
    return (*outside(_ROWS[:first]), *layers, *outside(_ROWS[first + len(inside) : end]))


class Checkpoint:
    """A model's config and tensors, every one checked to be there with its shape; see `load_checkpoint`.

    `config`: the `ModelConfig`; `config_fields`: what the config.json says, {} if the weight file itself
    has the config; `quantization`: "q8" or "q4" where matrices are stored so, or None; `own_vocabulary`: the
    weight file's, or None; `folder`: where the model lies; `files`: the weight files. A context manager;
    after `close()` its tensors raise `ClosedError`, views taken before stay good.
    """

    def __init__(
        self,
        config: ModelConfig,
        config_fields: dict[str, object],
        folder: Path,
        found: Mapping[str, tuple[TensorFile, str]],
    ) -> None:
        """`found`: for each spec's name the file that holds it and the name that it has there."""
        self.config = config
        self.config_fields = config_fields
        format = format_of(config_fields)
        self.quantization = format.name if format else None
        self.folder = folder
        self.files = tuple(dict.fromkeys(file.path for file, _ in found.values()))
        self.own_vocabulary = next((f.vocabulary for f, _ in found.values() if f.vocabulary), None)
        self._specs = tensor_specs(config)
        self._found = {(spec.kind, spec.layer): found[spec.name] for spec in self._specs}

    def read_vocabulary(self) -> Vocabulary:
        """The weight file's own vocabulary, else what the files beside it hold.

        Raises `ModelNotFoundError` or `ModelFileError` that names the file.
        """
        return self.own_vocabulary or read_vocabulary(self.folder)

    def specs(self) -> Iterator[TensorSpec]:
        """Every tensor of the model, in the order of `tensor_specs`."""
        return iter(self._specs)

    def dtype(self, kind: str, layer: int = -1) -> str:
        """A tensor's dtype as `tensor` gives it: "F32", "F16" or "BF16"."""
        file, name = self._found[kind, layer]
        return file.tensors[name].dtype

    def tensor(self, kind: str, layer: int = -1) -> tuple[str, memoryview]:
        """The dtype ("F32", "F16" or "BF16") and the raw little-endian bytes, row-major.

        Not copied, but where the file has the tensor transposed or quantized.

        Raises `KeyError` for a kind and layer that the model does not have.
        """
        file, name = self._found[kind, layer]
        return file.tensors[name].dtype, file.view(name)

    def quantized(self, kind: str, layer: int = -1) -> tuple[str, memoryview] | None:
        """The format ("q8" or "q4") and bytes of a tensor that is stored so, which `tensor` dequantizes."""
        file, name = self._found[kind, layer]
        return file.stored(name) if isinstance(file, QuantizedFile) else None

    def release(self, kind: str, layer: int = -1) -> None:
        """Give the memory of a tensor's pages back: a model that is read once need not be there twice."""
        file, name = self._found[kind, layer]
        file.release(name)

    def array(self, spec: TensorSpec) -> NDArray[np.float32]:
        """A tensor as a fresh float32 array of `spec.shape`; exact for each of the three dtypes."""
        return to_float32(*self.tensor(spec.kind, spec.layer)).reshape(spec.shape)

    def fingerprints(self) -> dict[str, str]:
        """Of each weight file, by its real path; see `TensorFile.fingerprint`."""
        files = {os.path.realpath(file.path): file for file, _ in self._found.values()}
        return {path: file.fingerprint() for path, file in files.items()}

    def close(self) -> None:
        """Close the weight files."""
        for file, _ in self._found.values():
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def to_float32(dtype: str, raw: memoryview) -> NDArray[np.float32]:
    """Raw "F32", "F16" or "BF16" bytes of any alignment as a fresh one-dimensional float32 array."""
    stored_as = np.dtype(_STORED_AS[dtype])
    stored = np.empty(raw.nbytes // stored_as.itemsize, stored_as)
    stored.view(np.uint8)[:] = np.frombuffer(raw, np.uint8)  # by bytes: `raw` may lie at an odd address
    if dtype == "BF16":  # the upper half of a float32
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32, copy=False)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the model in a folder, or in a file of weights (with its `config.json` beside it if need be).

    A folder holds one of `FOLDER_FILES`: the weights, or an index and the shards that it names. Tensor
    names may start with `transformer.`; the buffers `h.N.attn.bias` and `h.N.attn.masked_bias`, which
    hold a mask and no weights, are ignored; an `lm_head.weight` must be equal to the embedding unless the
    config unties them. Tensors outside GPT-2 itself, such as the `score.weight` of a classifier, are
    ignored and logged; an unknown one inside it (an adapter, a layer more than the config has) is an
    error, because leaving it out would give a different model.

    Raises `ModelNotFoundError` when a file is missing, `ConfigError` for the config, `BackendUnavailable`
    where a format needs a package that is not installed, else `ModelFileError` that names the tensor.
    """
    path = Path(path)
    with ExitStack() as opened:
        if os.path.isdir(path):
            folder = path
            config, tensors = _open_folder(folder, opened)
        else:
            folder = path.parent
            config, tensors = _open_file(path, opened)
        fields = {} if config else read_config_fields(folder / "config.json")
        config = config or config_of_fields(fields, "config.json")
        format = format_of(fields)
        if format:
            tensors = _quantized(config, tensors, format)
        checkpoint = Checkpoint(config, fields, folder, _match(config, tensors))
        opened.pop_all()
    return checkpoint


_Tensors = dict[str, tuple[TensorFile, StoredTensor]]


def _quantized(config: ModelConfig, tensors: _Tensors, format: Format) -> _Tensors:
    """The tensors of files whose matrices are stored in that format."""
    specs = {spec.name: spec for spec in tensor_specs(config) if spec.is_matrix}
    matrices = {
        name: ((spec.shape[0], spec.shape[1]), spec.is_transposed)
        for name in tensors
        if (spec := specs.get(name.removeprefix("transformer.")))
    }
    files = {file: QuantizedFile(file, format, matrices) for file, _ in tensors.values()}
    return {name: (files[file], files[file].tensors[name]) for name, (file, _) in tensors.items()}


FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "ckpt.pt",
)
"""What a folder's weights may be called; the first that is there is read. (The last one is nanoGPT's.)"""


def _open_file(path: Path, opened: ExitStack) -> tuple[ModelConfig | None, _Tensors]:
    """What the file itself says of its model, and its tensors."""
    file = open_weights(path)
    opened.callback(file.close)
    return file.config, {name: (file, tensor) for name, tensor in file.tensors.items()}


def _open_folder(folder: Path, opened: ExitStack) -> tuple[ModelConfig | None, _Tensors]:
    for name in FOLDER_FILES:
        if os.path.exists(folder / name):
            if name.endswith(".index.json"):
                return None, _open_shards(folder / name, opened)
            return _open_file(folder / name, opened)
    others = ", ".join(FOLDER_FILES[1:])
    raise ModelNotFoundError(f"no {FOLDER_FILES[0]} in {quoted(str(folder), 300)} (nor {others})")


def _open_shards(index: Path, opened: ExitStack) -> _Tensors:
    """The tensors that the index lists; it alone decides which shard a tensor is taken from."""
    text = read_bounded(index, MAX_JSON_BYTES, ModelFileError)
    fields = parse_json_object(text, index.name, ModelFileError)
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelFileError(f"{index.name}: weight_map must be an object, not {quoted(weight_map)}")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    shards: dict[str, _Tensors] = {}
    tensors: _Tensors = {}
    for name, shard in weight_map.items():
        # A bare name stays in the folder. (It may be a link: in the hub's cache every file is one.)
        if not isinstance(shard, str) or not re.fullmatch(rf"(?!\.)[^/\\\0]*{re.escape(suffix)}", shard):
            raise ModelFileError(
                f"{index.name}: tensor {quoted(name)}: {quoted(shard)} is not a plain {suffix} file name"
            )
        if shard not in shards:
            _, shards[shard] = _open_file(index.parent / shard, opened)
        if name not in shards[shard]:
            raise ModelFileError(f"{index.name}: {quoted(shard)} has no tensor {quoted(name)}")
        tensors[name] = shards[shard][name]
    return tensors


_LAYER_NAME = re.compile(r"h\.(0|[1-9][0-9]{0,8})\.(.+)", re.DOTALL)
_MASK_BUFFERS = ("attn.bias", "attn.masked_bias")
_OWN_PARTS = ("h", "wte", "wpe", "ln_f", "lm_head")


def _match(config: ModelConfig, tensors: _Tensors) -> dict[str, tuple[TensorFile, str]]:
    """For each spec's name the file and the name there; raises for a tensor missing, wrong or unknown."""
    named: _Tensors = {}
    for stored, (file, info) in tensors.items():
        name = stored.removeprefix("transformer.")
        if name in named:
            where = f"{file.path.name}: tensor {quoted(name)}"
            raise ModelFileError(f"{where} is there with and without 'transformer.' in front")
        named[name] = file, info
    specs = {spec.name: spec for spec in tensor_specs(config)}
    ignored = [name for name, (file, _) in named.items() if name not in specs and _ignore(name, config, file)]
    if ignored:
        _LOG.info("ignored %d tensors that are not GPT-2's: %s", len(ignored), quoted(sorted(ignored), 60))
    found = {}
    for spec in specs.values():
        if spec.name not in named:
            where = next((file.path.name for file, _ in named.values()), "model.safetensors")
            raise ModelFileError(f"{where}: tensor {quoted(spec.name)} is missing")
        file, info = named[spec.name]
        _check_tensor(file, info, spec.shape)
        found[spec.name] = file, info.name
    if config.tie_word_embeddings and "lm_head.weight" in named:
        _check_tied(named["wte.weight"], named["lm_head.weight"])
    return found


def _check_tensor(file: TensorFile, info: StoredTensor, shape: tuple[int, ...]) -> None:
    where = f"{file.path.name}: tensor {quoted(info.name)}"
    if info.dtype not in SUPPORTED_DTYPES:
        raise ModelFileError(f"{where} has dtype {info.dtype} ({', '.join(SUPPORTED_DTYPES)} are supported)")
    if info.shape != shape:
        found = quoted(list(info.shape))
        raise ModelFileError(f"{where} has shape {found}, the config asks for {list(shape)}")


def _ignore(name: str, config: ModelConfig, file: TensorFile) -> bool:
    """Whether a tensor that is not GPT-2's deserves a line in the log; raises if it must not be left out."""
    where = f"{file.path.name}: tensor {quoted(name)}"
    in_layer = _LAYER_NAME.fullmatch(name)
    if in_layer and int(in_layer[1]) >= config.n_layer:
        raise ModelFileError(f"{where}: the config has only {config.n_layer} layers")
    if (in_layer and in_layer[2] in _MASK_BUFFERS) or name == "lm_head.weight":
        return False
    if name.split(".", 1)[0] in _OWN_PARTS:
        raise ModelFileError(f"{where} is not part of a GPT-2 that gpt2c runs")
    return True


def _check_tied(wte: tuple[TensorFile, StoredTensor], head: tuple[TensorFile, StoredTensor]) -> None:
    where = f"{head[0].path.name}: tensor {quoted(head[1].name)}"
    tied = (head[1].dtype, head[1].shape) == (wte[1].dtype, wte[1].shape)
    if tied:
        a, b = (np.frombuffer(file.view(info.name), np.uint8) for file, info in (wte, head))
        step = 1 << 20  # in pieces, so that no copy of the size of an embedding is made
        tied = all(np.array_equal(a[i : i + step], b[i : i + step]) for i in range(0, a.size, step))
    if not tied:
        raise ModelFileError(f"{where} differs from {quoted(wte[1].name)}, to which the config ties it")
