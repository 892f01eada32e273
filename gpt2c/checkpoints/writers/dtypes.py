"""Conversion of float32 arrays to the bytes of a file's dtype."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import ModelFileError

# our name -> (name in safetensors, bytes per element, name in config.json)
DTYPES = {"f32": ("F32", 4, "float32"), "f16": ("F16", 2, "float16"), "bf16": ("BF16", 2, "bfloat16")}
NAME_OF_STORED = {stored: name for name, (stored, _, _) in DTYPES.items()}


def encode(values: NDArray[np.float32], dtype: str) -> NDArray[np.uint8]:
    """The elements in a dtype, as little-endian bytes [n]; rounded to nearest, ties to even.

    dtype: a key of `DTYPES`. `ModelFileError`: a finite element is too large for the dtype and would become
    infinite.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if dtype == "f32":
        return flat.astype("<f4", copy=False).view(np.uint8)
    if dtype == "f16":
        with np.errstate(over="ignore"):
            rounded = flat.astype("<f2")
        _refuse_overflow(np.isinf(rounded), flat, dtype)
        return rounded.view(np.uint8)
    bits = flat.view(np.uint32)
    upper = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    nan = np.isnan(flat)  # the addition may have turned a NaN into infinity or 0
    upper[nan] = bits[nan] >> np.uint32(16) | np.uint32(0x40)
    _refuse_overflow(upper & np.uint32(0x7FFF) == 0x7F80, flat, dtype)
    return upper.astype("<u2").view(np.uint8)


def _refuse_overflow(infinite: NDArray[np.bool_], values: NDArray[np.float32], dtype: str) -> None:
    overflowed = infinite & np.isfinite(values)
    if overflowed.any():
        raise ModelFileError(f"the weight {values[overflowed][0]:g} is too large for {dtype}")
