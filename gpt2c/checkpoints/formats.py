"""The formats q8 and q4 in NumPy: how quantized matrices are laid out, and which weights they stand for.

native/quantized.h defines both formats; the structured dtypes here are its structs. In a file, a quantized
matrix is a tensor of dtype U8, [bytes], laid out as in memory, and `quantization` in the folder's
`config.json` names the format. A new format is a `Format` here and an entry of `FORMATS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._files import quoted
from ..errors import ConfigError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Integers = NDArray[np.integer]
Blocks = NDArray[np.void]
"""Blocks of a matrix, [panels, blocks]."""

Columns = NDArray[np.void]
"""What a format stores per column, [panels]; empty for a format that stores nothing per column."""

PANEL = 32
"""Columns in a panel, which are the lanes of a block."""

VERSION = 1
"""The version of the formats' layout; incremented whenever the layout changes."""

MAX_WEIGHT = np.float32(1e15)
"""Magnitudes above this are clipped when quantizing, so that no scale overflows; as in native/quantized.c."""


@dataclass(frozen=True)
class Format:
    """A format of quantized matrices: w = scale * q - offset, with integers q in [min_q, max_q].

    order: the steps of k in a block as axes (outer, inner, step). block, columns: the structs. scales: gives
    scale and offset of each block and lane, float32 [panels, blocks, 32]. has_sound_scales: whether
    quantizing could have made every scale, so that every weight is finite. unpack: from the q of blocks to
    integers [panels, blocks, outer, inner, 32, step]. pack: from such integers, as bytes, to the q of blocks.
    """

    name: str
    order: tuple[int, int, int]
    min_q: int
    max_q: int
    block: np.dtype[np.void]
    columns: np.dtype[np.void]
    scales: Callable[[Blocks, Columns], tuple[Floats, Floats]]
    has_sound_scales: Callable[[Blocks, Columns], bool]
    unpack: Callable[[Integers], Integers]
    pack: Callable[[Integers], Integers]

    @property
    def rows(self) -> int:
        """Steps of k in a block."""
        return math.prod(self.order)

    def n_blocks(self, n_in: int, n_out: int) -> tuple[int, int]:
        """(panels, blocks per panel) of a matrix [n_in, n_out]."""
        return -(-n_out // PANEL), -(-n_in // self.rows)

    def n_bytes(self, n_in: int, n_out: int) -> int:
        """Bytes of a matrix [n_in, n_out], padding included."""
        panels, blocks = self.n_blocks(n_in, n_out)
        return panels * (blocks * self.block.itemsize + self.columns.itemsize)

    def split(self, stored: Bytes, n_in: int, n_out: int) -> tuple[Blocks, Columns]:
        """Views of a stored matrix [n_in, n_out]: its blocks, and its data per column."""
        panels, blocks = self.n_blocks(n_in, n_out)
        end = panels * blocks * self.block.itemsize
        columns = stored[end:].view(self.columns) if self.columns.itemsize else np.empty(0, self.columns)
        return stored[:end].view(self.block).reshape(panels, blocks), columns

    def is_sound(self, stored: Bytes, n_in: int, n_out: int) -> bool:
        """Whether quantizing could have made every scale; then every weight is finite."""
        return self.has_sound_scales(*self.split(stored, n_in, n_out))

    def dequantize(self, stored: Bytes, n_in: int, n_out: int) -> Floats:
        """A stored matrix as float32 [n_in, n_out], bit for bit what `gpt2c_matrix_at` gives."""
        scale, offset = self.scales_of_weights(stored, n_in, n_out)
        return scale * self.integers(stored, n_in, n_out).astype(np.float32) - offset

    def scales_of_weights(self, stored: Bytes, n_in: int, n_out: int) -> tuple[Floats, Floats]:
        """Scale and offset of every weight of a stored matrix, each [n_in, n_out]."""

        def per_weight(x: Floats) -> Floats:
            rows = x.transpose(1, 0, 2).reshape(x.shape[1], -1)[:, :n_out]  # [block, n_out]
            return np.repeat(rows, self.rows, axis=0)[:n_in]

        scale, offset = self.scales(*self.split(stored, n_in, n_out))
        return per_weight(scale), per_weight(offset)

    def integers(self, stored: Bytes, n_in: int, n_out: int) -> Integers:
        """The integers of a stored matrix, [n_in, n_out]."""
        blocks, _ = self.split(stored, n_in, n_out)
        q = self.unpack(blocks["q"])  # [panel, block, ., ., lane, step]
        return q.transpose(1, 2, 3, 5, 0, 4).reshape(-1, len(q) * PANEL)[:n_in, :n_out]

    def with_integers(self, stored: Bytes, q: Integers) -> Bytes:
        """A copy of a stored matrix with other integers: q [n_in, n_out], and 0 in the padding."""
        copy = np.array(stored)
        blocks, _ = self.split(copy, *q.shape)
        panels, n = blocks.shape
        padded = np.zeros((n * self.rows, panels * PANEL), np.uint8)
        padded[: q.shape[0], : q.shape[1]] = q.astype(np.int8).view(np.uint8)
        parts = padded.reshape(n, *self.order, panels, PANEL)
        blocks["q"] = self.pack(parts.transpose(4, 0, 1, 2, 5, 3))
        return copy


def _q8_scales(blocks: Blocks, columns: Columns) -> tuple[Floats, Floats]:
    scale = (blocks["scale"].astype(np.uint32) << np.uint32(16)).view(np.float32)
    return scale, np.zeros_like(scale)


def _q8_is_sound(blocks: Blocks, columns: Columns) -> bool:
    # The bits of NaN, infinity and negative values are larger than those of any finite positive bfloat16.
    maximum = (int((MAX_WEIGHT / np.float32(127)).view(np.uint32)) + 0xFFFF) >> 16
    return bool((blocks["scale"] <= maximum).all())


def _q4_scales(blocks: Blocks, columns: Columns) -> tuple[Floats, Floats]:
    scale = columns["scale"][:, None] * blocks["scale"].astype(np.float32)
    return scale, columns["offset"][:, None] * blocks["offset"].astype(np.float32)


def _q4_is_sound(blocks: Blocks, columns: Columns) -> bool:
    both = np.concatenate([columns["scale"], columns["offset"]])
    return bool(((both >= 0) & (both <= MAX_WEIGHT)).all())


Q8 = Format(
    name="q8",
    order=(2, 8, 4),  # group, quad, step
    min_q=-127,
    max_q=127,
    # q: [group, quad, lane, step]. The scale is a bfloat16 as its 16 bits.
    block=np.dtype([("q", "i1", (2, 8, PANEL, 4)), ("scale", "<u2", PANEL)]),
    columns=np.dtype([]),
    scales=_q8_scales,
    has_sound_scales=_q8_is_sound,
    unpack=lambda q: q,
    pack=lambda q: q.view(np.int8),
)

Q4 = Format(
    name="q4",
    order=(4, 2, 4),  # pair of quads, half, step
    min_q=0,
    max_q=15,
    # q: [pair of quads, lane, step], with even quads in the low half of each byte and odd ones in the high
    # half. A block's scale and offset are multiples of the column's, which are stored after all blocks.
    block=np.dtype([("q", "u1", (4, PANEL, 4)), ("scale", "u1", PANEL), ("offset", "u1", PANEL)]),
    columns=np.dtype([("scale", "<f4", PANEL), ("offset", "<f4", PANEL)]),
    scales=_q4_scales,
    has_sound_scales=_q4_is_sound,
    unpack=lambda q: np.stack([q & 15, q >> 4], axis=3),
    pack=lambda q: q[:, :, :, 0] | q[:, :, :, 1] << 4,
)

FORMATS: Mapping[str, Format] = {format.name: format for format in (Q8, Q4)}
"""Formats by name."""


def format_of(fields: Mapping[str, object], name: str = "config.json") -> Format | None:
    """The format of the matrices according to a config's fields; None if they are floats.

    ConfigError: an unknown format, or another version of it.
    """
    entry = fields.get("quantization")
    if entry is None:
        return None
    format = entry.get("format") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(format, str) or format not in FORMATS:
        raise ConfigError(f"{name}: quantization {quoted(entry)} is not supported ({', '.join(FORMATS)} are)")
    if type(entry.get("version")) is not int or entry["version"] != VERSION:
        version = quoted(entry.get("version"))
        raise ConfigError(f"{name}: quantization has version {version}; this gpt2c reads version {VERSION}")
    return FORMATS[format]
