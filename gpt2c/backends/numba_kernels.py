"""Linear layers in Numba, for matrices in float32, q8 and q4. Needs the extra `numba`.

A quantized matrix is not dequantized: activations are rounded to int8 in groups of 32, the integer products
of a group are summed exactly, and the sum is scaled, as in native/kernels/ref/linear_int8.c.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..checkpoints.formats import PANEL, Q4, Q8, Bytes, Floats, Format

_GROUP = 32  # elements of x, and steps of k, that share one scale
_LANES = PANEL
_Q8_BYTES = Q8.block.itemsize
_Q4_BYTES = Q4.block.itemsize


class Linear(Protocol):
    """A matrix [n_in, n_out], in float32 or quantized. A call with x [rows, n_in] returns [rows, n_out]."""

    weight_bytes: int

    def __call__(self, x: Floats) -> Floats: ...
    def columns(self, wanted: Sequence[int]) -> Floats:
        """The given columns as float32 [len(wanted), n_in]. Columns of the head are rows of the embedding."""


class LinearF32:
    """A `Linear` whose matrix is float32 [n_in, n_out]."""

    def __init__(self, weight: NDArray[Any]) -> None:
        self._weight = np.ascontiguousarray(weight, np.float32)
        self.weight_bytes = self._weight.nbytes

    def __call__(self, x: Floats) -> Floats:
        out = np.zeros((len(x), self._weight.shape[1]), np.float32)
        _linear_f32(out, np.ascontiguousarray(x, np.float32), self._weight)
        return out

    def columns(self, wanted: Sequence[int]) -> Floats:
        return np.ascontiguousarray(self._weight[:, wanted].T)


class LinearStored(ABC):
    """A `Linear` whose matrix is quantized: uint8 bytes as `format` lays them out, not copied."""

    format: Format

    def __init__(self, stored: Bytes, n_in: int, n_out: int) -> None:
        self._stored, self._n_in, self._n_out = stored, n_in, n_out
        self._blocks, self._columns = self.format.split(stored, n_in, n_out)
        self.weight_bytes = stored.nbytes

    def __call__(self, x: Floats) -> Floats:
        padded = np.empty((len(x), len(self._blocks) * PANEL), np.float32)
        groups = -(-self._n_in // 64) * 2
        q, scale = np.zeros((len(x), groups * _GROUP), np.int8), np.zeros((len(x), groups), np.float32)
        _round(q, scale, np.ascontiguousarray(x, np.float32))
        self._multiply(padded, q, scale)
        return padded[:, : self._n_out]

    @abstractmethod
    def _multiply(self, out: Floats, q: NDArray[np.int8], scale: Floats) -> None:
        """Write x times the matrix to out [rows, panels * 32].

        x is q [rows, groups * 32], each group of 32 multiplied by its scale in `scale` [rows, groups].
        """

    def columns(self, wanted: Sequence[int]) -> Floats:
        found = np.empty((len(wanted), self._n_in), np.float32)
        for row, column in zip(found, wanted, strict=True):
            panel, lane = divmod(column, PANEL)
            stored_panel = [part[panel : panel + 1].view(np.uint8).ravel() for part in self._parts()]
            row[:] = self.format.dequantize(np.concatenate(stored_panel), self._n_in, PANEL)[:, lane]
        return found

    def _parts(self) -> tuple[NDArray[np.void], ...]:
        return (self._blocks, self._columns) if len(self._columns) else (self._blocks,)


class LinearQ8(LinearStored):
    format = Q8

    def __init__(self, stored: Bytes, n_in: int, n_out: int) -> None:
        super().__init__(stored, n_in, n_out)
        self._scale, _ = Q8.scales(self._blocks, self._columns)

    def _multiply(self, out: Floats, q: NDArray[np.int8], scale: Floats) -> None:
        _linear_q8(out, q, scale, self._stored.view(np.int8), self._scale)


class LinearQ4(LinearStored):
    format = Q4

    def __init__(self, stored: Bytes, n_in: int, n_out: int) -> None:
        super().__init__(stored, n_in, n_out)
        self._column_scale = self._columns["scale"].copy()
        self._column_offset = self._columns["offset"].copy()

    def _multiply(self, out: Floats, q: NDArray[np.int8], scale: Floats) -> None:
        n_blocks = self._blocks.shape[1]
        _linear_q4(out, q, scale, self._stored, self._column_scale, self._column_offset, n_blocks)


STORED: dict[str, type[LinearStored]] = {"q8": LinearQ8, "q4": LinearQ4}
"""The classes of quantized linear layers, by the format's name."""


