"""kernels.gelu_erf and kernels.relu: the activations of GPT-2's relatives."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_oracle import SIZES, SPECIAL, assert_same_bits, assert_within, gelu_erf, normal
from references import optional

from gpt2c import kernels

On = dict[str, str]


def test_gelu_erf_of_every_length_is_within_the_stated_bound(on: On) -> None:
    for n in SIZES:
        x = normal(n) * np.float32(4)
        assert_within(kernels.gelu_erf(x, **on), gelu_erf(x))


def test_gelu_erf_on_a_dense_grid_is_within_the_stated_bound(on: On) -> None:
    x = np.linspace(-15, 15, 400_001, dtype=np.float32)
    assert_within(kernels.gelu_erf(x, **on), gelu_erf(x))


def test_gelu_erf_at_special_numbers(on: On) -> None:
    x = np.array([0.0, -0.0, np.inf, -1e30, -3.4e38, 3.4e38, -87.0, -14.0], np.float32)
    expected = np.array([0.0, -0.0, np.inf, -0.0, -0.0, 3.4e38, -0.0, -0.0], np.float32)
    assert_same_bits(kernels.gelu_erf(x, **on), expected)
    assert np.isnan(kernels.gelu_erf([np.nan, -np.inf], **on)).all()  # infinity times nothing, as in torch


def test_relu_keeps_what_is_positive_and_every_nan(on: On) -> None:
    for n in SIZES:
        x = normal(n)
        assert_same_bits(kernels.relu(x, **on), np.maximum(x, np.float32(0)))
    np.testing.assert_array_equal(kernels.relu(SPECIAL, **on), np.where(SPECIAL <= 0, 0, SPECIAL))


@pytest.mark.parametrize("name", ["gelu_erf", "relu"])
def test_an_element_has_the_same_bits_at_any_place(on: On, name: str) -> None:
    operation = getattr(kernels, name)
    x = normal(90) * np.float32(3)
    whole = operation(x, **on)
    for begin in range(20):
        assert_same_bits(operation(x[begin:80], **on), whole[begin:80])


def test_torch_agrees(on: On) -> None:
    torch = optional("torch")
    x = normal(3072) * np.float32(3)
    theirs = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    _, bound = gelu_erf(x)
    cancelled = 4 * 2.0**-24 * np.abs(x)  # torch computes 1 + erf
    assert_within(kernels.gelu_erf(x, **on), (theirs.astype(np.float64), bound + cancelled))
    assert_same_bits(kernels.relu(x, **on), torch.relu(torch.from_numpy(x)).numpy())
