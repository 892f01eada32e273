"""A model's weights on disk: the tensors of a GPT-2, found in weight files and checked.

`load_checkpoint` opens a model. The table `_TENSORS` is the only list of the tensors of a GPT-2. To build a
model, iterate over `Checkpoint.specs()`, and get the raw bytes of each tensor from `Checkpoint.tensor`, which
copies them only if it has to, or a float32 array from `Checkpoint.array`. The file formats are read in
readers/.
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

_STORED_AS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: uint16 holds its bits

SUPPORTED_DTYPES = tuple(_STORED_AS)
"""The dtypes that a GPT-2's tensors may have. Tensors of one model may have different ones."""


@dataclass(frozen=True)
class _TensorKind:
    """A kind of tensor: its name, with N in place of the layer's number, and its shape."""

    kind: str
    pattern: str
    shape: Callable[[ModelConfig], tuple[int, ...]]

    @property
    def in_layer(self) -> bool:
        return self.pattern.startswith("h.N.")


# The only list of the tensors of a GPT-2, in the order in which models are built. The projections are
# Conv1D layers: [n_in, n_out], y = x @ w + b.
_TENSORS = (
    _TensorKind("wte", "wte.weight", lambda c: (c.n_vocab, c.n_embd)),
    _TensorKind("wpe", "wpe.weight", lambda c: (c.n_ctx, c.n_embd)),
    _TensorKind("ln_1.weight", "h.N.ln_1.weight", lambda c: (c.n_embd,)),
    _TensorKind("ln_1.bias", "h.N.ln_1.bias", lambda c: (c.n_embd,)),
    _TensorKind("attn.c_attn.weight", "h.N.attn.c_attn.weight", lambda c: (c.n_embd, 3 * c.n_embd)),
    _TensorKind("attn.c_attn.bias", "h.N.attn.c_attn.bias", lambda c: (3 * c.n_embd,)),
    _TensorKind("attn.c_proj.weight", "h.N.attn.c_proj.weight", lambda c: (c.n_embd, c.n_embd)),
    _TensorKind("attn.c_proj.bias", "h.N.attn.c_proj.bias", lambda c: (c.n_embd,)),
    _TensorKind("ln_2.weight", "h.N.ln_2.weight", lambda c: (c.n_embd,)),
    _TensorKind("ln_2.bias", "h.N.ln_2.bias", lambda c: (c.n_embd,)),
    _TensorKind("mlp.c_fc.weight", "h.N.mlp.c_fc.weight", lambda c: (c.n_embd, c.n_inner)),
    _TensorKind("mlp.c_fc.bias", "h.N.mlp.c_fc.bias", lambda c: (c.n_inner,)),
    _TensorKind("mlp.c_proj.weight", "h.N.mlp.c_proj.weight", lambda c: (c.n_inner, c.n_embd)),
    _TensorKind("mlp.c_proj.bias", "h.N.mlp.c_proj.bias", lambda c: (c.n_embd,)),
    _TensorKind("ln_f.weight", "ln_f.weight", lambda c: (c.n_embd,)),
    _TensorKind("ln_f.bias", "ln_f.bias", lambda c: (c.n_embd,)),
    # Only if it is not tied to wte:
    _TensorKind("lm_head", "lm_head.weight", lambda c: (c.n_vocab, c.n_embd)),
)

TENSOR_KINDS = tuple(tensor.kind for tensor in _TENSORS)
"""The kinds of tensors, in order; `TensorSpec.kind_index` is an index into it."""

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
        """The index of `kind` in `TENSOR_KINDS`."""
        return _KIND_INDEX[self.kind]

    @property
    def is_matrix(self) -> bool:
        """Whether activations are multiplied by it. Weight formats apply to these tensors only."""
        return len(self.shape) == 2 and self.kind != "wpe"

    @property
    def is_transposed(self) -> bool:
        """Whether a matrix is [n_out, n_in], as the embedding and the head are, instead of [n_in, n_out]."""
        return self.kind in ("wte", "lm_head")


