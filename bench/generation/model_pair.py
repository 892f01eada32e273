"""A model of GPT-2's 124M shape and a small draft that agrees with it on a chosen share of tokens.

Measuring speed does not need trained weights, but the gain of a draft depends on how often it is right. So
both models are constructed to know each token's successor. wte[t] is (a[t], a[successor of t]), where a are
random vectors. All layers are random as in tools/random_model.py, except for some columns of the last MLP,
which move the second half of x to the first: gelu(z) - gelu(-z) = z. The tied head then finds the
successor's a as the closest. The successors of all tokens form one cycle, so that nothing repeats. The draft
has the model's successors, except for a random share of tokens, for which it has other ones. That share is
its error rate, and each guess fails independently of the previous one.

Every matrix has its full size and random contents, so each operation takes as long as in a trained model,
and greedy ids are found with the same work. But the largest logit stands out more than in a trained model,
so head_screen leaves fewer candidates.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from gpt2c.checkpoints.checkpoint import tensor_specs
from gpt2c.config import parse_config
from shared.checkout import random_model

TARGET = "gpt2"
DRAFT = "L2-H4-E256-V50257-C1024"


def successors(n_vocab: int, seed: int) -> NDArray[np.int64]:
    """The successor of each token; together they form one cycle."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(n_vocab)
    following = np.empty(n_vocab, np.int64)
    following[order] = np.roll(order, -1)
    return following


def mostly(following: NDArray[np.int64], agreement: float, seed: int) -> NDArray[np.int64]:
    """The same successors for a random share of tokens, and other successors for all others."""
    random = np.random.Generator(np.random.PCG64(seed))
    differs = random.random(following.size) >= agreement
    other = following.copy()
    other[differs] = (
        following[differs] + random.integers(1, following.size, int(differs.sum()))
    ) % following.size
    return other


def write_model(folder: Path, shape: str, following: NDArray[np.int64], seed: int) -> Path:
    """Write a model of the shape whose greedy token is the successor of the last token."""
    fields = random_model.config_json(shape)
    fields["eos_token_id"] = None  # no token ends a generation
    text = json.dumps(fields)
    config = parse_config(text.encode(), shape)
    tensors: dict[str, NDArray[np.float32]] = {}
    by_kind: dict[tuple[str, int], NDArray[np.float32]] = {}
    for index, spec in enumerate(tensor_specs(config)):
        data = b"".join(random_model.tensor_bytes(spec, index, config, seed, "f32"))
        values = np.frombuffer(data, np.float32).reshape(spec.shape).copy()
        tensors[spec.name] = by_kind[spec.kind, max(spec.layer, 0)] = values
    _learn(by_kind, config.n_layer - 1, config.n_embd // 2, following, seed)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(text)
    return folder


def _learn(
    tensors: dict[tuple[str, int], NDArray[np.float32]],
    last: int,
    half: int,
    following: NDArray[np.int64],
    seed: int,
) -> None:
    random = np.random.Generator(np.random.PCG64([seed, 1 << 20]))
    a = random.standard_normal((following.size, half), np.float32)
    a /= np.linalg.norm(a, axis=1, keepdims=True) / np.sqrt(half)
    wte, fc, proj = tensors["wte", 0], tensors["mlp.c_fc.weight", last], tensors["mlp.c_proj.weight", last]
    wte[:, :half], wte[:, half:] = a, a[following]
    rows = np.arange(half)
    fc[:, : 2 * half] = 0
    tensors["mlp.c_fc.bias", last][: 2 * half] = 0
    fc[half + rows, rows], fc[half + rows, half + rows] = 1, -1
    proj[: 2 * half] = 0
    proj[rows, rows], proj[half + rows, rows] = 8, -8  # larger than a[t], which is in x, too
    for kind in ("ln_2", "ln_f"):
        layer = last if kind == "ln_2" else 0
        tensors[f"{kind}.weight", layer][:], tensors[f"{kind}.bias", layer][:] = 1, 0
    tensors["ln_f.weight", 0][half:] = 0