@njit(cache=True)
def _round(q: NDArray[np.int8], scale: Floats, x: Floats) -> None:
    """Round x [rows, n_in] to q [rows, groups * 32] with scale [rows, groups]; ties to even."""
    for r in range(x.shape[0]):
        for g in range(scale.shape[1]):
            begin, end = g * _GROUP, min((g + 1) * _GROUP, x.shape[1])
            largest = np.float32(0)
            for k in range(begin, end):
                largest = max(largest, abs(x[r, k]))
            if largest < np.float32(2.0**-100):
                continue
            scale[r, g] = largest / np.float32(127)
            inverse = np.float32(127) / largest
            for k in range(begin, end):
                q[r, k] = np.int8(np.rint(x[r, k] * inverse))


@njit(parallel=True, cache=True)
def _linear_f32(out: Floats, x: Floats, w: Floats) -> None:
    """out [rows, n_out] = x [rows, n_in] @ w [n_in, n_out]. A task is 256 columns; k in order, as in C."""
    n_out = w.shape[1]
    for task in prange((n_out + 255) // 256):
        begin, end = task * 256, min(task * 256 + 256, n_out)
        for r in range(x.shape[0]):
            sums = np.zeros(end - begin, np.float32)
            for k in range(w.shape[0]):
                row = w[k, begin:end]
                for c in range(end - begin):
                    sums[c] += x[r, k] * row[c]
            out[r, begin:end] = sums


@njit(parallel=True, cache=True)
def _linear_q8(out: Floats, q: NDArray[np.int8], scale: Floats, w: NDArray[np.int8], w_scale: Floats) -> None:
    """`_multiply` for q8. w: the blocks as bytes; w_scale: [panels, blocks, 32]; out: [rows, panels * 32]."""
    panels, n_blocks = w_scale.shape[0], w_scale.shape[1]
    for p in prange(panels):
        integers = np.empty(_LANES, np.int32)
        for r in range(out.shape[0]):
            sums = out[r, p * _LANES : (p + 1) * _LANES]
            sums[:] = np.float32(0)
            for g in range(2 * n_blocks):
                block = (p * n_blocks + g // 2) * _Q8_BYTES + g % 2 * (_GROUP * _LANES)
                integers[:] = 0
                for quad in range(_GROUP // 4):
                    x0 = np.int32(q[r, g * _GROUP + 4 * quad])
                    x1 = np.int32(q[r, g * _GROUP + 4 * quad + 1])
                    x2 = np.int32(q[r, g * _GROUP + 4 * quad + 2])
                    x3 = np.int32(q[r, g * _GROUP + 4 * quad + 3])
                    row = w[block + quad * 4 * _LANES : block + (quad + 1) * 4 * _LANES]
                    for lane in range(_LANES):
                        at = 4 * lane
                        integers[lane] += (
                            x0 * row[at] + x1 * row[at + 1] + x2 * row[at + 2] + x3 * row[at + 3]
                        )
                for lane in range(_LANES):
                    sums[lane] += w_scale[p, g // 2, lane] * (scale[r, g] * np.float32(integers[lane]))


@njit(parallel=True, cache=True)
def _linear_q4(
    out: Floats,
    q: NDArray[np.int8],
    scale: Floats,
    w: Bytes,
    column_scale: Floats,
    column_offset: Floats,
    n_blocks: int,
) -> None:
    """`_multiply` for q4. w: the blocks as bytes; column_scale and _offset: [panels, 32]; out as for q8."""
    half = 4 * _LANES  # bytes of a pair of quads
    for p in prange(column_scale.shape[0]):
        integers = np.empty(_LANES, np.int32)
        for r in range(out.shape[0]):
            sums = out[r, p * _LANES : (p + 1) * _LANES]
            sums[:] = np.float32(0)
            for g in range(n_blocks):
                block = (p * n_blocks + g) * _Q4_BYTES
                integers[:] = 0
                q_sum = np.int32(0)
                for k in range(_GROUP):
                    q_sum += np.int32(q[r, g * _GROUP + k])
                for pair in range(4):
                    first = g * _GROUP + 8 * pair
                    row = w[block + pair * half : block + (pair + 1) * half]
                    for lane in range(_LANES):
                        total = np.int32(0)
                        for step in range(4):
                            byte = np.int32(row[4 * lane + step])
                            total += np.int32(q[r, first + step]) * (byte & 15)
                            total += np.int32(q[r, first + 4 + step]) * (byte >> 4)
                        integers[lane] += total
                x_sum = scale[r, g] * np.float32(q_sum)
                scales = w[block + 4 * half : block + 4 * half + _LANES]
                offsets = w[block + 4 * half + _LANES : block + 4 * half + 2 * _LANES]
                for lane in range(_LANES):
                    w_scale = column_scale[p, lane] * np.float32(scales[lane])
                    offset = column_offset[p, lane] * np.float32(offsets[lane])
                    sums[lane] += w_scale * (scale[r, g] * np.float32(integers[lane])) - offset * x_sum
