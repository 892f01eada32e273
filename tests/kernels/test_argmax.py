"""kernels.argmax: the id of the largest logit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import SIZES, SPECIAL, normal
from numpy.typing import NDArray

from gpt2c import bindings, kernels

On = dict[str, str]


def expected(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """np.argmax takes the lowest index of a tie, and would take a NaN first."""
    return np.argmax(np.where(np.isnan(x), -np.inf, x), axis=-1)


def test_the_largest_is_found_wherever_it_is(on: On) -> None:
    for n in SIZES:
        x = normal(1, n).repeat(min(n, 100), axis=0)
        at = np.linspace(0, n - 1, len(x)).astype(int)
        x[np.arange(len(x)), at] = 100
        np.testing.assert_array_equal(kernels.argmax(x, **on), at)


def test_the_lowest_index_wins_a_tie(on: On) -> None:
    for n in SIZES:
        assert kernels.argmax(np.full(n, -3.5), **on) == 0
        x = np.random.default_rng(n).integers(0, 3, (50, n)).astype(np.float32)
        np.testing.assert_array_equal(kernels.argmax(x, **on), expected(x))
    assert kernels.argmax([-1, -0.0, 0.0], **on) == 1
    assert kernels.argmax([-1, 0.0, -0.0], **on) == 1


def test_a_nan_counts_as_minus_infinity(on: On) -> None:
    for n in SIZES:
        assert kernels.argmax(np.full(n, np.nan), **on) == 0
        assert kernels.argmax(np.full(n, -np.inf), **on) == 0
        x = normal(20, n)
        x[np.random.default_rng(n).random(x.shape) < 0.5] = np.nan
        np.testing.assert_array_equal(kernels.argmax(x, **on), expected(x))
    assert kernels.argmax([np.nan, -np.inf, np.nan], **on) == 0
    assert kernels.argmax([np.nan, -3e38, np.inf, np.inf], **on) == 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([float(special) for special in SPECIAL]), min_size=1, max_size=70))
def test_any_mix_of_special_numbers_is_as_specified(numbers: list[float]) -> None:
    x = np.array(numbers, np.float32)
    for isa in [name for name, _, supported in bindings.select().isas() if supported]:
        assert kernels.argmax(x, isa=isa) == expected(x)


def test_indices_are_int64_one_a_row(on: On) -> None:
    out = kernels.argmax(normal(2, 3, 5), **on)
    assert out.dtype == np.int64 and out.shape == (2, 3)
