"""kernels.linear: x weight + bias, in three layouts, with what may be done to a sum before it is stored."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from kernel_oracle import SIZES, SPECIAL, Answer, assert_same_bits, assert_within, bits, linear, normal
from numpy.typing import NDArray
from references import optional

from gpt2c import bindings, kernels

Floats = NDArray[np.float32]
On = dict[str, str]

SHAPES = sorted(
    {(n, 33) for n in SIZES} | {(n, 97) for n in SIZES} | {(33, n) for n in SIZES} | {(1, n) for n in SIZES}
)


@cache
def case(rows: int, n_in: int, n_out: int) -> tuple[Floats, Floats, Floats, Answer]:
    x, w, bias = normal(rows, n_in), normal(n_in, n_out, seed=1), normal(n_out, seed=2)
    return x, w, bias, linear(x, w, bias)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_every_size_is_within_the_stated_bound(on: On, layout: str, rows: int) -> None:
    for n_in, n_out in SHAPES:
        x, w, bias, answer = case(rows, n_in, n_out)
        assert_within(kernels.linear(x, w, bias, layout, **on), answer)


@pytest.mark.parametrize(("n_in", "n_out"), [(768, 3072), (3072, 768)])
def test_the_matrices_of_gpt2_small_are_within_the_stated_bound(
    on: On, layout: str, n_in: int, n_out: int
) -> None:
    x, w, bias, answer = case(5, n_in, n_out)
    assert_within(kernels.linear(x, w, bias, layout, **on), answer)


def test_a_row_alone_has_the_bits_it_has_among_many(on: On, layout: str) -> None:
    x, w, bias, _ = case(40, 67, 97)
    packed = kernels.pack(w, layout, binding=on["binding"])
    whole = kernels.linear(x, packed, bias, **on)
    for r in range(len(x)):
        assert_same_bits(kernels.linear(x[r : r + 1], packed, bias, **on), whole[r : r + 1])
    for n in range(1, len(x)):
        assert_same_bits(kernels.linear(x[:n], packed, bias, **on), whole[:n])
        assert_same_bits(kernels.linear(x, packed, bias, rows=(n, len(x)), **on), whole[n:])


@pytest.mark.parametrize("epilogue", ["plain", "gelu", "gelu_table", "add", "gelu_erf", "relu"])
@pytest.mark.parametrize("n_out", [64, 97])
def test_columns_may_be_split_at_any_panel(on: On, layout: str, n_out: int, epilogue: str) -> None:
    x, w, bias, _ = case(9, 67, n_out)
    packed = kernels.pack(w, layout, binding=on["binding"])
    residual = normal(9, n_out, seed=3) if epilogue == "add" else None

    def columns(span: tuple[int, int] | None) -> Floats:
        return kernels.linear(x, packed, bias, epilogue=epilogue, residual=residual, columns=span, **on)

    whole = columns(None)
    for begin in range(0, n_out, 32):
        for end in (*range(begin, n_out, 32), n_out):
            assert_same_bits(columns((begin, end)), whole[:, begin:end])


@pytest.mark.parametrize("columns", [(0, 97), (32, 64), (64, 97), (96, 97), (32, 32)])
@pytest.mark.parametrize("rows", [(0, 6), (1, 4), (5, 6), (3, 3)])
def test_nothing_is_written_outside_the_span(
    on: On, layout: str, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    x, w, bias, _ = case(6, 33, 97)
    binding = bindings.load(on["binding"])
    out = np.full(6 * 97 + 3, 7.0, np.float32)
    packed = kernels.pack(w, layout, binding=on["binding"])
    isa = [name for name, _, _ in binding.isas()].index(on["isa"])
    binding.op_linear(isa, out[1:-2], x.reshape(-1), packed.native, rows, columns, bias)
    expected = np.full((6, 97), 7.0, np.float32)
    expected[slice(*rows), slice(*columns)] = kernels.linear(
        x, packed, bias, rows=rows, columns=columns, **on
    )
    assert_same_bits(out[1:-2].reshape(6, 97), expected)
    assert out[0] == 7 and (out[-2:] == 7).all()


@pytest.mark.parametrize("n_out", [1, 31, 32, 65, 97])
def test_an_epilogue_has_the_bits_of_the_separate_operation(on: On, layout: str, n_out: int) -> None:
    x, w, bias, _ = case(7, 33, n_out)
    residual = normal(7, n_out, seed=3)
    plain = kernels.linear(x, w, bias, layout, **on)
    separate = {
        "gelu": kernels.gelu(plain, **on),
        "gelu_table": kernels.gelu(plain, table=True, **on),
        "gelu_erf": kernels.gelu_erf(plain, **on),
        "relu": kernels.relu(plain, **on),
        "add": kernels.add(residual, plain, **on),
    }
    for epilogue, expected in separate.items():
        given = residual if epilogue == "add" else None
        fused = kernels.linear(x, w, bias, layout, epilogue=epilogue, residual=given, **on)
        assert_same_bits(fused, expected)


def test_without_a_bias_the_sum_is_stored_as_it_is(on: On, layout: str) -> None:
    x, w, _, _ = case(7, 33, 65)
    plain = kernels.linear(x, w, layout=layout, **on)
    assert_within(plain, linear(x, w))
    assert_same_bits(kernels.linear(x, w, np.zeros(65), layout, **on), plain)


def test_packed_weights_and_a_transposed_view_give_the_same_bits(on: On, layout: str) -> None:
    x, w, bias, _ = case(3, 33, 65)
    expected = kernels.linear(x, w, bias, layout, **on)
    packed = kernels.pack(w, layout, binding=on["binding"])
    assert (packed.n_in, packed.n_out, packed.layout) == (33, 65, layout)
    assert_same_bits(kernels.linear(x, packed, bias, **on), expected)
    assert_same_bits(kernels.linear(x, np.asfortranarray(w), bias, layout, **on), expected)


def test_arrays_need_no_more_than_a_floats_own_alignment(on: On, layout: str) -> None:
    x, w, bias, _ = case(7, 33, 65)

    def shifted(array: Floats) -> Floats:
        buffer = np.empty(array.size + 1, np.float32)[1:].reshape(array.shape)
        buffer[...] = array
        return buffer

    expected = kernels.linear(x, w, bias, layout, **on)
    assert_same_bits(kernels.linear(shifted(x), w, shifted(bias), layout, **on), expected)


def test_a_nan_or_infinity_stays_in_its_row_and_column(on: On, layout: str) -> None:
    x, w, bias, _ = case(7, 33, 65)
    expected = kernels.linear(x, w, bias, layout, **on)
    for special in (np.nan, np.inf, -np.inf):
        spoiled = x.copy()
        spoiled[4, 17] = special
        out = kernels.linear(spoiled, w, bias, layout, **on)
        assert_same_bits(np.delete(out, 4, axis=0), np.delete(expected, 4, axis=0))
        np.testing.assert_array_equal(out[4], np.float32(special) * w[17])
        spoiled = w.copy()
        spoiled[5, 40] = special
        out = kernels.linear(x, spoiled, bias, layout, **on)
        assert_same_bits(np.delete(out, 40, axis=1), np.delete(expected, 40, axis=1))
        np.testing.assert_array_equal(out[:, 40], x[:, 5] * np.float32(special))


def test_products_of_special_numbers_are_ieee(on: On, layout: str) -> None:
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        expected = 0 + SPECIAL[:, None] * SPECIAL[None, :]
    out = kernels.linear(SPECIAL[:, None], SPECIAL[None, :], layout=layout, **on)
    np.testing.assert_array_equal(out, expected)  # an underflow may be 0 or -0: a fused one keeps its sign


def test_subnormal_products_are_not_flushed_to_zero(on: On, layout: str) -> None:
    x = normal(7, 33) * np.float32(1e-22)
    w = normal(33, 65, seed=1) * np.float32(1e-21)
    out = kernels.linear(x, w, layout=layout, **on)
    assert_within(out, linear(x, w))
    assert (out != 0).any()


def test_huge_numbers_that_cancel_are_within_the_bound(on: On, layout: str) -> None:
    x = normal(7, 33) * np.float32(1e18)
    w = normal(33, 65, seed=1) * np.float32(1e18)
    assert_within(kernels.linear(x, w, layout=layout, **on), linear(x, w))


def test_equal_rows_give_equal_rows_at_any_place(on: On, layout: str) -> None:
    _, w, bias, _ = case(1, 67, 97)
    out = kernels.linear(np.tile(normal(1, 67), (35, 1)), w, bias, layout, **on)
    assert len(np.unique(bits(out), axis=0)) == 1


def test_torch_agrees(on: On, layout: str) -> None:
    torch = optional("torch")
    x, w, bias, (_, bound) = case(7, 768, 97)
    theirs = torch.nn.functional.linear(*map(torch.from_numpy, (x, np.ascontiguousarray(w.T), bias))).numpy()
    ours = kernels.linear(x, w, bias, layout, **on)
    assert_within(ours, (theirs.astype(np.float64), 2 * bound))
