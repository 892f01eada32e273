"""kernels.layernorm: rows of mean 0 and variance 1, scaled and shifted."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_oracle import SIZES, assert_same_bits, assert_within, layernorm, normal
from numpy.typing import NDArray
from references import optional

from gpt2c import kernels

On = dict[str, str]
Floats = NDArray[np.float32]


def check(on: On, x: Floats, epsilon: float = 1e-5) -> None:
    n = x.shape[-1]
    weight, bias = normal(n, seed=1), normal(n, seed=2)
    out = kernels.layernorm(x, weight, bias, epsilon, **on)
    assert_within(out, layernorm(x, weight, bias, epsilon))


def test_every_size_is_within_the_stated_bound(on: On) -> None:
    for n in SIZES:
        check(on, normal(5, n))


def test_a_mean_far_from_zero_costs_no_more_than_the_bound_says(on: On) -> None:
    for n in SIZES:
        check(on, normal(3, n) + np.float32(1e4))


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1e-5, 1e15, 1e30, 1e37])
def test_subnormal_and_huge_rows_are_within_the_stated_bound(on: On, scale: float) -> None:
    for n in (1, 17, 97, 768):
        check(on, (normal(3, n).astype(np.float64) * scale).astype(np.float32))


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 1.0])
def test_epsilon_keeps_a_constant_row_finite(on: On, epsilon: float) -> None:
    for n in SIZES:
        check(on, np.full((3, n), 3.7, np.float32), epsilon)
        check(on, np.zeros((3, n), np.float32), epsilon)


def test_a_row_alone_has_the_bits_it_has_among_many(on: On) -> None:
    for n in (1, 7, 33, 97, 768):
        x, weight, bias = normal(19, n), normal(n, seed=1), normal(n, seed=2)
        whole = kernels.layernorm(x, weight, bias, **on)
        for r in range(len(x)):
            assert_same_bits(kernels.layernorm(x[r], weight, bias, **on), whole[r])


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_nan_or_infinity_spoils_its_own_row_and_no_other(on: On, special: float) -> None:
    x, weight, bias = normal(5, 33), normal(33, seed=1), normal(33, seed=2)
    expected = kernels.layernorm(x, weight, bias, **on)
    x[2, 9] = special
    out = kernels.layernorm(x, weight, bias, **on)
    assert np.isnan(out[2]).all()
    assert_same_bits(np.delete(out, 2, axis=0), np.delete(expected, 2, axis=0))


def test_torch_agrees(on: On) -> None:
    torch = optional("torch")
    x, weight, bias = normal(7, 768), normal(768, seed=1), normal(768, seed=2)
    tensors = map(torch.from_numpy, (weight, bias))
    theirs = torch.nn.functional.layer_norm(torch.from_numpy(x), (768,), *tensors, eps=1e-5).numpy()
    _, bound = layernorm(x, weight, bias, 1e-5)
    ours = kernels.layernorm(x, weight, bias, **on)
    assert_within(ours, (theirs.astype(np.float64), 4 * bound))  # torch sums in float32
