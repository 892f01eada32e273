"""Rounding weights with error feedback: what one weight loses by rounding, the weights behind it make up for.

A calibration text runs through the model, layer by layer. The inputs x of a matrix say which errors matter:
with H = x^T x, each row k of the matrix is rounded in turn, and the error is spread over the rows that are
not rounded yet so that |x (w - rounded w)| becomes smallest (Frantar et al. 2022, "GPTQ"). Scales stay those
that plain rounding has; only the integers change, so nothing changes for who reads them. Later layers see
what the rounded ones before them give.
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
"""Of n_ctx tokens of the calibration text; more gain nothing that shows."""

_BLOCK = 64  # rows whose errors are gathered before the rows behind them see them
_DAMPING = 0.01  # of H's mean diagonal, added to it: inputs that the text never had

Rounded = Callable[[TensorSpec], Bytes]
"""A matrix as plain rounding stores it."""


def feed_errors(stored: Bytes, format: Format, w: Floats, h: NDArray[np.float64]) -> Bytes:
    """A stored matrix with its integers rounded anew. w: its weights [n_in, n_out]; h: x^T x [n_in, n_in]."""
    n_in, n_out = w.shape
    scale, offset = format.scales_of_weights(stored, n_in, n_out)
    mean = float(np.mean(np.diag(h)))
    if not mean > 0:  # a matrix that the text never reached
        return stored
    inverse = np.linalg.inv(h + np.eye(n_in) * (_DAMPING * mean))
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
    left = w.astype(np.float32)
    q = np.empty((n_in, n_out), np.int16)
    for first in range(0, n_in, _BLOCK):
        end = min(first + _BLOCK, n_in)
        errors = np.empty((end - first, n_out), np.float32)
        for k in range(first, end):
            with np.errstate(divide="ignore", invalid="ignore"):
                exact = np.where(scale[k] > 0, (left[k] + offset[k]) / scale[k], 0)
            q[k] = np.clip(np.rint(exact), format.min_q, format.max_q)
            errors[k - first] = (left[k] - (scale[k] * q[k] - offset[k])) / upper[k, k]
            left[k + 1 : end] -= upper[k, k + 1 : end, None] * errors[k - first]
        left[end:] -= upper[first:end, end:].T @ errors
    return format.with_integers(stored, q)


def calibrated_order(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The matrices in the order in which `calibrated` gives them: as they run, the output head last."""
    matrices = [spec for spec in specs if spec.is_matrix]
    inside = [spec for spec in matrices if spec.layer >= 0]
    return [*inside, *(spec for spec in matrices if spec.layer < 0)]


def calibrated(
    checkpoint: Checkpoint, format: str, ids: Sequence[int], rounded: Rounded
) -> Iterator[tuple[TensorSpec, Bytes]]:
    """The matrices of a model, rounded with error feedback, in `calibrated_order`.

    ids: of the calibration text; at least one window of n_ctx is needed to be of use, N_WINDOWS are taken.
    """
    c = checkpoint.config
    specs = {spec.name: spec for spec in checkpoint.specs()}
    exact = c.activation_function == "gelu_new"
    act = kernels.gelu if exact else reference.ACTIVATIONS[c.activation_function]
    divisors = reference.divisors(c)
    windows = [list(ids[i : i + c.n_ctx]) for i in range(0, min(len(ids), N_WINDOWS * c.n_ctx), c.n_ctx)]

    def p(name: str) -> Floats:
        return checkpoint.array(specs[name])

    def norm(x: Floats, name: str) -> Floats:
        return kernels.layernorm(x, p(f"{name}.weight"), p(f"{name}.bias"), c.layer_norm_epsilon)

    done: dict[str, Bytes] = {}

    def round_matrix(name: str, inputs: list[Floats]) -> Floats:
        """Rounds a matrix for these inputs, and gives it dequantized, [n_in, n_out]."""
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
        scale = math.sqrt(c.n_embd // c.n_head) / divisor  # the kernel divides by the root itself
        return kernels.attention(q * np.float32(scale), k, v, c.n_head)

    wte, wpe = p("wte.weight"), p("wpe.weight")
    xs = [wte[window] + wpe[: len(window)] for window in windows]
    del wte, wpe
    for layer in range(c.n_layer):
        h = f"h.{layer}"
        qkv = linear(f"{h}.attn.c_attn", [norm(x, f"{h}.ln_1") for x in xs])
        attended = [attend(row, divisors[layer]) for row in qkv]
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
