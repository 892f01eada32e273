"""What the kernels shall compute, in float64, and how far they may be off: the bounds of native/kernels.h."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2c import reference

Array = NDArray[Any]
Answer = tuple[Array, Array]  # exact, bound

SIZES = (*range(1, 18), 31, 32, 33, 63, 64, 65, 97, 768, 3072)
EPS = 2.0**-24
TINY = 2.0**-150
CUT = 1.3e-38
SPECIAL = np.array(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-45,
        -1e-45,
        1e-39,
        1.2e-38,
        -1.2e-38,
        3e38,
        -3e38,
        1e-20,
    ],
    np.float32,
)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def bits(array: Array) -> NDArray[np.uint32]:
    return np.ascontiguousarray(array, np.float32).view(np.uint32)


def assert_same_bits(actual: Array, expected: Array) -> None:
    np.testing.assert_array_equal(bits(actual), bits(expected), strict=True)


def assert_within(actual: Array, answer: Answer) -> None:
    exact, bound = answer
    assert actual.dtype == np.float32
    assert actual.shape == exact.shape
    error = np.abs(actual.astype(np.float64) - exact)
    wrong = ~(error <= bound)
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, error / bound, 0)), error.shape)
        message = f"{wrong.sum()} of {wrong.size} are off; at {tuple(map(int, worst))}: {actual[worst]!r},"
        raise AssertionError(f"{message} exact {exact[worst]!r}, bound {bound[worst]!r}")


def rounded(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """To bfloat16, ties to even: the upper half of a float32 after adding what rounds it."""
    bits = x.view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32)


def _groups(x: Array, size: int) -> NDArray[np.float32]:
    """[..., n] -> [..., ceil(n / size), size], padded by 0."""
    n = x.shape[-1]
    padded = np.pad(x.astype(np.float32), [(0, 0)] * (x.ndim - 1) + [(0, -n % size)])
    return padded.reshape(*x.shape[:-1], -1, size)


def int8_rounded(x: Array) -> NDArray[np.float64]:
    """x [..., n] as the integer formats take it: scale * int8, a scale for each 32; finite numbers."""
    groups = _groups(x, 32)
    largest = np.abs(groups).max(axis=-1, keepdims=True)
    some = largest >= np.float32(2.0**-100)
    inverse = np.float32(127) / np.where(some, largest, np.float32(1))
    scale = np.where(some, largest / np.float32(127), np.float32(0))
    q = np.where(some, np.rint(groups * inverse), np.float32(0))
    rounded = scale.astype(np.float64) * q
    return np.asarray(rounded.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]])


def q8_stored(w: Array) -> NDArray[np.float32]:
    """Weights [n_in, n_out] as q8 stores them: scale * int8, a bfloat16 scale for each 64 of a column."""
    groups = _groups(np.clip(w, -1e15, 1e15).T, 64)
    exact = np.abs(groups).max(axis=-1, keepdims=True) / np.float32(127)
    scale = ((exact.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    q = np.rint(groups / np.where(scale > 0, scale, np.float32(1)))
    stored = scale * (np.clip(q, -127, 127) + np.float32(0))  # an integer has no -0
    return np.ascontiguousarray(stored.reshape(w.shape[1], -1)[:, : w.shape[0]].T)


def int8_linear(x: Array, stored: Array, size: Array, bias: Array) -> Answer:
    """The answer for stored weights and their sizes W, |scale q| + |offset|."""
    rounded, groups = int8_rounded(x), -(-stored.shape[0] // 32)
    exact = rounded @ stored.astype(np.float64) + bias
    scale = np.abs(rounded) @ size.astype(np.float64) + np.abs(bias)
    return exact, (2 * groups + 4) * EPS * scale + groups * TINY


def linear(x: Array, w: Array, bias: Array | None = None) -> Answer:
    x, w = x.astype(np.float64), w.astype(np.float64)
    b = np.zeros(w.shape[1]) if bias is None else bias.astype(np.float64)
    n_in = w.shape[0]
    return x @ w + b, (n_in + 2) * EPS * (np.abs(x) @ np.abs(w) + np.abs(b)) + n_in * TINY


def layernorm(x: Array, weight: Array, bias: Array, epsilon: float) -> Answer:
    x, weight, bias = (array.astype(np.float64) for array in (x, weight, bias))
    mean = x.mean(axis=-1, keepdims=True)
    std = np.sqrt(x.var(axis=-1, keepdims=True) + np.float64(np.float32(epsilon)))
    normalized = (x - mean) / std
    out = normalized * weight + bias
    scale = np.abs(weight) * (np.abs(normalized) + np.abs(mean) / std) + np.abs(bias) + np.abs(out)
    return out, 16 * EPS * scale + 2 * TINY * (1 + np.abs(weight))


def gelu(x: Array) -> Answer:
    """Without the cancellation in 1 + tanh u, which costs even float64 its digits at negative x."""
    x = x.astype(np.float64)
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    with np.errstate(over="ignore"):
        exact = x / (1 + np.exp(-2 * u))
    return exact, 8 * EPS * np.abs(exact) * (1 + np.abs(x) ** 3 / 8) + 1e-37


def gelu_erf(x: Array) -> Answer:
    """By erfc where 1 + erf would cancel."""
    x = x.astype(np.float64)
    exact = 0.5 * x * np.vectorize(math.erfc, otypes=[np.float64])(-x / np.sqrt(2))
    return exact, 12 * EPS * np.abs(exact) * (1 + x**2 / 4) + 1e-37


def softmax(x: Array) -> Answer:
    x = x.astype(np.float64)
    n = x.shape[-1]
    p = reference.softmax(x)
    below = np.where(p > 0, x.max(axis=-1, keepdims=True) - x, 0)  # 0 for a score of -inf
    return p, (n + np.log(n) + 8 + below) * EPS * p + CUT


def stored_f16(x: Array) -> NDArray[np.float32]:
    """K or V as kv_f16 stores it: the nearest half, but no infinity for a finite number."""
    max_half = np.float32(65504)
    limited = np.where(np.isfinite(x), np.clip(x, -max_half, max_half), x)
    return limited.astype(np.float16).astype(np.float32)


def attention(q: Array, k: Array, v: Array, n_head: int) -> Answer:
    n, n_embd = q.shape
    head_dim = n_embd // n_head
    q, k, v = (a.astype(np.float64).reshape(n, n_head, head_dim).swapaxes(0, 1) for a in (q, k, v))
    visible = np.tri(n, dtype=bool)
    scores = np.where(visible, q @ k.swapaxes(1, 2) / np.sqrt(head_dim), -np.inf)
    p = reference.softmax(scores)
    rough = np.where(visible, np.abs(q) @ np.abs(k).swapaxes(1, 2), 0).max(axis=-1, keepdims=True)
    d = (head_dim + 3) * EPS * rough / np.sqrt(head_dim) + TINY * head_dim
    below = np.where(visible, scores.max(axis=-1, keepdims=True) - scores, 0)
    seen = np.arange(1, n + 1)[:, None]
    relative = (2 * seen + np.log(seen) + 9 + below) * EPS + np.expm1(2 * d)
    bound = (p * relative + CUT * visible) @ np.abs(v) + seen * TINY
    joined = (a.swapaxes(0, 1).reshape(n, n_embd) for a in (p @ v, bound))
    return next(joined), next(joined)
