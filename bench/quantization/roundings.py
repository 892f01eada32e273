"""What quantization does to a model: the roundings to compare, errors of weights, errors of predictions.

Each rounding is written to a folder like those of `gpt2c quantize`, so all of them run through the same
kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpt2c
from gpt2c import bindings
from gpt2c.bindings import Outputs
from gpt2c.checkpoints import formats as quantized
from gpt2c.checkpoints.checkpoint import Checkpoint, TensorSpec, load_checkpoint
from gpt2c.checkpoints.formats import Bytes, Floats
from gpt2c.quantization.write import write_quantized

PROMPTS = ("Once upon a time", "'I am ready,' said Holmes,", "It was a dark night, and the sea")
N_NEW = 64

# ---- Roundings ----


def nearest_q4(w: Floats, stored: Bytes) -> Bytes:
    """Round to nearest over each group's whole range, without search or fit, in the layout of q4."""
    n_in, n_out = w.shape
    copy = np.array(stored)
    blocks, columns = quantized.FORMATS["q4"].split(copy, n_in, n_out)
    panels, n = blocks.shape
    padded = np.zeros((n * 32, panels * quantized.PANEL), np.float32)
    padded[:n_in, :n_out] = w
    groups = padded.reshape(n, 32, panels, quantized.PANEL).transpose(
        2, 0, 1, 3
    )  # [panel, group, step, lane]
    offset = -np.minimum(groups.min(2), 0)
    scale = (np.maximum(groups.max(2), 0) + offset) / 15
    for name, values in (("scale", scale), ("offset", offset)):
        largest = values.max(1) / 255  # [panel, lane]
        columns[name] = largest
        step = np.where(largest > 0, largest, 1)[:, None]
        blocks[name] = np.where(largest[:, None] > 0, np.rint(values / step), 0)
    return with_nearest("q4", copy, w)


def column_q8(w: Floats, stored: Bytes) -> Bytes:
    """Use one scale for a whole column instead of one for 64 of its weights."""
    copy = np.array(stored)
    blocks, _ = quantized.FORMATS["q8"].split(copy, *w.shape)
    # The bits of positive bfloat16 numbers are ordered like their values.
    blocks["scale"] = blocks["scale"].max(1, keepdims=True)
    return with_nearest("q8", copy, w)


def with_nearest(format: str, stored: Bytes, w: Floats) -> Bytes:
    layout = quantized.FORMATS[format]
    scale, offset = layout.scales_of_weights(stored, *w.shape)
    exact = np.divide(w + offset, scale, out=np.zeros_like(w), where=scale > 0)
    q = np.clip(np.rint(exact), layout.min_q, layout.max_q).astype(np.int16)
    return layout.with_integers(stored, q)


@dataclass(frozen=True)
class Rounding:
    """A way to quantize. simpler: replaces gpt2c's own rounding, if given."""

    name: str
    format: str
    what: str
    simpler: Callable[[Floats, Bytes], Bytes] | None = None
    calibrated: bool = False


ROUNDINGS = (
    Rounding("q8", "q8", "a scale for 64 weights of a column"),
    Rounding("q8 by column", "q8", "one scale per column", column_q8),
    Rounding("q8 calibrated", "q8", "and errors fed back, with a calibration text", calibrated=True),
    Rounding("q4", "q4", "each group's range searched, then fitted"),
    Rounding("q4 nearest", "q4", "each group's whole range", nearest_q4),
    Rounding("q4 calibrated", "q4", "and errors fed back, with a calibration text", calibrated=True),
)


def write_rounding(rounding: Rounding, source: Path, folder: Path, ids: Sequence[int]) -> None:
    """Write the model `source`, rounded this way, to a new folder. ids: of the calibration text."""
    with load_checkpoint(source) as checkpoint:

        def requantize(spec: TensorSpec, stored: Bytes) -> Bytes:
            if rounding.simpler is None or not spec.is_matrix:
                return stored
            return rounding.simpler(matrix_of(checkpoint, spec), stored)

        write_quantized(
            checkpoint,
            folder,
            rounding.format,
            calibrate=ids if rounding.calibrated else (),
            requantize=requantize,
        )


def matrix_of(checkpoint: Checkpoint, spec: TensorSpec) -> Floats:
    """The matrix [n_in, n_out] of a tensor."""
    w = checkpoint.array(spec)
    return w.T if spec.is_transposed else w


# ---- Errors of weights ----


@dataclass(frozen=True)
class WeightError:
    """The error of all matrices of a kind.

    relative: the error's Euclidean length divided by that of the weights; ratio: bytes relative to float32.
    """

    kind: str
    shape: tuple[int, int]
    count: int
    rmse: float
    largest: float
    relative: float
    ratio: float


