"""The formats q8 and q4 in NumPy: how matrices in 8 and 4 bits lie, and what numbers they stand for.

native/quantized.h states both formats; the structured dtypes here are its structs. In files such a matrix
is a tensor of dtype U8, [bytes], as it lies in memory; the folder's `config.json` says so in `quantization`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .config import quoted
from .errors import ConfigError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

PANEL = 32
"""Columns side by side, the lanes of a block."""

VERSION = 1
"""Of how the formats lie; it grows with every change of that."""

Q8_BLOCK = np.dtype([("q", "i1", (2, 8, PANEL, 4)), ("scale", "<u2", PANEL)])
"""64 steps of k: [group, quad, lane, step], w = scale * q; the scale is a bfloat16's bits."""

Q4_BLOCK = np.dtype([("q", "u1", (4, PANEL, 4)), ("scale", "u1", PANEL), ("least", "u1", PANEL)])
"""32 steps of k: even quads in the lower halves of bytes, odd ones in the upper; w = scale * q - least."""

Q4_COLUMNS = np.dtype([("scale", "<f4", PANEL), ("least", "<f4", PANEL)])
"""What the scales and least values of a panel's blocks count in. They lie behind all blocks."""

LARGEST_WEIGHT = np.float32(1e15)
"""Larger ones are quantized as this, so that nothing made of a scale overflows; as in native/quantized.h."""

FORMATS = ("q8", "q4")
_STEPS = {"q8": 64, "q4": 32}
_BLOCKS = {"q8": Q8_BLOCK, "q4": Q4_BLOCK}
_COLUMN_BYTES = {"q8": 0, "q4": Q4_COLUMNS.itemsize}


def n_blocks(format: str, n_in: int, n_out: int) -> tuple[int, int]:
    """(panels, blocks of each) of a matrix [n_in, n_out]."""
    return -(-n_out // PANEL), -(-n_in // _STEPS[format])


def n_bytes(format: str, n_in: int, n_out: int) -> int:
    """Bytes of a matrix [n_in, n_out], padding included."""
    panels, blocks = n_blocks(format, n_in, n_out)
    return panels * (blocks * _BLOCKS[format].itemsize + _COLUMN_BYTES[format])


def split(format: str, stored: Bytes, n_in: int, n_out: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Views of a stored matrix: its blocks [panels, blocks] and, of q4, its columns [panels]."""
    panels, blocks = n_blocks(format, n_in, n_out)
    end = panels * blocks * _BLOCKS[format].itemsize
    return stored[:end].view(_BLOCKS[format]).reshape(panels, blocks), stored[end:].view(Q4_COLUMNS)


def is_sound(format: str, stored: Bytes, n_in: int, n_out: int) -> bool:
    """Whether every scale is one that quantizing makes; then every weight is a finite number."""
    blocks, columns = split(format, stored, n_in, n_out)
    if format == "q8":  # of a bfloat16's bits, those of NaN, infinity and what is negative are larger
        largest = (int((LARGEST_WEIGHT / np.float32(127)).view(np.uint32)) + 0xFFFF) >> 16
        return bool((blocks["scale"] <= largest).all())
    both = np.concatenate([columns["scale"], columns["least"]])
    return bool(((both >= 0) & (both <= LARGEST_WEIGHT)).all())


def dequantize(format: str, stored: Bytes, n_in: int, n_out: int) -> Floats:
    """A stored matrix as float32 [n_in, n_out], the very numbers that `gpt2c_matrix_at` gives."""
    scale, least, _ = steps(format, stored, n_in, n_out)
    return scale * _integers(format, stored, n_in, n_out).astype(np.float32) - least


def steps(format: str, stored: Bytes, n_in: int, n_out: int) -> tuple[Floats, Floats, int]:
    """Scale and least value of every weight of a stored matrix, [n_in, n_out], and the largest integer."""
    blocks, columns = split(format, stored, n_in, n_out)
    if format == "q8":
        scale = (blocks["scale"].astype(np.uint32) << np.uint32(16)).view(np.float32)  # [panel, block, lane]
        least = np.zeros_like(scale)
    else:
        scale = columns["scale"][:, None] * blocks["scale"].astype(np.float32)
        least = columns["least"][:, None] * blocks["least"].astype(np.float32)

    def of_each(x: Floats) -> Floats:
        rows = x.transpose(1, 0, 2).reshape(x.shape[1], -1)[:, :n_out]  # [block, n_out]
        return np.repeat(rows, _STEPS[format], axis=0)[:n_in]

    return of_each(scale), of_each(least), {"q8": 127, "q4": 15}[format]


def _integers(format: str, stored: Bytes, n_in: int, n_out: int) -> NDArray[np.integer]:
    """[n_in, n_out]"""
    q = split(format, stored, n_in, n_out)[0]["q"]  # of q8 [panel, block, group, quad, lane, step]
    if format == "q4":
        q = np.stack([q & 15, q >> 4], axis=3)  # [panel, block, pair of quads, half, lane, step]
    return q.transpose(1, 2, 3, 5, 0, 4).reshape(-1, len(q) * PANEL)[:n_in, :n_out]


def with_integers(format: str, stored: Bytes, q: NDArray[np.integer]) -> Bytes:
    """A copy of a stored matrix with other integers, [n_in, n_out]; the padding's are 0."""
    copy = np.array(stored)
    blocks, _ = split(format, copy, *q.shape)
    panels, n = blocks.shape
    padded = np.zeros((n * _STEPS[format], panels * PANEL), np.uint8)
    padded[: q.shape[0], : q.shape[1]] = q.astype(np.int8).view(np.uint8)
    parts = (
        padded.reshape(n, -1, 2, 4, panels, PANEL)
        if format == "q4"
        else padded.reshape(n, 2, 8, 4, panels, PANEL)
    )
    parts = parts.transpose(4, 0, 1, 2, 5, 3)  # [panel, block, ., ., lane, step]
    blocks["q"] = parts[:, :, :, 0] | parts[:, :, :, 1] << 4 if format == "q4" else parts.view(np.int8)
    return copy


def format_of(fields: Mapping[str, object], name: str = "config.json") -> str | None:
    """The format that a config's fields say the matrices have; None: they are floats.

    ConfigError: another format, or another version of it.
    """
    about = fields.get("quantization")
    if about is None:
        return None
    if not isinstance(about, dict) or about.get("format") not in FORMATS:
        raise ConfigError(f"{name}: quantization {quoted(about)} is not supported ({', '.join(FORMATS)} are)")
    if type(about.get("version")) is not int or about["version"] != VERSION:
        found = quoted(about.get("version"))
        raise ConfigError(f"{name}: quantization has version {found}; this gpt2c reads version {VERSION}")
    return str(about["format"])