def tensor_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Every tensor of a GPT-2 of this shape, in order: embeddings, layer after layer, final norm, head."""

    def outside(tensors: tuple[_TensorKind, ...]) -> list[TensorSpec]:
        return [TensorSpec(tensor.pattern, tensor.kind, -1, tensor.shape(config)) for tensor in tensors]

    first = [tensor.in_layer for tensor in _TENSORS].index(True)
    inside = tuple(tensor for tensor in _TENSORS if tensor.in_layer)
    layers = [
        TensorSpec(tensor.pattern.replace("N", str(layer)), tensor.kind, layer, tensor.shape(config))
        for layer in range(config.n_layer)
        for tensor in inside
    ]
    end = len(_TENSORS) - config.tie_word_embeddings
    return (*outside(_TENSORS[:first]), *layers, *outside(_TENSORS[first + len(inside) : end]))


class Checkpoint:
    """A model's config and tensors, complete and with the right shapes; made by `load_checkpoint`.

    `config`: the `ModelConfig`; `config_fields`: the fields of config.json, {} if the weight file itself
    has the config; `quantization`: "q8" or "q4" if the matrices are stored in that format, else None;
    `own_vocabulary`: the vocabulary in the weight file, or None; `folder`: the model's folder; `files`: the
    weight files. A context manager. After `close()` reading a tensor raises `ClosedError`; views taken
    before stay valid.
    """

    def __init__(
        self,
        config: ModelConfig,
        config_fields: dict[str, object],
        folder: Path,
        found: Mapping[str, tuple[TensorFile, str]],
    ) -> None:
        """`found`: spec's name -> (the file that holds the tensor, the tensor's name in that file)."""
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
        """The vocabulary in the weight file, else the one in the vocabulary files of its folder.

        Raises `ModelNotFoundError` or `ModelFileError`, which name the file.
        """
        return self.own_vocabulary or read_vocabulary(self.folder)

    def specs(self) -> Iterator[TensorSpec]:
        """Every tensor of the model, in the order of `tensor_specs`."""
        return iter(self._specs)

    def dtype(self, kind: str, layer: int = -1) -> str:
        """The dtype of what `tensor` returns: "F32", "F16" or "BF16"."""
        file, name = self._found[kind, layer]
        return file.tensors[name].dtype

    def tensor(self, kind: str, layer: int = -1) -> tuple[str, memoryview]:
        """The dtype ("F32", "F16" or "BF16") and the raw little-endian bytes, row-major.

        The bytes are copied only if the file stores the tensor transposed or quantized. Raises `KeyError` for
        a kind and layer that the model does not have.
        """
        file, name = self._found[kind, layer]
        return file.tensors[name].dtype, file.view(name)

    def quantized(self, kind: str, layer: int = -1) -> tuple[str, memoryview] | None:
        """The format ("q8" or "q4") and the stored bytes of a quantized tensor; None for any other tensor."""
        file, name = self._found[kind, layer]
        return file.stored(name) if isinstance(file, QuantizedFile) else None

    def release(self, kind: str, layer: int = -1) -> None:
        """Drop a tensor's pages from memory, so that a model is not in memory twice while it is loaded."""
        file, name = self._found[kind, layer]
        file.release(name)

    def array(self, spec: TensorSpec) -> NDArray[np.float32]:
        """A tensor as a new float32 array of `spec.shape`; exact for each of the three dtypes."""
        return to_float32(*self.tensor(spec.kind, spec.layer)).reshape(spec.shape)

    def fingerprints(self) -> dict[str, str]:
        """Real path of each weight file -> its fingerprint; see `TensorFile.fingerprint`."""
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
    """Raw "F32", "F16" or "BF16" bytes of any alignment as a new float32 array [n]."""
    stored_as = np.dtype(_STORED_AS[dtype])
    stored = np.empty(raw.nbytes // stored_as.itemsize, stored_as)
    stored.view(np.uint8)[:] = np.frombuffer(raw, np.uint8)  # as bytes: `raw` may be at an odd address
    if dtype == "BF16":  # the upper half of a float32
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return stored.astype(np.float32, copy=False)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the model in a folder or in a weight file.

    A folder holds one of `FOLDER_FILES`: the weights, or an index and the shards that it names. A weight file
    that does not contain its config needs a `config.json` in the same folder.

    Tensor names may start with `transformer.`. The buffers `h.N.attn.bias` and `h.N.attn.masked_bias` hold a
    mask and no weights; they are ignored. An `lm_head.weight` must equal the embedding unless the config
    unties them. Tensors outside GPT-2 itself, such as the `score.weight` of a classifier, are ignored and
    logged. An unknown tensor inside GPT-2 (an adapter, a layer beyond the config's n_layer) is an error,
    because ignoring it would give a different model.

    Raises `ModelNotFoundError` if a file is missing, `ConfigError` for the config, `BackendUnavailable` if a
    format needs a package that is not installed, else `ModelFileError`, which names the tensor.
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
    """The same tensors, with matrices that are dequantized from `format` when they are read."""
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
"""File names of a folder's weights; the first one that exists is read. (The last one is nanoGPT's.)"""


def _open_file(path: Path, opened: ExitStack) -> tuple[ModelConfig | None, _Tensors]:
    """The config that the file contains, or None, and its tensors."""
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
    """The tensors that the index lists, each from the shard that the index gives."""
    text = read_bounded(index, MAX_JSON_BYTES, ModelFileError)
    fields = parse_json_object(text, index.name, ModelFileError)
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict):
        raise ModelFileError(f"{index.name}: weight_map must be an object, not {quoted(weight_map)}")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    shards: dict[str, _Tensors] = {}
    tensors: _Tensors = {}
    for name, shard in weight_map.items():
        # A plain name cannot point outside the folder. (Links are allowed: the hub's cache consists of them.)
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
    """Spec's name -> (file, name in it). Raises `ModelFileError` for a missing, wrong or unknown tensor."""
    named: _Tensors = {}
    for stored, (file, info) in tensors.items():
        name = stored.removeprefix("transformer.")
        if name in named:
            where = f"{file.path.name}: tensor {quoted(name)}"
            raise ModelFileError(f"{where} appears with and without the prefix 'transformer.'")
        named[name] = file, info
    specs = {spec.name: spec for spec in tensor_specs(config)}
    ignored = [name for name, (file, _) in named.items() if name not in specs and _ignore(name, config, file)]
    if ignored:
        _LOG.info(
            "ignored %d tensors that are not part of GPT-2: %s", len(ignored), quoted(sorted(ignored), 60)
        )
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
        raise ModelFileError(f"{where} has shape {found}, but the config needs {list(shape)}")


def _ignore(name: str, config: ModelConfig, file: TensorFile) -> bool:
    """Whether to log that a tensor is ignored. `ModelFileError`: ignoring it would give another model."""
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
        step = 1 << 20  # in pieces, because a copy of the whole embedding would be large
        tied = all(np.array_equal(a[i : i + step], b[i : i + step]) for i in range(0, a.size, step))
    if not tied:
        raise ModelFileError(f"{where} differs from {quoted(wte[1].name)}, to which the config ties it")