def weight_errors(exact: Checkpoint, rounded: Checkpoint) -> list[WeightError]:
    """The errors of each kind of matrix, in the order of the model."""
    by_kind: dict[str, list[TensorSpec]] = {}
    for spec in exact.specs():
        if spec.is_matrix:
            by_kind.setdefault(spec.kind, []).append(spec)
    rows = []
    for kind, specs in by_kind.items():
        squares = weights = largest = 0.0
        n_bytes = n = 0
        for spec in specs:
            w = exact.array(spec).astype(np.float64)
            error = w - rounded.array(spec)
            squares, weights = squares + float((error**2).sum()), weights + float((w**2).sum())
            largest, n = max(largest, float(np.abs(error).max())), n + w.size
            stored = rounded.quantized(spec.kind, spec.layer)
            assert stored is not None
            n_bytes += stored[1].nbytes
        shape = specs[0].shape
        rows.append(
            WeightError(
                kind,
                (shape[0], shape[1]),
                len(specs),
                math.sqrt(squares / n),
                largest,
                math.sqrt(squares / weights),
                n_bytes / (4 * n),
            )
        )
    return rows


# ---- Errors of predictions ----


@dataclass
class TextResult:
    """Sums over the predicted tokens of a text, compared with the predictions of float32."""

    n: int = 0
    nll: float = 0.0
    divergence: float = 0.0
    same_top: int = 0

    def add(self, exact: Floats, found: Floats, targets: NDArray[np.int64]) -> None:
        """exact, found: log-probabilities [n, n_vocab]; targets [n]."""
        self.n += len(targets)
        self.nll -= float(found[np.arange(len(targets)), targets].sum(dtype=np.float64))
        self.divergence += float((np.exp(exact) * (exact - found)).sum(dtype=np.float64))
        self.same_top += int((exact.argmax(-1) == found.argmax(-1)).sum())

    def record(self, n_bytes: int) -> dict[str, float]:
        """Means per token. divergence: in nats; n_bytes: UTF-8 bytes of the predicted tokens."""
        return {
            "tokens": self.n,
            "perplexity": math.exp(self.nll / self.n),
            "bits_per_byte": self.nll / math.log(2) / n_bytes,
            "divergence": self.divergence / self.n,
            "top_1": self.same_top / self.n,
        }


Logits = Callable[[NDArray[np.int64]], Floats]


def log_softmax(logits: Floats) -> Floats:
    shifted: Floats = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def compare(
    exact: Logits, others: Mapping[str, Logits], windows: Sequence[NDArray[np.int64]], n_bytes: int
) -> dict[str, dict[str, float]]:
    """Run all models on all windows. Each token after a window's first is predicted from those before it."""
    results = {name: TextResult() for name in ("f32", *others)}
    for window in windows:
        targets = window[1:]
        reference = log_softmax(exact(window)[:-1])
        results["f32"].add(reference, reference, targets)
        for name, logits in others.items():
            results[name].add(reference, log_softmax(logits(window)[:-1]), targets)
    return {name: result.record(n_bytes) for name, result in results.items()}


def windows_of(ids: Sequence[int], n_ctx: int, max_windows: int) -> list[NDArray[np.int64]]:
    """The text in whole windows of n_ctx tokens: all of them, or max_windows of them, spread evenly."""
    whole = np.asarray(ids[: len(ids) // n_ctx * n_ctx], np.int64).reshape(-1, n_ctx)
    chosen: Iterable[int] = range(len(whole))
    if 0 < max_windows < len(whole):
        chosen = np.linspace(0, len(whole) - 1, max_windows).astype(int)
    return [whole[i] for i in chosen]


# ---- The head's x ----


def head_of_one_part(model: gpt2c.Model, checkpoint: Checkpoint) -> Logits:
    """The logits of a quantized model if its head also took x rounded once to int8, as other layers do.

    They are computed in NumPy from the model's own hidden states. The kernels use x in two parts there.
    """
    spec = next(checkpoint.specs())
    head = matrix_of(checkpoint, spec)

    def logits(ids: NDArray[np.int64]) -> Floats:
        hidden = np.empty((len(ids), model.config.n_embd), np.float32)
        binding = bindings.select()
        binding.Session(model._handle.opened()).feed(ids.astype(np.int32), Outputs(hidden=hidden))
        return np.asarray(round_once(hidden) @ head)

    return logits


def round_once(x: Floats) -> Floats:
    """Round x [n, n_embd] to int8 with a scale per 32 elements, and convert back (see native/quantized.h)."""
    groups = x.reshape(len(x), -1, 32)
    largest = np.abs(groups).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.asarray((np.rint(groups * inverse) * (largest / 127)).reshape(x.shape))


# ---- Text ----


def greedy(model: gpt2c.Model, exact: gpt2c.Model) -> list[dict[str, Any]]:
    """For each prompt, how many greedy tokens come before the first that differs from float32."""
    rows = []
    for prompt in PROMPTS:
        ours, theirs = (m.generate(prompt, N_NEW).ids for m in (model, exact))
        pairs = enumerate(zip(ours, theirs, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        rows.append({"prompt": prompt, "same_tokens": same, "tokens": len(theirs)})
    return rows


def as_records(rows: Sequence[WeightError]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def folders(source: Path, base: Path, ids: Sequence[int]) -> Iterator[tuple[Rounding, Path]]:
    """Write every rounding of a model below `base`."""
    for rounding in ROUNDINGS:
        if rounding.calibrated and not ids:
            continue
        folder = base / rounding.name.replace(" ", "-")
        write_rounding(rounding, source, folder, ids)
        yield rounding, folder
