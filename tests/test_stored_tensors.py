"""Tensors read from a model as it stores them, and written back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2c
from gpt2c import bindings, options
from gpt2c.backends.native import _build, native_config
from gpt2c.checkpoints import formats as quantized
from gpt2c.checkpoints.checkpoint import Checkpoint, TensorSpec, load_checkpoint

Folders = Callable[[str], Path]
STORED = 3
WTE, LN_F_BIAS, LM_HEAD = 0, 15, 16


def make(checkpoint: Checkpoint, weights: str, binding: str, whole: bool = True) -> Any:
    chosen = bindings.load(binding)
    isas = [(name, ok) for name, _, ok in chosen.isas()]
    plan = options.resolve(weights=weights, isas=isas)
    config = native_config(checkpoint.config, plan, [name for name, _ in isas])
    return _build(chosen, config, checkpoint, plan) if whole else chosen.Model(config)


def get(native: Any, spec: TensorSpec) -> np.ndarray:
    layer = max(spec.layer, 0)
    out = np.empty(native.tensor_bytes(spec.kind_index, layer), np.uint8)
    native.get(spec.kind_index, layer, out)
    return out


@pytest.mark.parametrize("weights", options.WEIGHTS)
@pytest.mark.parametrize("name", ["tiny", "odd", "untied"])
def test_a_model_made_of_anothers_tensors_has_its_bytes(
    name: str, weights: str, binding: str, model_folder: Folders
) -> None:
    with load_checkpoint(model_folder(name)) as checkpoint:
        first, second = make(checkpoint, weights, binding), make(checkpoint, weights, binding, whole=False)
        for spec in checkpoint.specs():
            second.set(spec.kind_index, max(spec.layer, 0), STORED, get(first, spec))
            assert get(second, spec).tobytes() == get(first, spec).tobytes()
            if not spec.is_matrix:
                assert get(first, spec).tobytes() == checkpoint.array(spec).tobytes()
        second.freeze()
        assert second.weight_bytes() == first.weight_bytes()


@pytest.mark.parametrize("weights", quantized.FORMATS)
@pytest.mark.parametrize("name", ["tiny", "odd", "untied"])
def test_numpy_reads_the_numbers_that_the_kernels_do(
    name: str, weights: str, binding: str, model_folder: Folders
) -> None:
    """The embedding kernel adds a row of the matrix, as C reads it, to zeros."""
    with load_checkpoint(model_folder(name)) as checkpoint:
        native = make(checkpoint, weights, binding)
        for spec in checkpoint.specs():
            if spec.is_matrix:
                w = checkpoint.array(spec).T if spec.is_transposed else checkpoint.array(spec)
                n_in, n_out = w.shape
                packed = gpt2c.kernels.pack(w, f"panels_{weights}", binding=binding)
                rows = gpt2c.kernels.embed(np.arange(n_out), packed, np.zeros((n_out, n_in), np.float32))
                found = quantized.FORMATS[weights].dequantize(get(native, spec), n_in, n_out)
                np.testing.assert_array_equal(found.T, rows)


def test_what_does_not_fit_is_refused(binding: str, model_folder: Folders) -> None:
    with load_checkpoint(model_folder("tiny")) as checkpoint:
        native = make(checkpoint, "q4", binding, whole=False)
        n_bytes = native.tensor_bytes(WTE, 0)
        assert n_bytes == quantized.FORMATS["q4"].n_bytes(checkpoint.config.n_embd, checkpoint.config.n_vocab)
        with pytest.raises(gpt2c.ModelFileError, match="not ready"):
            native.get(WTE, 0, np.empty(n_bytes, np.uint8))
        for tensor, layer in [(17, 0), (WTE, 1), (WTE, -1), (2, 2), (LM_HEAD, 0)]:
            assert native.tensor_bytes(tensor, layer) == 0
            with pytest.raises(gpt2c.OptionError):
                native.get(tensor, layer, np.empty(8, np.uint8))
        for wrong in (0, n_bytes - 1, n_bytes + 1):
            with pytest.raises(gpt2c.OptionError):
                native.set(WTE, 0, STORED, np.zeros(wrong, np.uint8))
        with pytest.raises(gpt2c.OptionError):
            native.set(LN_F_BIAS, 0, STORED, np.zeros(2 * checkpoint.config.n_embd, np.uint8))


LARGEST = {"q8": (0x54E60000, 0x54E70000), "q4": (0x58635FA9, 0x58635FAA)}
"""The bits of the largest scale that weights of 1e15 give, and of the next number."""


@pytest.mark.parametrize("bad", ["nan", "inf", "-1", "too large"])
@pytest.mark.parametrize("weights", quantized.FORMATS)
def test_a_scale_that_no_weights_have_is_refused(
    weights: str, bad: str, binding: str, model_folder: Folders
) -> None:
    largest, larger = np.array(LARGEST[weights], np.uint32).view(np.float32)
    with load_checkpoint(model_folder("tiny")) as checkpoint:
        n_in, n_out = checkpoint.config.n_embd, checkpoint.config.n_vocab
        stored = get(make(checkpoint, weights, binding), next(checkpoint.specs()))
        blocks, columns = quantized.FORMATS[weights].split(stored, n_in, n_out)

        def put(scale: np.float32) -> None:
            if weights == "q8":
                blocks["scale"][-1, -1, -1] = scale.view(np.uint32) >> 16
            else:
                columns["offset"][-1, -1] = scale

        native = make(checkpoint, weights, binding, whole=False)
        put(largest)
        assert quantized.FORMATS[weights].is_sound(stored, n_in, n_out)
        assert np.isfinite(quantized.FORMATS[weights].dequantize(stored, n_in, n_out)).all()
        native.set(WTE, 0, STORED, stored)
        put(larger if bad == "too large" else np.float32(bad))
        assert not quantized.FORMATS[weights].is_sound(stored, n_in, n_out)
        with pytest.raises(gpt2c.ModelFileError, match="scale"):
            native.set(WTE, 0, STORED, stored)
        with pytest.raises(gpt2c.ModelFileError, match="not ready"):
            native.get(WTE, 0, stored)
