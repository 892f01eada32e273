"""Writer of GGUF files of architecture gpt2, for llama.cpp and programs built on it. Uses the package `gguf`.

Matrices are written in the requested dtype; vectors and the position embedding are float32, as in llama.cpp's
own files. llama.cpp computes the tanh form of GELU and the plain scale of attention; a model that needs
another is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BackendUnavailable, ConfigError, ModelFileError, ModelNotFoundError
from ...text.tokenizer import Tokenizer, Vocabulary
from ..checkpoint import Checkpoint, TensorSpec
from ..readers.base import is_projection
from ..readers.gguf import gguf_name, padding_token
from .atomic import new_file
from .dtypes import DTYPES, NAME_OF_STORED, encode


def write_gguf(
    checkpoint: Checkpoint,
    path: Path,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a model as a new GGUF file.

    dtype: of the matrices, a key of `DTYPES`; None: the one that each matrix has in the source. The file is
    written whole or not at all. `ConfigError`: llama.cpp would compute another model; `ModelFileError`: the
    file exists or cannot be written, or a weight is too large for f16; `BackendUnavailable`: the package
    `gguf` is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise BackendUnavailable("to write GGUF install the extra: pip install 'gpt2c[gguf]'") from None
    _check(checkpoint)
    specs = tuple(checkpoint.specs())
    kinds = {spec: _dtype_of(checkpoint, spec, dtype) for spec in specs}
    with new_file(path) as partial:
        writer = gguf.GGUFWriter(partial, "gpt2")
        try:
            _add_metadata(writer, gguf, checkpoint, path.stem, set(kinds.values()))
            for spec in specs:
                stored, width, _ = DTYPES[kinds[spec]]
                shape = _stored_shape(spec)
                raw = gguf.GGMLQuantizationType[stored]
                n_bytes = width * int(np.prod(shape))
                writer.add_tensor_info(gguf_name(spec.name), shape, np.dtype(np.float32), n_bytes, raw)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            _write_tensors(writer, checkpoint, kinds, progress)
        finally:
            writer.close()


def _write_tensors(
    writer: Any,
    checkpoint: Checkpoint,
    kinds: dict[TensorSpec, str],
    progress: Callable[[int, int], None] | None,
) -> None:
    n_done, n_all = 0, sum(DTYPES[kind][1] * int(np.prod(spec.shape)) for spec, kind in kinds.items())
    for spec, kind in kinds.items():
        array = checkpoint.array(spec)
        try:
            data = encode(array.T if is_projection(spec.name) else array, kind)
        except ModelFileError as e:
            raise ModelFileError(f"tensor '{spec.name}': {e}") from None
        writer.write_tensor_data(data)
        checkpoint.release(spec.kind, spec.layer)
        n_done += data.nbytes
        if progress:
            progress(n_done, n_all)


def _check(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    conditions = [
        ("activation_function", config.activation_function, "gelu_new"),
        ("scale_attn_weights", config.scale_attn_weights, True),
        ("scale_attn_by_inverse_layer_idx", config.scale_attn_by_inverse_layer_idx, False),
    ]
    for key, value, supported in conditions:
        if value != supported:
            raise ConfigError(f"GGUF has no gpt2 with {key} {value!r}: llama.cpp would compute {supported!r}")


def _stored_shape(spec: TensorSpec) -> tuple[int, ...]:
    return spec.shape[::-1] if is_projection(spec.name) else spec.shape


def _dtype_of(checkpoint: Checkpoint, spec: TensorSpec, dtype: str | None) -> str:
    if not spec.is_matrix:
        return "f32"
    return dtype or NAME_OF_STORED[checkpoint.dtype(spec.kind, spec.layer)]


def _add_metadata(writer: Any, gguf: Any, checkpoint: Checkpoint, name: str, dtypes: set[str]) -> None:
    config = checkpoint.config
    writer.add_name(name)
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    halves = dtypes - {"f32"}
    types = gguf.LlamaFileType
    file_types = {"f16": types.MOSTLY_F16, "bf16": types.MOSTLY_BF16}
    writer.add_file_type(file_types[min(halves)] if halves else types.ALL_F32)
    try:
        vocabulary = checkpoint.read_vocabulary()
    except ModelNotFoundError:  # the file then takes token ids only, as the model does
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(config.n_vocab)
        return
    Tokenizer(vocabulary, config)  # raises if the vocabulary is invalid
    _add_vocabulary(writer, gguf, vocabulary, config.n_vocab)
    if config.eos_token_id is not None:
        writer.add_bos_token_id(config.eos_token_id)
        writer.add_eos_token_id(config.eos_token_id)


def _add_vocabulary(writer: Any, gguf: Any, vocabulary: Vocabulary, n_vocab: int) -> None:
    tokens = [padding_token(id) for id in range(n_vocab)]
    types = [gguf.TokenType.UNUSED] * n_vocab
    merged = {left + right for _, left, right in vocabulary.merges}
    for token, id in vocabulary.ids.items():
        tokens[id] = token
        ordinary = token in merged or len(token) == 1
        types[id] = gguf.TokenType.NORMAL if ordinary else gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for _, left, right in vocabulary.merges])
