"""Linear layers in Numba: of float32, and of q8 and q4 as they are stored, multiplied in integers.

Nothing is dequantized: activations are rounded to int8 in groups of 32, products are summed exactly, and
each group's sum is scaled, as native/kernels/ref/linear_int8.c does it. Needs the extra `numba`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..checkpoints import formats as quantized
from ..checkpoints.formats import Bytes, Floats

_GROUP = 32  # numbers of x, and steps of k, with one scale
_LANES = quantized.PANEL
_Q8_BYTES = quantized.Q8_BLOCK.itemsize
_Q4_BYTES = quantized.Q4_BLOCK.itemsize


class Linear:
    """A matrix [n_in, n_out], float32 or stored in a format. Call it with x [rows, n_in]: [rows, n_out]."""

    def __init__(self, weight: NDArray[Any], n_in: int, n_out: int, format: str = "f32") -> None:
        """weight: of "f32" float32 [n_in, n_out], else the stored bytes, uint8, of which no copy is made."""
        self._shape = n_in, n_out
        self._format = format
        self._stored = weight
        self.weight_bytes = weight.nbytes
        if format == "f32":
            self._weight: NDArray[Any] = np.ascontiguousarray(weight, np.float32)
            return
        blocks, columns = quantized.split(format, weight, n_in, n_out)
        self._weight = weight.view(np.int8) if format == "q8" else weight
        if format == "q8":
            self._scale = (blocks["scale"].astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            self._columns = columns["scale"].copy(), columns["least"].copy()

    def __call__(self, x: Floats) -> Floats:
        n_in, n_out = self._shape
        x = np.ascontiguousarray(x, np.float32)
        if self._format == "f32":
            out = np.zeros((len(x), n_out), np.float32)
            _linear_f32(out, x, self._weight)
            return out
        panels, _ = quantized.n_blocks(self._format, n_in, n_out)
        padded = np.empty((len(x), panels * _LANES), np.float32)
        groups = -(-n_in // 64) * 2
        q, scale = np.zeros((len(x), groups * _GROUP), np.int8), np.zeros((len(x), groups), np.float32)
        _round(q, scale, x)
        if self._format == "q8":
            _linear_q8(padded, q, scale, self._weight, self._scale)
        else:
            _linear_q4(padded, q, scale, self._weight, *self._columns, -(-n_in // _GROUP))
        return padded[:, :n_out]

    def columns(self, wanted: Sequence[int]) -> Floats:
        """Some columns as float32 [len(wanted), n_in]: rows of an embedding whose head this is."""
        n_in, n_out = self._shape
        if self._format == "f32":
            return np.ascontiguousarray(self._weight[:, wanted].T)
        blocks, columns = quantized.split(self._format, self._stored, n_in, n_out)
        found = np.empty((len(wanted), n_in), np.float32)
        for row, column in zip(found, wanted, strict=True):
            panel, lane = divmod(column, _LANES)
            parts = (blocks, columns) if len(columns) else (blocks,)
            alone = [part[panel : panel + 1].view(np.uint8).ravel() for part in parts]
            row[:] = quantized.dequantize(self._format, np.concatenate(alone), n_in, _LANES)[:, lane]
        return found


@njit(cache=True)
def _round(q: NDArray[np.int8], scale: Floats, x: Floats) -> None:
    """x [rows, n_in] to q [rows, groups * 32] and a scale for each group; ties to even."""
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
    """Tasks are 256 columns; in each, k in order, as in the C kernels."""
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
    """w: blocks of Q8_BLOCK as bytes; w_scale: [panels, blocks, 32]; out: [rows, panels * 32]."""
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
    column_least: Floats,
    n_blocks: int,
) -> None:
    """w: blocks of Q4_BLOCK as bytes; column_scale and _least: [panels, 32]; out: [rows, panels * 32]."""
    half = 4 * _LANES  # bytes of a pair of quads
    for p in prange(column_scale.shape[0]):
        integers = np.empty(_LANES, np.int32)
        for r in range(out.shape[0]):
            sums = out[r, p * _LANES : (p + 1) * _LANES]
            sums[:] = np.float32(0)
            for g in range(n_blocks):
                block = (p * n_blocks + g) * _Q4_BYTES
                integers[:] = 0
                of_x = np.int32(0)
                for k in range(_GROUP):
                    of_x += np.int32(q[r, g * _GROUP + k])
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
                x_sum = scale[r, g] * np.float32(of_x)
                scales = w[block + 4 * half : block + 4 * half + _LANES]
                leasts = w[block + 4 * half + _LANES : block + 4 * half + 2 * _LANES]
                for lane in range(_LANES):
                    w_scale = column_scale[p, lane] * np.float32(scales[lane])
                    least = column_least[p, lane] * np.float32(leasts[lane])
                    sums[lane] += w_scale * (scale[r, g] * np.float32(integers[lane])) - least * x_sum
