"""GPT-2 in NumPy with a cache of K and V: reference.py made incremental, in float32 throughout.

Constants are Python numbers: a NumPy float64 constant would turn a float32 array into a float64 one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoints.checkpoint import Checkpoint
from ..config import ModelConfig
from ..reference import divisors, gelu_erf, relu

Floats = NDArray[np.float32]


def gelu(x: Floats) -> Floats:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), elementwise (Hendrycks and Gimpel 2016)."""
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))))


def softmax(x: Floats) -> Floats:
    """Softmax along the last axis."""
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=-1, keepdims=True))


ACTIVATIONS = {"gelu_new": gelu, "gelu": gelu_erf, "relu": relu}


class Backend:
    """See `cached.Backend`. The cache is float32 [n_layer, K or V, n_head, n_ctx, head_dim]."""

    weights = "f32"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._configure(checkpoint.config)
        self._p = {spec.name: checkpoint.array(spec) for spec in checkpoint.specs()}
        self.weight_bytes = sum(array.nbytes for array in self._p.values())

    def _configure(self, config: ModelConfig) -> None:
        self._config = config
        self._act = ACTIVATIONS[config.activation_function]
        self._divisors = divisors(config)

    def new_cache(self) -> Floats:
        c = self._config
        return np.empty((c.n_layer, 2, c.n_head, c.n_ctx, c.n_embd // c.n_head), np.float32)

    def hidden(self, ids: NDArray[np.int32], n_past: int, cache: Floats) -> Floats:
        end = n_past + len(ids)
        x = self._embed(ids) + self._p["wpe.weight"][n_past:end]
        for layer, stored in enumerate(cache):
            h = f"h.{layer}"
            qkv = self._linear(self._norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")  # [n, 3 n_embd]
            q, k, v = (self._heads(part) for part in np.split(qkv, 3, axis=-1))
            stored[0, :, n_past:end], stored[1, :, n_past:end] = k, v
            attended = attention(q, stored[0, :, :end], stored[1, :, :end], self._divisors[layer])
            x = x + self._linear(attended.swapaxes(0, 1).reshape(x.shape), f"{h}.attn.c_proj")
            inner = self._linear(self._norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")  # [n, n_inner]
            x = x + self._linear(np.asarray(self._act(inner), np.float32), f"{h}.mlp.c_proj")
        return self._norm(x, "ln_f")

    def _embed(self, ids: NDArray[np.int32]) -> Floats:
        return self._p["wte.weight"][ids]

    def logits(self, hidden: Floats) -> Floats:
        return hidden @ self._p.get("lm_head.weight", self._p["wte.weight"]).T

    def _linear(self, x: Floats, name: str) -> Floats:
        return x @ self._p[f"{name}.weight"] + self._p[f"{name}.bias"]

    def _norm(self, x: Floats, name: str) -> Floats:
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        scale = self._p[f"{name}.weight"] / np.sqrt(variance + self._config.layer_norm_epsilon)
        return np.asarray((x - mean) * scale + self._p[f"{name}.bias"])

    def _heads(self, x: Floats) -> Floats:
        """[n, n_embd] -> [n_head, n, head_dim]"""
        return x.reshape(len(x), self._config.n_head, -1).swapaxes(0, 1)


def attention(q: Floats, k: Floats, v: Floats, divisor: float) -> Any:
    """Causal: q [n_head, n, head_dim] of the last n positions; k, v [n_head, end, head_dim] -> as q.

    divisor: what the scores are divided by.
    """
    n, end = q.shape[1], k.shape[1]
    scores = q @ k.swapaxes(-1, -2) / divisor  # [n_head, n, end]
    if n > 1:  # the last position attends to all: nothing to mask
        scores[:, np.triu(np.ones((n, end), bool), end - n + 1)] = -math.inf
    return softmax(scores) @ v
