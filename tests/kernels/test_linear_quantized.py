"""The integer formats q8 and q4: what a weight becomes, and linear layers, the same bits everywhere."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_oracle import (
    SIZES,
    Answer,
    assert_same_bits,
    assert_within,
    int8_linear,
    int8_rounded,
    normal,
    q8_stored,
)
from numpy.typing import NDArray

from gpt2c import kernels

Floats = NDArray[np.float32]
On = dict[str, str]
FORMATS = ("panels_q8", "panels_q4")

# Of native/formats.def: relative to a block's largest weight, or a column's range; and what is too small.
Q8_ROUNDOFF, Q8_TINY = 1.01953125 * 2.0**-8, 2.0**-134
Q4_ROUNDOFF, Q4_TINY = 1.625 * 2.0**-3, 2e-29


@pytest.fixture(params=FORMATS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stored(w: Floats, layout: str, on: On | None = None) -> Floats:
    """Weights [n_in, n_out] as the format stores them, read through the embedding."""
    on = {"isa": "ref"} if on is None else on
    packed = kernels.pack(w, layout, binding=on.get("binding", "auto"))
    rows = np.zeros((w.shape[1], w.shape[0]), np.float32)
    return np.ascontiguousarray(kernels.embed(np.arange(w.shape[1]), packed, rows, **on).T)


def sizes_of(w: Floats, layout: str) -> Floats:
    """At most W: q4's offset is not readable, but little more than what is below 0 in a column."""
    below = np.maximum(-w.min(axis=0), 0) if layout == "panels_q4" else np.zeros(w.shape[1], np.float32)
    return np.asarray(np.abs(w) + 2.5 * below)


@cache
def case(rows: int, n_in: int, n_out: int, layout: str) -> tuple[Floats, Floats, Floats, Answer, Floats]:
    x, w, bias = normal(rows, n_in), normal(n_in, n_out, seed=1), normal(n_out, seed=2)
    weights = q8_stored(w) if layout == "panels_q8" else stored(w, layout)
    answer = int8_linear(x, weights, sizes_of(weights, layout), bias)
    return x, w, bias, answer, kernels.linear(x, w, bias, layout, isa="ref")


# ---- Linear layers ----


@pytest.mark.parametrize("rows", [1, 3, 13])
def test_every_size_is_within_the_bound_and_has_refs_bits(on: On, layout: str, rows: int) -> None:
    for n_in, n_out in [*((n, 33) for n in SIZES), *((33, n) for n in SIZES), (768, 97)]:
        x, w, bias, answer, reference = case(rows, n_in, n_out, layout)
        out = kernels.linear(x, w, bias, layout, **on)
        assert_within(out, answer)
        assert_same_bits(out, reference)


@pytest.mark.parametrize("epilogue", ["plain", "gelu", "gelu_table", "add"])
def test_rows_and_columns_may_be_split(on: On, layout: str, epilogue: str) -> None:
    for n_in in (66, 97):
        x, w, bias = normal(30, n_in), normal(n_in, 161, seed=1), normal(161, seed=2)
        residual = normal(30, 161, seed=3) if epilogue == "add" else None
        packed = kernels.pack(w, layout, binding=on["binding"])
        extra = {"epilogue": epilogue, "residual": residual}
        whole = kernels.linear(x, packed, bias, **extra, **on)
        for n in range(30):
            assert_same_bits(
                kernels.linear(x, packed, bias, rows=(n, n + 1), **extra, **on), whole[n : n + 1]
            )
            assert_same_bits(kernels.linear(x, packed, bias, rows=(0, n), **extra, **on), whole[:n])
        for columns in [(0, 32), (32, 161), (128, 161), (32, 64), (0, 160)]:
            part = kernels.linear(x, packed, bias, columns=columns, **extra, **on)
            assert_same_bits(part, whole[:, slice(*columns)])


@pytest.mark.parametrize("table", [False, True])
def test_gelu_after_a_sum_is_the_instruction_sets_own(on: On, layout: str, table: bool) -> None:
    x, w, bias, _, _ = case(13, 33, 65, layout)
    plain = kernels.linear(x, w, bias, layout, **on)
    fused = kernels.linear(x, w, bias, layout, epilogue="gelu_table" if table else "gelu", **on)
    assert_same_bits(fused, kernels.gelu(plain, table, **on))


