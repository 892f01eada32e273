"""kernels.softmax: probabilities of a row of scores."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_oracle import EPS, SIZES, assert_same_bits, assert_within, normal, softmax
from references import optional

from gpt2c import kernels

On = dict[str, str]


@pytest.mark.parametrize("spread", [1e-40, 1.0, 10.0, 60.0])
def test_every_size_is_within_the_stated_bound(on: On, spread: float) -> None:
    for n in SIZES:
        x = (normal(3, n) * spread).astype(np.float32)
        assert_within(kernels.softmax(x, **on), softmax(x))


def test_large_scores_do_not_overflow(on: On) -> None:
    for n in SIZES:
        x = normal(3, n) * np.float32(5) + np.float32(1e30)
        assert_within(kernels.softmax(x, **on), softmax(x))
    np.testing.assert_array_equal(kernels.softmax([3e38, -3e38, 3e38], **on), [0.5, 0, 0.5])


def test_the_largest_score_is_found_wherever_it_is(on: On) -> None:
    for n in SIZES:
        at = np.linspace(0, n - 1, min(n, 100)).astype(int)
        x = np.zeros((len(at), n), np.float32)
        x[np.arange(len(at)), at] = 200  # e^200 is no float32
        assert_within(kernels.softmax(x, **on), softmax(x))


@pytest.mark.parametrize("n", [2, 33])
def test_the_exponential_itself_is_within_the_stated_bound(on: On, n: int) -> None:
    """Beside a score of 0 such small ones leave the sum at 1, and their exponentials come out bare."""
    x = np.linspace(-87.3, -21.5, 4000 * (n - 1), dtype=np.float32)[1:-1]
    rows = np.full((4000, n), -30, np.float32)
    rows[:, 0] = 0
    rows[:, 1:].flat[: x.size] = x
    exact = np.exp(rows[:, 1:].astype(np.float64))
    assert_within(kernels.softmax(rows, **on)[:, 1:], (exact, 3 * EPS * exact))
    rows[:, 1:] = -87.5
    assert (kernels.softmax(rows, **on) == [1] + (n - 1) * [0]).all()


def test_a_row_alone_has_the_bits_it_has_among_many(on: On) -> None:
    for n in (1, 7, 33, 97, 768):
        x = normal(9, n)
        whole = kernels.softmax(x, **on)
        for r in range(len(x)):
            assert_same_bits(kernels.softmax(x[r], **on), whole[r])


def test_a_masked_score_gets_no_probability(on: On) -> None:
    for n in SIZES:
        x = normal(3, n)
        x[:, n // 2 + 1 :] = -np.inf
        out = kernels.softmax(x, **on)
        assert (out[:, n // 2 + 1 :] == 0).all()
        assert_within(out, softmax(x))


def test_nan_and_infinity_make_the_row_nan_and_no_other(on: On) -> None:
    for n in (1, 5, 17, 33):
        for at in {0, n // 2, n - 1}:
            for special in (np.nan, np.inf):
                x = normal(3, n)
                expected = kernels.softmax(x, **on)
                x[1, at] = special
                out = kernels.softmax(x, **on)
                assert np.isnan(out[1, at])
                assert np.isnan(out[1]).all() or special == np.inf
                assert_same_bits(out[::2], expected[::2])
        assert np.isnan(kernels.softmax(np.full((1, n), -np.inf), **on)).all()


def test_equal_scores_share_equally(on: On) -> None:
    for n in SIZES:
        out = kernels.softmax(np.full(n, 2.5), **on)
        assert_same_bits(out, np.full(n, np.float32(1) / np.float32(n)))


def test_torch_agrees(on: On) -> None:
    torch = optional("torch")
    x = normal(7, 768) * np.float32(5)
    theirs = torch.softmax(torch.from_numpy(x), dim=-1).numpy()
    ours = kernels.softmax(x, **on)
    assert_within(ours, (theirs.astype(np.float64), 2 * softmax(x)[1]))
