"""kernels.attention: each position looks at those up to its own."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from kernel_oracle import Answer, assert_same_bits, assert_within, attention, normal
from numpy.typing import NDArray

from gpt2c import bindings, kernels

On = dict[str, str]
Floats = NDArray[np.float32]

LENGTHS = (*range(1, 18), 31, 32, 33, 63, 64, 65, 97)
HEADS = ((1, 1), (3, 5), (2, 16), (2, 17), (1, 97), (3, 64))


@cache
def case(n: int, n_head: int, head_dim: int) -> tuple[Floats, Floats, Floats, Answer]:
    q, k, v = (normal(n, n_head * head_dim, seed=seed) for seed in range(3))
    return q, k, v, attention(q, k, v, n_head)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("n_head", "head_dim"), HEADS)
def test_every_size_is_within_the_stated_bound(on: On, n_head: int, head_dim: int, fused: bool) -> None:
    for n in LENGTHS:
        q, k, v, answer = case(n, n_head, head_dim)
        assert_within(kernels.attention(q, k, v, n_head, fused=fused, **on), answer)


def test_a_long_context_is_within_the_stated_bound(on: On) -> None:
    q, k, v, answer = case(768, 1, 8)
    assert_within(kernels.attention(q, k, v, 1, **on), answer)


@pytest.mark.parametrize(("n_head", "head_dim"), HEADS)
def test_fused_has_the_bits_of_separate_passes(on: On, n_head: int, head_dim: int) -> None:
    for n in LENGTHS:
        q, k, v, _ = case(n, n_head, head_dim)
        separate = kernels.attention(q, k, v, n_head, fused=False, **on)
        assert_same_bits(kernels.attention(q, k, v, n_head, fused=True, **on), separate)


@pytest.mark.parametrize(("n_head", "head_dim"), [(3, 5), (2, 64)])
def test_positions_in_chunks_have_the_bits_of_all_at_once(on: On, n_head: int, head_dim: int) -> None:
    q, k, v, _ = case(65, n_head, head_dim)
    whole = kernels.attention(q, k, v, n_head, **on)
    for n in (1, 15, 16, 17, 33, 65):
        for n_past in range(n + 1):
            rows = kernels.attention(q[:n], k[:n], v[:n], n_head, n_past, **on)
            assert_same_bits(rows, whole[n_past:n])


@pytest.mark.parametrize("n_past", [0, 5])
def test_any_rows_and_heads_have_the_bits_of_the_whole(on: On, n_past: int) -> None:
    q, k, v, _ = case(40, 4, 16)
    whole = kernels.attention(q, k, v, 4, n_past, **on)
    for rows in ((0, 1), (0, 16), (3, 20), (16, 35), (34, 35), (7, 7)):
        for heads in ((0, 4), (0, 1), (1, 3), (3, 4), (2, 2)):
            part = kernels.attention(q, k, v, 4, n_past, rows=rows, heads=heads, **on)
            assert_same_bits(part, whole[slice(*rows), heads[0] * 16 : heads[1] * 16])


def test_nothing_is_written_outside_the_span(on: On) -> None:
    q, k, v, _ = case(20, 4, 5)
    binding = bindings.load(on["binding"])
    isa = [name for name, _, _ in binding.isas()].index(on["isa"])
    flat = [array.reshape(-1) for array in (q, k, v)]
    for rows in ((0, 16), (2, 9), (15, 16)):
        for heads in ((0, 4), (1, 3), (3, 4)):
            out = np.full(16 * 20 + 3, 7.0, np.float32)
            binding.op_attention(isa, out[1:-2], *flat, 20, 4, 4, 5, True, rows, heads)
            expected = np.full((16, 20), 7.0, np.float32)
            part = kernels.attention(q, k, v, 4, 4, rows=rows, heads=heads, **on)
            expected[slice(*rows), heads[0] * 5 : heads[1] * 5] = part
            assert_same_bits(out[1:-2].reshape(16, 20), expected)
            assert out[0] == 7 and (out[-2:] == 7).all()


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_no_position_sees_a_later_one(on: On, special: float) -> None:
    q, k, v, _ = case(37, 2, 17)
    whole = kernels.attention(q, k, v, 2, **on)
    for at in (1, 16, 20, 36):
        spoiled = [array.copy() for array in (q, k, v)]
        for array in spoiled:
            array[at:] = special
        out = kernels.attention(*spoiled, 2, **on)
        assert_same_bits(out[:at], whole[:at])
        assert np.isnan(out[at:]).all()


def test_a_nan_stays_in_its_head(on: On) -> None:
    q, k, v, _ = case(37, 3, 5)
    whole = kernels.attention(q, k, v, 3, **on)
    k = k.copy()
    k[20, 7] = np.nan
    out = kernels.attention(q, k, v, 3, **on)
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


def test_torch_agrees(on: On) -> None:
    torch = pytest.importorskip("torch")
    q, k, v, (_, bound) = case(65, 3, 64)
    heads = (torch.from_numpy(array).reshape(65, 3, 64).transpose(0, 1) for array in (q, k, v))
    theirs = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
    theirs = theirs.transpose(0, 1).reshape(65, 192).double().numpy()
    assert_within(kernels.attention(q, k, v, 3, **on), (theirs, 2 * bound))
