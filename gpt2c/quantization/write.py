"""Writer of folders in Hugging Face layout whose matrices are quantized; gpt2c loads them like any other.

config.json names the format: `"quantization": {"format": "q4", "version": 1}`. A matrix is a tensor of dtype
U8, [bytes], laid out as in memory (gpt2c/checkpoints/formats.py); all other tensors are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np

from .. import bindings, options
from .._files import quoted
from .._machine import usable_cores
from ..backends.native import native_config
from ..checkpoints.checkpoint import Checkpoint, TensorSpec
from ..checkpoints.formats import FORMATS, VERSION, Bytes
from ..checkpoints.writers.atomic import new_folder
from ..checkpoints.writers.huggingface import config_fields, copy_vocabulary, write_json, write_safetensors
from ..errors import ModelFileError, OptionError
from .calibration import calibrated, calibrated_order


def write_quantized(
    checkpoint: Checkpoint,
    folder: Path,
    format: str,
    progress: Callable[[int, int], None] | None = None,
    calibrate: Sequence[int] = (),
    requantize: Callable[[TensorSpec, Bytes], Bytes] | None = None,
) -> None:
    """Quantize a model, tensor by tensor, into a new folder. format: "q8" or "q4".

    calibrate: token ids of a text for error feedback (calibration.py); empty for plain rounding. requantize:
    called for each tensor with its stored bytes, returns the bytes to store instead; for experiments.
    progress: called with the bytes written so far and the total.

    The folder is written whole or not at all. `OptionError`: no such format; `ModelFileError`: the model is
    quantized already, a weight is not finite, or the folder exists or cannot be written.
    """
    if format not in FORMATS:
        raise OptionError(f"unknown format {quoted(format)} (choose from {', '.join(FORMATS)})")
    if checkpoint.quantization:
        raise ModelFileError(
            f"the model is in {checkpoint.quantization} already: quantize the model that it was made from"
        )
    store = _rounder(checkpoint, format)
    specs = tuple(checkpoint.specs())
    pieces: Iterator[Bytes]
    if calibrate:  # vectors first, then the matrices in the order of their calibration
        vectors = tuple(spec for spec in specs if not spec.is_matrix)
        matrices = calibrated_order(specs)
        specs = (*vectors, *matrices)
        rounded = calibrated(checkpoint, format, calibrate, store)
        pieces = chain(_in_order(store, vectors), (stored for _, stored in rounded))
    else:
        pieces = _in_order(store, specs)
    if requantize:
        pieces = map(requantize, specs, pieces)
    with new_folder(folder) as partial:
        fields = config_fields(checkpoint, ["f32"])
        fields["quantization"] = {"format": format, "version": VERSION}
        write_json(partial / "config.json", fields)
        copy_vocabulary(checkpoint, partial)
        with open(partial / "model.safetensors", "wb") as file:
            entries = [_entry(spec, format) for spec in specs]
            write_safetensors(file, entries, (piece.data for piece in pieces), progress)


def _entry(spec: TensorSpec, format: str) -> tuple[str, tuple[int, ...], str]:
    if not spec.is_matrix:
        return spec.name, spec.shape, "F32"
    n_in, n_out = spec.shape[::-1] if spec.is_transposed else spec.shape
    return spec.name, (FORMATS[format].n_bytes(n_in, n_out),), "U8"


def _rounder(checkpoint: Checkpoint, format: str) -> Callable[[TensorSpec], Bytes]:
    """A function that gives a tensor's bytes as the C core stores them in that format. It is thread-safe."""
    binding = bindings.select()
    isas = [(name, supported) for name, _, supported in binding.isas()]
    plan = options.resolve(weights=format, isas=isas)
    native = binding.Model(native_config(checkpoint.config, plan, [name for name, _ in isas]))

    f32 = bindings.enum("dtype")["f32"]

    def store(spec: TensorSpec) -> Bytes:
        at = spec.kind_index, max(spec.layer, 0)
        values = checkpoint.array(spec)
        checkpoint.release(spec.kind, spec.layer)
        if spec.is_matrix and not np.isfinite(values).all():
            raise ModelFileError(f"tensor {spec.name!r} has an element that is not finite")
        native.set(*at, f32, values.reshape(-1).view(np.uint8))
        out = np.empty(native.tensor_bytes(*at), np.uint8)
        native.get(*at, out)
        return out

    return store


def _in_order(store: Callable[[TensorSpec], Bytes], specs: Sequence[TensorSpec]) -> Iterator[Bytes]:
    n_threads = usable_cores()
    with ThreadPoolExecutor(n_threads) as pool:
        # A few at a time, so that few tensors are in memory at once.
        for first in range(0, len(specs), 2 * n_threads):
            yield from pool.map(store, specs[first : first + 2 * n_threads])
