"""kernels.attention: each position looks at those up to its own."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from kernel_oracle import Answer, assert_same_bits, assert_within, attention, bits, normal, stored_f16
from numpy.typing import NDArray
from references import optional

from gpt2c import bindings, kernels

On = dict[str, str]
Floats = NDArray[np.float32]

LENGTHS = (*range(1, 18), 31, 32, 33, 63, 64, 65, 97)
HEADS = ((1, 1), (3, 5), (2, 16), (2, 17), (1, 97), (3, 64))


@cache
def case(n: int, n_head: int, head_dim: int) -> tuple[Floats, Floats, Floats, Answer]:
    q, k, v = (normal(n, n_head * head_dim, seed=seed) for seed in range(3))
    return q, k, v, attention(q, k, v, n_head)


@cache
def answer_f16(n: int, n_head: int, head_dim: int) -> Answer:
    q, k, v, _ = case(n, n_head, head_dim)
    return attention(q, stored_f16(k), stored_f16(v), n_head)


@pytest.fixture(params=[False, True], ids=["f32", "f16"])
def kv_f16(request: pytest.FixtureRequest) -> bool:
    """K and V stored as floats, and as halves."""
    return bool(request.param)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("n_head", "head_dim"), HEADS)
def test_every_size_is_within_the_stated_bound(on: On, n_head: int, head_dim: int, fused: bool) -> None:
    for n in LENGTHS:
        q, k, v, answer = case(n, n_head, head_dim)
        assert_within(kernels.attention(q, k, v, n_head, fused=fused, **on), answer)
        halves = kernels.attention(q, k, v, n_head, fused=fused, kv_f16=True, **on)
        assert_within(halves, answer_f16(n, n_head, head_dim))


def test_a_long_context_is_within_the_stated_bound(on: On) -> None:
    q, k, v, answer = case(768, 1, 8)
    assert_within(kernels.attention(q, k, v, 1, **on), answer)


@pytest.mark.parametrize(("n_head", "head_dim"), HEADS)
def test_fused_has_the_bits_of_separate_passes(on: On, n_head: int, head_dim: int, kv_f16: bool) -> None:
    for n in LENGTHS:
        q, k, v, _ = case(n, n_head, head_dim)
        separate = kernels.attention(q, k, v, n_head, fused=False, kv_f16=kv_f16, **on)
        together = kernels.attention(q, k, v, n_head, fused=True, kv_f16=kv_f16, **on)
        assert_same_bits(together, separate)


@pytest.mark.parametrize(("n_head", "head_dim"), [(3, 5), (2, 64)])
def test_positions_in_chunks_have_the_bits_of_all_at_once(
    on: On, n_head: int, head_dim: int, kv_f16: bool
) -> None:
    q, k, v, _ = case(65, n_head, head_dim)
    whole = kernels.attention(q, k, v, n_head, kv_f16=kv_f16, **on)
    for n in (1, 15, 16, 17, 33, 65):
        for n_past in range(n + 1):
            rows = kernels.attention(q[:n], k[:n], v[:n], n_head, n_past, kv_f16=kv_f16, **on)
            assert_same_bits(rows, whole[n_past:n])


@pytest.mark.parametrize("n_past", [0, 5])
def test_any_rows_and_heads_have_the_bits_of_the_whole(on: On, n_past: int, kv_f16: bool) -> None:
    q, k, v, _ = case(40, 4, 16)
    whole = kernels.attention(q, k, v, 4, n_past, kv_f16=kv_f16, **on)
    for rows in ((0, 1), (0, 16), (3, 20), (16, 35), (34, 35), (7, 7)):
        for heads in ((0, 4), (0, 1), (1, 3), (3, 4), (2, 2)):
            part = kernels.attention(q, k, v, 4, n_past, rows=rows, heads=heads, kv_f16=kv_f16, **on)
            assert_same_bits(part, whole[slice(*rows), heads[0] * 16 : heads[1] * 16])


def test_nothing_is_written_outside_the_span(on: On, kv_f16: bool) -> None:
    q, k, v, _ = case(20, 4, 5)
    binding = bindings.load(on["binding"])
    isa = [name for name, _, _ in binding.isas()].index(on["isa"])
    flat = [array.reshape(-1) for array in (q, k, v)]
    for rows in ((0, 16), (2, 9), (15, 16)):
        for heads in ((0, 4), (1, 3), (3, 4)):
            out = np.full(16 * 20 + 3, 7.0, np.float32)
            binding.op_attention(isa, out[1:-2], *flat, 20, 4, 4, 5, True, rows, heads, kv_f16)
            expected = np.full((16, 20), 7.0, np.float32)
            part = kernels.attention(q, k, v, 4, 4, rows=rows, heads=heads, kv_f16=kv_f16, **on)
            expected[slice(*rows), heads[0] * 5 : heads[1] * 5] = part
            assert_same_bits(out[1:-2].reshape(16, 20), expected)
            assert out[0] == 7 and (out[-2:] == 7).all()


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_no_position_sees_a_later_one(on: On, special: float, kv_f16: bool) -> None:
    q, k, v, _ = case(37, 2, 17)
    whole = kernels.attention(q, k, v, 2, kv_f16=kv_f16, **on)
    for at in (1, 16, 20, 36):
        spoiled = [array.copy() for array in (q, k, v)]
        for array in spoiled:
            array[at:] = special
        out = kernels.attention(*spoiled, 2, kv_f16=kv_f16, **on)
        assert_same_bits(out[:at], whole[:at])
        assert np.isnan(out[at:]).all()


def test_a_nan_stays_in_its_head(on: On, kv_f16: bool) -> None:
    q, k, v, _ = case(37, 3, 5)
    whole = kernels.attention(q, k, v, 3, kv_f16=kv_f16, **on)
    k = k.copy()
    k[20, 7] = np.nan
    out = kernels.attention(q, k, v, 3, kv_f16=kv_f16, **on)
    assert_same_bits(np.delete(out, range(5, 10), axis=1), np.delete(whole, range(5, 10), axis=1))
    assert_same_bits(out[:20], whole[:20])
    assert np.isnan(out[20:, 5:10]).all()


def test_the_first_position_gets_its_own_value_exactly(on: On) -> None:
    q, k, v, _ = case(33, 3, 5)
    assert_same_bits(kernels.attention(q, k, v, 3, **on)[0], v[0])


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 30.0, 1e3])
def test_flat_and_sharp_scores_are_within_the_stated_bound(on: On, scale: float) -> None:
    q, k, v, _ = case(65, 2, 16)
    q, k = (q * scale).astype(np.float32), (k * scale).astype(np.float32)
    assert_within(kernels.attention(q, k, v, 2, **on), attention(q, k, v, 2))


def test_equal_values_come_back_whatever_the_scores(on: On) -> None:
    q, k, _, _ = case(65, 2, 16)
    out = kernels.attention(q * np.float32(1e3), k, np.ones_like(k), 2, **on)
    np.testing.assert_allclose(out, 1, rtol=2e-5)


# ---- Halves ----


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("n_head", "head_dim"), HEADS)
def test_halves_have_the_bits_of_rounding_k_and_v_first(
    on: On, n_head: int, head_dim: int, fused: bool
) -> None:
    for n in LENGTHS:
        q, k, v, _ = case(n, n_head, head_dim)
        rounded = kernels.attention(q, stored_f16(k), stored_f16(v), n_head, fused=fused, **on)
        assert_same_bits(kernels.attention(q, k, v, n_head, fused=fused, kv_f16=True, **on), rounded)


def test_a_long_context_of_halves_is_within_the_stated_bound(on: On) -> None:
    q, k, v, _ = case(768, 1, 8)
    assert_within(kernels.attention(q, k, v, 1, kv_f16=True, **on), answer_f16(768, 1, 8))


def test_every_value_is_rounded_to_the_nearest_half_and_the_even_one_of_two(on: On) -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[1:] + halves[:-1]) / 2
    around = [np.nextafter(between, np.float32(0)), np.nextafter(between, np.float32(np.inf))]
    v = np.concatenate([halves, between, *around])
    v = np.concatenate([v, -v])[None]
    none = np.zeros_like(v)
    assert_same_bits(kernels.attention(none, none, v, 1, kv_f16=True, **on), stored_f16(v) + np.float32(0))


def test_a_finite_number_stays_finite_and_an_infinity_or_nan_what_it_is(on: On) -> None:
    large = [65504, 65519.996, 65520, 65535, 65536, 1e5, 3.4028235e38, np.inf, np.nan]
    kept = [65504] * 7 + [np.inf, np.nan]
    tiny = [2.0**-24, 2.0**-25, np.nextafter(np.float32(2.0**-25), np.float32(1)), 1e-45, 0.0]
    v = np.array([*large, *tiny], np.float32)[None]
    expected = np.array([*kept, 2.0**-24, 0, 2.0**-24, 0, 0], np.float32)[None]
    for sign in (1, -1):
        for n in range(1, v.shape[1] + 1):  # at the end of a register, and inside of it
            none = np.zeros((1, n), np.float32)
            out = kernels.attention(none, none, sign * v[:, -n:], 1, kv_f16=True, **on)
            np.testing.assert_array_equal(out, sign * expected[:, -n:])


def test_k_and_v_beyond_the_largest_half_do_not_spoil_a_row(on: On) -> None:
    q, k, v, _ = case(37, 2, 17)
    k, v = k * np.float32(1e5), v * np.float32(1e5)
    out = kernels.attention(q, k, v, 2, kv_f16=True, **on)
    assert np.isfinite(out).all()
    assert_same_bits(out, kernels.attention(q, stored_f16(k), stored_f16(v), 2, **on))


def test_halves_are_not_floats(on: On) -> None:
    q, k, v, _ = case(33, 3, 64)
    floats = kernels.attention(q, k, v, 3, **on)
    halves = kernels.attention(q, k, v, 3, kv_f16=True, **on)
    assert (bits(floats) != bits(halves)).mean() > 0.9
    np.testing.assert_allclose(halves, floats, atol=0.01)


def test_torch_agrees(on: On) -> None:
    torch = optional("torch")
    q, k, v, (_, bound) = case(65, 3, 64)
    heads = (torch.from_numpy(array).reshape(65, 3, 64).transpose(0, 1) for array in (q, k, v))
    theirs = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
    theirs = theirs.transpose(0, 1).reshape(65, 192).double().numpy()
    assert_within(kernels.attention(q, k, v, 3, **on), (theirs, 2 * bound))
