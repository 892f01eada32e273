"""Linear layers in Numba on stored weights, compared with the C kernels and an exact product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from references import optional

import gpt2c
from gpt2c import kernels
from gpt2c.checkpoints import formats as quantized
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.quantization.write import write_quantized

optional("numba")

from gpt2c.backends.numba_kernels import STORED, LinearF32, _round  # noqa: E402

KINDS = {"attn.c_attn.weight": 256 * 768, "mlp.c_proj.weight": 1024 * 256}


def inputs(rows: int, n_in: int) -> np.ndarray:
    x = np.random.Generator(np.random.PCG64(rows)).standard_normal((rows, n_in), np.float32)
    x[-1, 40] = 30.0  # one that dwarfs its group
    return x


def rounded(x: np.ndarray) -> np.ndarray:
    """x as the kernels see it, in float64."""
    groups = -(-x.shape[1] // 64) * 2
    q, scale = np.zeros((len(x), groups * 32), np.int8), np.zeros((len(x), groups), np.float32)
    _round(q, scale, x)
    return (q.astype(np.float64) * np.repeat(scale, 32, axis=1))[:, : x.shape[1]]


@pytest.mark.parametrize("format", quantized.FORMATS)
def test_stored_weights_give_what_the_c_kernels_do(format: str, tmp_path: Path) -> None:
    with load_checkpoint(EMBEDDED_MODEL) as source:
        write_quantized(source, tmp_path / "q", format)
        with load_checkpoint(tmp_path / "q") as checkpoint:
            for spec in checkpoint.specs():
                if spec.kind not in KINDS or spec.layer != 3:
                    continue
                stored = checkpoint.quantized(spec.kind, spec.layer)
                assert stored is not None
                raw, (n_in, n_out) = np.frombuffer(stored[1], np.uint8), spec.shape
                x, layer = inputs(5, n_in), STORED[format](raw, n_in, n_out)
                found = layer(x)
                exact = rounded(x) @ quantized.FORMATS[format].dequantize(raw, n_in, n_out).astype(np.float64)
                scale = np.abs(exact).max()
                assert np.abs(found - exact).max() < 1e-5 * scale
                packed = kernels.pack(source.array(spec), f"panels_{format}")
                assert np.abs(found - kernels.linear(x, packed)).max() < 1e-5 * scale
                assert layer.weight_bytes == quantized.FORMATS[format].n_bytes(n_in, n_out)
                np.testing.assert_array_equal(layer(x[2:3]), found[2:3])


def test_float32_is_the_product() -> None:
    x = inputs(3, 100)
    w = np.random.Generator(np.random.PCG64(9)).standard_normal((100, 77), np.float32)
    exact = x.astype(np.float64) @ w
    assert np.abs(LinearF32(w)(x) - exact).max() < 1e-5 * np.abs(exact).max()


def test_rows_of_zeros_are_zeros() -> None:
    stored = np.zeros(quantized.FORMATS["q8"].n_bytes(64, 32), np.uint8)
    assert not STORED["q8"](stored, 64, 32)(np.zeros((2, 64), np.float32)).any()


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_the_backend_computes_a_quantized_model_as_it_is_stored(weights: str, tmp_path: Path) -> None:
    folder = tmp_path / weights
    with load_checkpoint(EMBEDDED_MODEL) as checkpoint:
        write_quantized(checkpoint, folder, weights)
    with gpt2c.load(folder, backend="numba") as numba, gpt2c.load(folder) as native:
        ids = native.tokenizer.encode("It was a dark night, and the")
        assert numba.plan.weights == native.plan.weights == weights
        assert numba.weight_bytes == native.weight_bytes
        # The C core takes x of the head in two parts, so that one of its roundings is missing.
        assert np.abs(numba.logits(ids) - native.logits(ids)).max() < 0.3
