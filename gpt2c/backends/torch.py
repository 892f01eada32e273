"""GPT-2 written out in PyTorch with a cache of K and V: the library's arithmetic, none of its models."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..checkpoints.checkpoint import Checkpoint
from ..reference import divisors

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
}


class Backend:
    """See `cached.Backend`. The cache is float32 [n_layer, K or V, n_head, n_ctx, head_dim]."""

    weights = "f32"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._config = checkpoint.config
        self._act = ACTIVATIONS[checkpoint.config.activation_function]
        self._divisors = divisors(checkpoint.config)
        self._p = {spec.name: torch.from_numpy(checkpoint.array(spec)) for spec in checkpoint.specs()}
        self.weight_bytes = sum(tensor.nbytes for tensor in self._p.values())

    def new_cache(self) -> Tensor:
        c = self._config
        return torch.empty((c.n_layer, 2, c.n_head, c.n_ctx, c.n_embd // c.n_head))

    @torch.inference_mode()
    def hidden(self, ids: NDArray[np.int32], n_past: int, cache: Tensor) -> Tensor:
        end = n_past + len(ids)
        x = self._p["wte.weight"][torch.from_numpy(ids).long()] + self._p["wpe.weight"][n_past:end]
        for layer, stored in enumerate(cache):
            h = f"h.{layer}"
            qkv = self._linear(self._norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")  # [n, 3 n_embd]
            q, k, v = (self._heads(part) for part in qkv.chunk(3, dim=-1))
            stored[0, :, n_past:end], stored[1, :, n_past:end] = k, v
            attended = attention(q, stored[0, :, :end], stored[1, :, :end], self._divisors[layer])
            x = x + self._linear(attended.transpose(0, 1).reshape(x.shape), f"{h}.attn.c_proj")
            inner = self._linear(self._norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")  # [n, n_inner]
            x = x + self._linear(self._act(inner), f"{h}.mlp.c_proj")
        return self._norm(x, "ln_f")

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self._p.get("lm_head.weight", self._p["wte.weight"]).T

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return torch.addmm(self._p[f"{name}.bias"], x, self._p[f"{name}.weight"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._p[f"{name}.weight"], self._p[f"{name}.bias"]
        return functional.layer_norm(x, weight.shape, weight, bias, self._config.layer_norm_epsilon)

    def _heads(self, x: Tensor) -> Tensor:
        """[n, n_embd] -> [n_head, n, head_dim]"""
        return x.reshape(len(x), self._config.n_head, -1).transpose(0, 1)


def attention(q: Tensor, k: Tensor, v: Tensor, divisor: float) -> Any:
    """Causal: q [n_head, n, head_dim] of the last n positions; k, v [n_head, end, head_dim] -> as q.

    divisor: what the scores are divided by.
    """
    n, end = q.shape[1], k.shape[1]
    scores = q @ k.transpose(-1, -2) / divisor  # [n_head, n, end]
    if n > 1:  # the last position attends to all: nothing to mask
        scores.masked_fill_(torch.ones(n, end, dtype=torch.bool).triu(end - n + 1), -math.inf)
    return scores.softmax(dim=-1) @ v
