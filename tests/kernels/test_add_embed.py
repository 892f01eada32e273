"""kernels.add and kernels.embed: one rounding a number, so the bits are NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_oracle import SIZES, SPECIAL, assert_same_bits, normal

from gpt2c import TokenError, kernels

On = dict[str, str]


def test_every_length_is_rounded_once(on: On) -> None:
    for n in SIZES:
        a, b = normal(3, n), normal(3, n, seed=1)
        assert_same_bits(kernels.add(a, b, **on), a + b)


def test_special_numbers_add_as_ieee_says(on: On) -> None:
    a, b = (array.ravel() for array in np.meshgrid(SPECIAL, SPECIAL))
    with np.errstate(invalid="ignore", over="ignore"):
        expected = a + b
    out = kernels.add(a, b, **on)
    np.testing.assert_array_equal(out, expected)
    numbers = ~np.isnan(expected)
    assert_same_bits(out[numbers], expected[numbers])


@pytest.mark.parametrize("n_vocab", [1, 31, 65, 97])
def test_a_token_is_its_row_of_the_embedding_plus_its_position(on: On, layout: str, n_vocab: int) -> None:
    for n_embd in SIZES:
        wte, wpe = normal(n_vocab, n_embd), normal(12, n_embd, seed=1)
        ids = np.random.default_rng(n_embd).integers(0, n_vocab, 9)
        ids[0] = n_vocab - 1
        out = kernels.embed(ids, wte, wpe, 3, layout, **on)
        assert_same_bits(out, wte[ids] + wpe[3:12])


def test_the_output_head_serves_as_the_embedding(on: On) -> None:
    wte, wpe = normal(40, 17), normal(8, 17, seed=1)
    head = kernels.pack(wte.T, binding=on["binding"])
    assert_same_bits(kernels.embed([3, 39], head, wpe, **on), wte[[3, 39]] + wpe[:2])


@pytest.mark.parametrize("bad", [-1, 40])
def test_an_id_outside_the_vocabulary_is_named(on: On, bad: int) -> None:
    with pytest.raises(TokenError, match=f"token id {bad} is outside"):
        kernels.embed([0, bad], normal(40, 17), normal(8, 17), **on)
