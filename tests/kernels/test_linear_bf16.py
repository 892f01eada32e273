"""Linear layers over bfloat16 weights: within the bound, and the row contract as for float32."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from kernel_oracle import SIZES, Answer, assert_same_bits, normal, rounded
from numpy.typing import NDArray

from gpt2c import kernels

Floats = NDArray[np.float32]
On = dict[str, str]
EPS = 2.0**-24


@cache
def case(rows: int, n_in: int, n_out: int) -> tuple[Floats, Floats, Floats, list[Answer]]:
    """x, w, bias; and the answers that are right: of rounded weights, and of a rounded x as well."""
    x, w, bias = normal(rows, n_in), normal(n_in, n_out, seed=1), normal(n_out, seed=2)
    return x, w, bias, [answer(x, rounded(w), bias, 1), answer(rounded(x), rounded(w), bias, 2)]


def answer(x: Floats, w: Floats, bias: Floats, factor: float) -> Answer:
    exact = x.astype(np.float64) @ w + bias
    scale = np.abs(x).astype(np.float64) @ np.abs(w) + np.abs(bias)
    return exact, (x.shape[1] + 2) * factor * EPS * scale


@pytest.mark.parametrize("rows", [1, 3, 13])
def test_every_size_is_within_the_bound_on_rounded_operands(on: On, rows: int) -> None:
    for n_in, n_out in [*((n, 33) for n in SIZES), *((33, n) for n in SIZES), (768, 3072)]:
        x, w, bias, answers = case(rows, n_in, n_out)
        out = kernels.linear(x, w, bias, "panels_bf16", **on)
        # x stays float32, or is rounded too where the instruction set multiplies bfloat16 pairs.
        assert any((np.abs(out - exact) <= bound).all() for exact, bound in answers)


@pytest.mark.parametrize("epilogue", ["plain", "gelu", "gelu_table", "add"])
def test_rows_and_columns_may_be_split(on: On, epilogue: str) -> None:
    for n_in in (66, 67):
        x, w, bias = normal(30, n_in), normal(n_in, 161, seed=1), normal(161, seed=2)
        residual = normal(30, 161, seed=3) if epilogue == "add" else None
        packed = kernels.pack(w, "panels_bf16", binding=on["binding"])
        extra = {"epilogue": epilogue, "residual": residual}
        whole = kernels.linear(x, packed, bias, **extra, **on)
        for n in range(30):
            assert_same_bits(
                kernels.linear(x, packed, bias, rows=(n, n + 1), **extra, **on), whole[n : n + 1]
            )
        for columns in [(0, 32), (32, 161), (128, 161)]:
            part = kernels.linear(x, packed, bias, columns=columns, **extra, **on)
            assert_same_bits(part, whole[:, slice(*columns)])


def test_weights_that_are_bfloat16_already_are_not_changed(on: On) -> None:
    w = rounded(normal(33, 65))
    assert_same_bits(kernels.linear(np.eye(33, dtype=np.float32), w, layout="panels_bf16", **on), w)


def test_special_weights_stay_what_they_are(on: On) -> None:
    w = np.array([[np.inf, -np.inf, np.nan, 0.0, 3.4e38, 1e-30]], np.float32)
    out = kernels.linear(np.ones((1, 1), np.float32), w, layout="panels_bf16", **on)
    np.testing.assert_array_equal(out, np.array([[np.inf, -np.inf, np.nan, 0.0, np.inf, rounded(w)[0, 5]]]))
