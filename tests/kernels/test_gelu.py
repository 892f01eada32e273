"""kernels.gelu: by the formula, and by the table over all fp16 numbers."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_oracle import SIZES, SPECIAL, assert_same_bits, assert_within, bits, gelu, normal
from numpy.typing import NDArray
from references import optional

from gpt2c import kernels, reference

On = dict[str, str]
Floats = NDArray[np.float32]

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
FINITE_HALVES = np.sort(ALL_HALVES[np.isfinite(ALL_HALVES)].astype(np.float32))
MIDPOINTS = (FINITE_HALVES[1:] + FINITE_HALVES[:-1]) / 2  # exact
AROUND = np.concatenate(
    [
        FINITE_HALVES,
        MIDPOINTS,
        np.nextafter(MIDPOINTS, np.float32(99)),
        np.nextafter(MIDPOINTS, np.float32(-99)),
    ]
)


def test_every_length_is_within_the_stated_bound(on: On) -> None:
    for n in SIZES:
        x = normal(n) * np.float32(4)
        assert_within(kernels.gelu(x, **on), gelu(x))


def test_a_dense_grid_is_within_the_stated_bound(on: On) -> None:
    x = np.linspace(-12, 12, 400_001, dtype=np.float32)
    assert_within(kernels.gelu(x, **on), gelu(x))


@pytest.mark.parametrize("table", [False, True])
def test_an_element_has_the_same_bits_at_any_place(on: On, table: bool) -> None:
    x = np.concatenate([normal(90) * np.float32(3), SPECIAL[~np.isnan(SPECIAL)]])
    whole = kernels.gelu(x, table, **on)
    numbers = ~np.isnan(whole)
    alone = np.array([kernels.gelu(x[i], table, **on) for i in range(len(x))])
    assert_same_bits(alone[numbers], whole[numbers])
    for begin in range(20):
        assert_same_bits(kernels.gelu(x[begin:80], table, **on), whole[begin:80])


def test_the_formula_at_special_numbers(on: On) -> None:
    x = np.array([0.0, -0.0, np.inf, -1e30, -3.4e38, 3.4e38, -87.0, -11.0], np.float32)
    expected = np.array([0.0, -0.0, np.inf, -0.0, -0.0, 3.4e38, -0.0, -0.0], np.float32)
    assert_same_bits(kernels.gelu(x, **on), expected)
    assert np.isnan(kernels.gelu([np.nan, -np.inf], **on)).all()  # infinity over infinity


def test_half_of_a_tiny_number_is_left_of_it(on: On) -> None:
    x = np.array([1e-45, 3e-45, -1e-39, 1e-20, -1e-30], np.float32)
    np.testing.assert_allclose(kernels.gelu(x, **on), x / 2, rtol=1e-6, atol=1.5e-45)


def test_the_table_at_special_numbers(on: On) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, -10.0, 10.0, -3e38, 3e38, 10.001], np.float32)
    expected = np.array([0.0, -0.0, np.inf, 0.0, 0.0, 10.0, 0.0, 3e38, 10.001], np.float32)
    assert_same_bits(kernels.gelu(x, table=True, **on), expected)
    assert np.isnan(kernels.gelu([np.nan, -np.nan], table=True, **on)).all()


def test_the_table_is_within_its_bound_at_and_around_every_fp16_number(on: On) -> None:
    x = AROUND.astype(np.float64)
    exact, _ = gelu(AROUND)
    assert_within(kernels.gelu(AROUND, table=True, **on), (exact, 2.13 * 2**-11 * np.abs(x) + 2**-24))


def test_a_lookup_rounds_to_the_nearest_fp16_number_and_ties_to_even(on: On) -> None:
    x = AROUND[np.abs(AROUND) < 10]
    entry = kernels.gelu_table()[x.astype(np.float16).view(np.uint16)]
    assert_same_bits(kernels.gelu(x, table=True, **on), entry.astype(np.float32))


def test_the_table_has_the_bits_of_the_reference_wherever_they_are_well_defined(on: On) -> None:
    """Not where the exact value is so close to the middle between two fp16 numbers that an error
    within the formula's bound decides which is the nearer one."""
    x = FINITE_HALVES
    exact, bound = gelu(x)
    with np.errstate(over="ignore"):
        decided = (exact - bound).astype(np.float16) == (exact + bound).astype(np.float16)
    decided |= np.abs(x) >= 10  # no lookup there
    assert (~decided).sum() < 100
    out, expected = kernels.gelu(x, table=True, **on), reference.gelu_table(x)
    assert_same_bits(out[decided], expected[decided])


def test_the_table_is_handed_out_whole_and_read_only() -> None:
    table = kernels.gelu_table()
    assert table.shape == (65536,) and table.dtype == np.float16
    assert not table.flags.writeable
    assert np.isnan(table[np.isnan(ALL_HALVES)]).all()
    assert bits(table[:1].astype(np.float32))[0] == 0


def test_torch_agrees(on: On) -> None:
    torch = optional("torch")
    x = normal(3072) * np.float32(3)
    theirs = torch.nn.functional.gelu(torch.from_numpy(x), approximate="tanh").numpy()
    _, bound = gelu(x)
    cancelled = 4 * 2.0**-24 * np.abs(x)  # torch computes 1 + tanh u
    assert_within(kernels.gelu(x, **on), (theirs.astype(np.float64), bound + cancelled))
