"""Writer of folders in Hugging Face layout: config.json, model.safetensors, and the vocabulary's files."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ..._files import require_regular_file
from ...config import ModelConfig
from ...errors import ModelFileError, ModelNotFoundError
from ...text.tokenizer import VOCABULARY_FILES, Vocabulary
from ..checkpoint import Checkpoint, TensorSpec
from ..readers.safetensors import DTYPE_BITS
from .atomic import new_folder
from .dtypes import DTYPES, NAME_OF_STORED, encode

_OTHER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def write_folder(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a model as a new folder that `transformers` loads with the same weights.

    dtype: a key of `DTYPES`; None: each tensor has its dtype in the source. The folder is written whole or
    not at all. `ModelFileError`: the folder exists or cannot be written, or a weight is too large for f16.
    """
    specs = tuple(checkpoint.specs())
    dtypes = [dtype or NAME_OF_STORED[checkpoint.dtype(spec.kind, spec.layer)] for spec in specs]
    with new_folder(folder) as partial:
        write_json(partial / "config.json", config_fields(checkpoint, dtypes))
        copy_vocabulary(checkpoint, partial)
        with open(partial / "model.safetensors", "wb") as file:
            # The names that transformers writes, and expects when there is an untied lm_head.
            names = [spec.name if spec.kind == "lm_head" else f"transformer.{spec.name}" for spec in specs]
            stored = (DTYPES[dtype][0] for dtype in dtypes)
            entries = zip(names, (spec.shape for spec in specs), stored, strict=True)
            write_safetensors(file, entries, _encoded(checkpoint, specs, dtypes), progress)


def _encoded(
    checkpoint: Checkpoint, specs: tuple[TensorSpec, ...], dtypes: list[str]
) -> Iterator[memoryview]:
    for spec, dtype in zip(specs, dtypes, strict=True):
        try:
            yield encode(checkpoint.array(spec), dtype).data
        except ModelFileError as e:
            raise ModelFileError(f"tensor '{spec.name}': {e}") from None
        checkpoint.release(spec.kind, spec.layer)


def write_safetensors(
    file: IO[bytes],
    entries: Iterable[tuple[str, tuple[int, ...], str]],
    pieces: Iterable[memoryview],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a safetensors file.

    entries: (name, shape, dtype as in safetensors) of each tensor, in the order of their data. pieces: the
    data, in pieces of any length. progress: called after each piece.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, dtype in entries:
        start, end = end, end + math.prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the data to 8 bytes
    n_done = file.write(len(text).to_bytes(8, "little") + text)
    n_all = n_done + end
    for piece in pieces:
        n_done += file.write(piece)
        if progress:
            progress(n_done, n_all)


def config_fields(checkpoint: Checkpoint, dtypes: Iterable[str]) -> dict[str, Any]:
    """The fields of config.json: those of the source's `ModelConfig`, overridden by its own config.json.

    dtypes: those of the written tensors, keys of `DTYPES`.
    """
    names = sorted(set(dtypes))
    fields = {**_fields_of(checkpoint.config), **checkpoint.config_fields}
    fields["architectures"] = ["GPT2LMHeadModel"]  # the only part of the source that is written
    fields["torch_dtype"] = DTYPES[names[0]][2] if len(names) == 1 else "float32"
    fields.pop("quantization", None)  # the weights are dequantized
    fields.pop("dtype", None)  # the name of torch_dtype since transformers 5
    return fields


def _fields_of(config: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": None if config.n_inner == 4 * config.n_embd else config.n_inner,
        "n_positions": config.n_ctx,
        "n_ctx": config.n_ctx,
        "vocab_size": config.n_vocab,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "activation_function": config.activation_function,
        "tie_word_embeddings": config.tie_word_embeddings,
        "scale_attn_weights": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "bos_token_id": config.eos_token_id,
        "eos_token_id": config.eos_token_id,
    }


def copy_vocabulary(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the files of a model's vocabulary, if it has one, into another folder."""
    own = checkpoint.own_vocabulary
    if own:
        write_vocabulary(own, folder)
    for name in _OTHER_FILES if own else (*VOCABULARY_FILES, *_OTHER_FILES):
        try:
            require_regular_file(checkpoint.folder / name, ModelFileError)
        except ModelNotFoundError:
            continue
        shutil.copyfile(checkpoint.folder / name, folder / name)


def write_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Write vocab.json and merges.txt into an existing folder."""
    write_json(folder / "vocab.json", vocabulary.ids)
    lines = ["#version: 0.2", *(f"{left} {right}" for _, left, right in vocabulary.merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, indented for people to read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
