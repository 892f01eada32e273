"""GPT-2 in NumPy on one page: the oracle that everything else in gpt2c is compared with.

Nothing here is optimized, cached between calls, or shared with the C core: `logits` computes every position
from the token ids at each call. Read it before native/forward.c, which has the same steps.

Sources: Radford et al. 2019 for the model, Hendrycks and Gimpel 2016 for GELU, Ba et al. 2016 for layer
norm, Vaswani et al. 2017 for attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .checkpoints.checkpoint import Checkpoint
from .config import ModelConfig

Array = Any  # an array of the parameters' dtype; shapes are in the docstrings
Parameters = dict[str, NDArray[Any]]


def parameters(checkpoint: Checkpoint, dtype: DTypeLike = np.float64) -> Parameters:
    """All tensors by name ("wte.weight", "h.0.attn.c_attn.weight", ...), converted to dtype."""
    return {spec.name: checkpoint.array(spec).astype(dtype) for spec in checkpoint.specs()}


def gelu(x: Array) -> Array:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), elementwise."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_table(x: Array) -> Array:
    """GELU through fp16, elementwise: x and the result are rounded to fp16; 0 for x <= -10, x for x >= 10."""
    with np.errstate(over="ignore", invalid="ignore"):
        looked_up = gelu(x.astype(np.float16).astype(np.float64)).astype(np.float16).astype(x.dtype)
    return np.where(x <= -10, 0, np.where(x >= 10, x, looked_up))


def gelu_erf(x: Array) -> Array:
    """x/2 (1 + erf(x / sqrt(2))), elementwise; a config calls it "gelu"."""
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


_erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has no erf


def relu(x: Array) -> Array:
    """max(x, 0), elementwise."""
    return np.maximum(x, 0)


ACTIVATIONS = {"gelu_new": gelu, "gelu": gelu_erf, "relu": relu}
"""The activations by their names in a config."""


def layernorm(x: Array, weight: Array, bias: Array, epsilon: float) -> Array:
    """[..., n] -> [..., n], each row with mean 0 and variance 1, then scaled and shifted."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias


def softmax(x: Array) -> Array:
    """Softmax along the last axis."""
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def attention(q: Array, k: Array, v: Array, divisor: float = 0) -> Array:
    """Causal attention: q, k, v [n_head, n, head_dim] -> the same; position i attends to positions 0..i.

    divisor: what the scores are divided by; 0 for sqrt(head_dim).
    """
    n, head_dim = q.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) / (divisor or np.sqrt(head_dim))
    scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
    return softmax(scores) @ v


def divisors(config: ModelConfig) -> list[float]:
    """The divisor of the attention scores in each layer, [n_layer]."""
    first = math.sqrt(config.n_embd // config.n_head) if config.scale_attn_weights else 1.0
    by_layer = config.scale_attn_by_inverse_layer_idx
    return [first * (layer + 1 if by_layer else 1) for layer in range(config.n_layer)]


def hidden(
    ids: Sequence[int],
    p: Parameters,
    n_head: int,
    epsilon: float,
    act: Any = gelu,
    divisors: Sequence[float] = (),
) -> Array:
    """Token ids [n] -> hidden states [n, n_embd] after the final layer norm.

    act: one of `ACTIVATIONS`; divisors: those of `divisors()`, empty for sqrt(head_dim) in every layer.
    """
    n = len(ids)
    n_layer = 1 + max(int(name.split(".")[1]) for name in p if name.startswith("h."))

    def linear(x: Array, name: str) -> Array:  # [n, n_in] -> [n, n_out]
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        return layernorm(x, p[f"{name}.weight"], p[f"{name}.bias"], epsilon)

    def heads(x: Array) -> Array:  # [n, n_embd] -> [n_head, n, head_dim]
        return x.reshape(n, n_head, -1).swapaxes(0, 1)

    x = p["wte.weight"][list(ids)] + p["wpe.weight"][:n]
    for layer in range(n_layer):
        h = f"h.{layer}"
        q, k, v = np.split(linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn"), 3, axis=-1)
        attended = attention(heads(q), heads(k), heads(v), divisors[layer] if divisors else 0)
        attended = attended.swapaxes(0, 1).reshape(n, -1)
        x = x + linear(attended, f"{h}.attn.c_proj")
        x = x + linear(act(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")), f"{h}.mlp.c_proj")
    return norm(x, "ln_f")


def logits(
    ids: Sequence[int],
    p: Parameters,
    n_head: int,
    epsilon: float,
    act: Any = gelu,
    divisors: Sequence[float] = (),
) -> Array:
    """Token ids [n] -> logits [n, n_vocab] of every position. A tied head is the embedding."""
    head = p.get("lm_head.weight", p["wte.weight"])
    return hidden(ids, p, n_head, epsilon, act, divisors) @ head.T
