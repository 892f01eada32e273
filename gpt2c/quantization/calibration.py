"""Rounding weights with error feedback: the error of each rounded weight is compensated by later weights.

A calibration text runs through the model, layer by layer. The inputs x of a matrix show which errors matter:
with H = x^T x, the rows k of the matrix are rounded one after the other, and the error of each row is spread
over the rows that are not rounded yet so as to minimize |x (w - rounded w)| (Frantar et al. 2022, "GPTQ").
The scales are those of plain rounding. Only the integers change, so the format stays the same. The inputs of
a layer are computed with the rounded matrices of the layers before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .. import kernels, reference
from ..checkpoints.checkpoint import Checkpoint, TensorSpec
from ..checkpoints.formats import FORMATS, Bytes, Floats, Format

N_WINDOWS = 32
"""Maximum number of windows of n_ctx tokens that are used; more windows gave no measurable gain."""

_BLOCK = 64  # rows whose errors are applied to all later blocks at once
_DAMPING = 0.01  # this share of H's mean diagonal is added to the diagonal, for inputs that are never active

Rounded = Callable[[TensorSpec], Bytes]
"""Gives the stored bytes of a matrix after plain rounding."""


def feed_errors(stored: Bytes, format: Format, w: Floats, h: NDArray[np.float64]) -> Bytes:
    """A copy of a stored matrix whose integers are rounded with error feedback.

    stored: the matrix after plain rounding, whose scales are used; w: its weights [n_in, n_out]; h: x^T x of
    its inputs, [n_in, n_in].
    """
    n_in, n_out = w.shape
    scale, offset = format.scales_of_weights(stored, n_in, n_out)
    mean = float(np.mean(np.diag(h)))
    if not mean > 0:  # the matrix had no input other than 0
        return stored
    inverse = np.linalg.inv(h + np.eye(n_in) * (_DAMPING * mean))
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    target = w.astype(np.float32)
    q = np.empty((n_in, n_out), np.int16)
    for first in range(0, n_in, _BLOCK):
        end = min(first + _BLOCK, n_in)
        errors = np.empty((end - first, n_out), np.float32)
        for k in range(first, end):
            with np.errstate(divide="ignore", invalid="ignore"):
                exact = np.where(scale[k] > 0, (target[k] + offset[k]) / scale[k], 0)
            q[k] = np.clip(np.rint(exact), format.min_q, format.max_q)
            errors[k - first] = (target[k] - (scale[k] * q[k] - offset[k])) / upper[k, k]
            target[k + 1 : end] -= upper[k, k + 1 : end, None] * errors[k - first]
        target[end:] -= upper[first:end, end:].T @ errors
    return format.with_integers(stored, q)


def calibrated_order(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The matrices in the order in which `calibrated` yields them: as the model uses them, the head last."""
    matrices = [spec for spec in specs if spec.is_matrix]
    inside = [spec for spec in matrices if spec.layer >= 0]
    return [*inside, *(spec for spec in matrices if spec.layer < 0)]


def calibrated(
    checkpoint: Checkpoint, format: str, ids: Sequence[int], rounded: Rounded
) -> Iterator[tuple[TensorSpec, Bytes]]:
    """Yield the matrices of a model, rounded with error feedback, in `calibrated_order`.

    format: a key of `FORMATS`. ids: token ids of the calibration text. It should have at least n_ctx tokens;
    at most N_WINDOWS * n_ctx are used.
    """
    c = checkpoint.config
    specs = {spec.name: spec for spec in checkpoint.specs()}
    has_kernel = c.activation_function == "gelu_new"
    act = kernels.gelu if has_kernel else reference.ACTIVATIONS[c.activation_function]
    divisors = reference.divisors(c)
    windows = [list(ids[i : i + c.n_ctx]) for i in range(0, min(len(ids), N_WINDOWS * c.n_ctx), c.n_ctx)]

    def p(name: str) -> Floats:
        return checkpoint.array(specs[name])

    def norm(x: Floats, name: str) -> Floats:
        return kernels.layernorm(x, p(f"{name}.weight"), p(f"{name}.bias"), c.layer_norm_epsilon)

    done: dict[str, Bytes] = {}

    def round_matrix(name: str, inputs: list[Floats]) -> Floats:
        """Round a matrix for these inputs, and return it dequantized, [n_in, n_out]."""
        spec = specs[name]
        w = p(name).T if spec.is_transposed else p(name)
        h = sum((x.T @ x).astype(np.float64) for x in inputs)
        done[name] = feed_errors(rounded(spec), FORMATS[format], w, np.asarray(h))
        return FORMATS[format].dequantize(done[name], *w.shape)

    def linear(name: str, inputs: list[Floats]) -> list[Floats]:
        w, bias = round_matrix(f"{name}.weight", inputs), p(f"{name}.bias")
        return [x @ w + bias for x in inputs]

    def attend(qkv: Floats, divisor: float) -> Floats:
        q, k, v = np.split(qkv, 3, axis=-1)
        scale = math.sqrt(c.n_embd // c.n_head) / divisor  # the kernel itself divides by the root
        return kernels.attention(q * np.float32(scale), k, v, c.n_head)

    wte, wpe = p("wte.weight"), p("wpe.weight")
    xs = [wte[window] + wpe[: len(window)] for window in windows]
    del wte, wpe
    for layer in range(c.n_layer):
        h = f"h.{layer}"
        qkv = linear(f"{h}.attn.c_attn", [norm(x, f"{h}.ln_1") for x in xs])
        attended = [attend(window, divisors[layer]) for window in qkv]
        xs = [x + y for x, y in zip(xs, linear(f"{h}.attn.c_proj", attended), strict=True)]
        inner = linear(f"{h}.mlp.c_fc", [norm(x, f"{h}.ln_2") for x in xs])
        xs = [
            x + y
            for x, y in zip(
                xs,
                linear(f"{h}.mlp.c_proj", [act(x).astype(np.float32, copy=False) for x in inner]),
                strict=True,
            )
        ]
        for name in list(done):
            yield specs[name], done.pop(name)
    head = "wte.weight" if c.tie_word_embeddings else "lm_head.weight"
    if head != "wte.weight":
        yield specs["wte.weight"], rounded(specs["wte.weight"])
    round_matrix(head, [norm(x, "ln_f") for x in xs])
    yield specs[head], done.pop(head)