def test_x_is_rounded_to_the_nearest_of_255_numbers_ties_to_even(on: On) -> None:
    """x and w of scale 1: every sum is an integer, 127 times what x became."""
    ties = np.arange(-126.5, 127, 0.5, dtype=np.float32)
    x = np.zeros((len(ties), 97), np.float32)
    for place in range(97):
        x[:] = 0
        x[:, place // 32 * 32 + (place + 1) % 32 if place < 96 else 96] = 127
        x[:, place] = ties if place < 96 else 127
        w = np.zeros((97, 1), np.float32)
        w[place] = 127
        expected = 127 * (np.rint(ties) if place < 96 else np.full(len(ties), 127))
        np.testing.assert_array_equal(kernels.linear(x, w, layout="panels_q8", **on)[:, 0], expected)


def test_integers_of_the_largest_size_do_not_overflow(on: On, layout: str) -> None:
    """All products of one sign, in every lane: 32 * 127 * 127, or 15 instead of the second 127."""
    for sign in (1, -1):
        x, w = np.full((5, 96), 127, np.float32), np.full((96, 65), sign, np.float32)
        weights = stored(w, layout)
        out = kernels.linear(x, w, layout=layout, **on)
        assert_within(out, int8_linear(x, weights, sizes_of(weights, layout), np.zeros(65)))
        assert_same_bits(kernels.linear(-x, w, layout=layout, **on), -out)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_x_makes_its_row_nan_and_no_other(on: On, layout: str, special: float) -> None:
    x, w, bias, _, expected = case(7, 97, 65, layout)
    for place in (0, 31, 32, 96):
        spoiled = x.copy()
        spoiled[4, place] = special
        out = kernels.linear(spoiled, w, bias, layout, **on)
        assert_same_bits(np.delete(out, 4, axis=0), np.delete(expected, 4, axis=0))
        assert np.isnan(out[4]).all()


def test_x_too_small_for_a_scale_counts_as_0(on: On, layout: str) -> None:
    x, w = np.zeros((2, 64), np.float32), normal(64, 33)
    x[0, :32] = 2.0**-101
    x[1, :32] = 1e-45
    assert_same_bits(kernels.linear(x, w, layout=layout, **on), np.zeros((2, 33), np.float32))
    x[:, 40] = 1  # another group
    alone = np.where(np.arange(64) == 40, x, 0)
    assert_same_bits(kernels.linear(x, w, layout=layout, **on), kernels.linear(alone, w, layout=layout, **on))


def test_huge_x_that_cancels_is_within_the_bound(on: On, layout: str) -> None:
    x, w, bias = normal(7, 97) * np.float32(1e30), normal(97, 65, seed=1), normal(65, seed=2)
    weights = stored(w, layout)
    answer = int8_linear(x, weights, sizes_of(weights, layout), bias)
    assert_within(kernels.linear(x, w, bias, layout, **on), answer)


# ---- The embedding ----


def test_a_token_is_its_row_as_the_format_stores_it_plus_its_position(on: On, layout: str) -> None:
    for n_embd in SIZES[:-1]:
        wte, wpe = normal(65, n_embd), normal(12, n_embd, seed=1)
        ids = np.array([64, 0, 31, 32, 33, 7])
        rows = q8_stored(wte.T).T if layout == "panels_q8" else stored(wte.T, layout).T
        assert_same_bits(kernels.embed(ids, wte, wpe, 3, layout, **on), rows[ids] + wpe[3:9])


def test_linear_and_embedding_read_the_same_q4(on: On) -> None:
    """127 times a unit vector is exact as x, so a layer's row is 127 times the weights' row."""
    w = normal(97, 65)
    rows = kernels.linear(127 * np.eye(97, dtype=np.float32), w, layout="panels_q4", **on) / 127
    scale = sizes_of(w, "panels_q4")
    assert (np.abs(rows - stored(w, "panels_q4", on)) <= 8 * 2.0**-24 * scale).all()


# ---- What a weight becomes ----


def q8_errors(w: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far each weight is off, and how far it may be."""
    error = np.abs(stored(w, "panels_q8").astype(np.float64) - w)
    largest = [np.abs(w[k : k + 64]).max(axis=0).astype(np.float64) for k in range(0, len(w), 64)]
    return error, np.repeat(largest, 64, axis=0)[: len(w)] * Q8_ROUNDOFF + Q8_TINY


def q4_errors(w: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    error = np.abs(stored(w, "panels_q4").astype(np.float64) - w)
    reach = np.maximum(w.max(axis=0), 0).astype(np.float64) - np.minimum(w.min(axis=0), 0)
    return error, np.broadcast_to(reach * Q4_ROUNDOFF + Q4_TINY, w.shape)


def test_q8_follows_the_documented_rule(on: On) -> None:
    for n_in, n_out in [(1, 1), (64, 32), (65, 33), (200, 97)]:
        for scale in (1.0, 1e-20, 1e12, 1e-36, 1e-40):
            w = normal(n_in, n_out) * np.float32(scale)
            assert_same_bits(stored(w, "panels_q8", on), q8_stored(w))


def test_a_q4_group_has_16_values_a_column_and_less_error_than_an_even_division() -> None:
    w = normal(128, 97) * np.exp(normal(1, 97, seed=1)) + normal(1, 97, seed=2) / 4
    ours = stored(w, "panels_q4")
    for k in range(0, 128, 32):
        part, group = w[k : k + 32].astype(np.float64), ours[k : k + 32]
        assert max(len(np.unique(column)) for column in group.T) <= 16
        low, high = np.minimum(part.min(axis=0), 0), np.maximum(part.max(axis=0), 0)
        step = (high - low) / 15
        even = np.rint((part - low) / step) * step + low
        squares = [((x - part) ** 2).mean(axis=0) / step**2 for x in (group, even)]
        assert squares[0].mean() < 0.93 * squares[1].mean()


NORMAL = st.floats(-3, 3, width=32)
KINDS = {
    "zero": st.just(0.0),
    "infinite": st.sampled_from([np.inf, -np.inf, 1.0]),
    "tiny": st.floats(-(2.0**-100), 2.0**-100, width=32),
    "subnormal": st.floats(-(2.0**-127), 2.0**-127, width=32),
    "any": st.floats(width=32, allow_nan=False),
    "huge": st.floats(2.0**100, width=32) | st.floats(max_value=-(2.0**100), width=32),
    "two": st.sampled_from([-1.0, 1.0]),
    "above": st.floats(0.875, 1, width=32),
    "below": st.floats(-1, -0.875, width=32),
    "normal": NORMAL,
}


@st.composite
def columns_of_kinds(draw: st.DrawFn) -> Floats:
    """Weights [n_in, 8], each group of 32 of each column of a kind."""
    n_in = draw(st.sampled_from([1, 31, 32, 33, 64, 97]))
    w = np.zeros((n_in, 8), np.float32)
    for c in range(8):
        for k in range(0, n_in, 32):
            n = min(32, n_in - k)
            kind = draw(st.sampled_from([*KINDS, "constant", "outlier"]))
            if kind == "constant":
                w[k : k + n, c] = draw(st.floats(-(2.0**54), 2.0**54, width=32))
            elif kind == "outlier":
                w[k : k + n, c] = draw(st.lists(NORMAL, min_size=n, max_size=n))
                w[k + draw(st.integers(0, n - 1)), c] = draw(st.sampled_from([1e4, -1e4, 1e15, -1e15]))
            else:
                w[k : k + n, c] = draw(st.lists(KINDS[kind], min_size=n, max_size=n))
    return w


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(w=columns_of_kinds())
def test_any_weights_are_stored_without_nan_and_within_the_declared_error(w: Floats) -> None:
    """Beyond 1e15 a weight counts as that, an infinite one too."""
    finite = np.clip(w, np.float32(-1e15), np.float32(1e15))
    for layout, errors in (("panels_q8", q8_errors), ("panels_q4", q4_errors)):
        ours = stored(w, layout)
        assert np.isfinite(ours).all()
        assert_same_bits(ours, stored(finite, layout))
        error, bound = errors(finite)
        assert (error <= bound).all(), (layout, (error / bound).max())
        out = kernels.linear(np.ones((1, len(w)), np.float32), w, layout=layout)
        assert np.isfinite(out).all()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    levels=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=6),
    picks=st.lists(st.integers(0, 5), min_size=64, max_size=64),
)
def test_few_distinct_weights_are_within_the_declared_error(levels: list[float], picks: list[int]) -> None:
    """Where a least-squares fit may be steep: it decides by a handful of values."""
    w = np.array([[levels[i % len(levels)]] for i in picks], np.float32)
    for errors in (q8_errors, q4_errors):
        error, bound = errors(w)
        assert (error <= bound).all(), (error / bound).max()


@settings(max_examples=100, deadline=None)
@given(x=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=70))
def test_any_finite_x_is_rounded_as_documented(x: list[float]) -> None:
    """Against w = 127 in one place, whose scale is 1."""
    row = np.array([x], np.float32)
    w = 127 * np.eye(len(x), dtype=np.float32)
    exact = 127 * int8_rounded(row)
    out = kernels.linear(row, w, layout="panels_q8")
    assert (np.abs(out - exact) <= 4 * 2.0**-24 * np.abs(exact) + 1e-37).all()


def test_zeros_stay_zero(layout: str) -> None:
    assert_same_bits(stored(np.zeros((65, 33), np.float32), layout), np.zeros((65, 33), np.float32))


def test_a_nan_weight_makes_its_block_nan_and_no_other_column(on: On, layout: str) -> None:
    x, w, bias, _, expected = case(7, 97, 65, layout)
    rows = stored(w, layout)
    for place in (0, 40, 64, 96):
        spoiled = w.copy()
        spoiled[place, 40] = np.nan
        out = kernels.linear(x, spoiled, bias, layout, **on)
        assert_same_bits(np.delete(out, 40, axis=1), np.delete(expected, 40, axis=1))
        assert np.isnan(out[:, 40]).all()
        # q8: the 64 that share its scale. q4: the column, since its scales are relative to the largest.
        block = np.arange(97) // 64 == place // 64 if layout == "panels_q8" else np.full(97, True)
        found = stored(spoiled, layout, on)
        assert np.isnan(found[block, 40]).all()
        found[block, 40] = rows[block, 40]
        assert_same_bits(found, rows)
