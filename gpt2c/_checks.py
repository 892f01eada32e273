"""Argument checks that several modules share: token ids and numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError, TokenError

Ids = Sequence[int] | NDArray[np.integer]


def as_ids(ids: Ids, n_vocab: int) -> NDArray[np.int32]:
    """Return token ids as an int32 array [n].

    Raises TokenError if `ids` is empty, not flat, not integers, or has an id outside [0, n_vocab).
    """
    if isinstance(ids, (str, bytes)):
        raise TokenError(f"token ids are needed, not {type(ids).__name__}")
    try:
        array = np.asarray(ids)
    except ValueError:
        raise TokenError("token ids must be one flat list, not lists of several lengths") from None
    if array.ndim != 1:
        raise TokenError(f"token ids must be one flat list, not an array of shape {array.shape}")
    if array.size == 0:
        raise TokenError("the prompt is empty: at least one token is needed")
    if array.dtype.kind not in "iu":
        raise TokenError(f"token ids must be integers, not {array.dtype}")
    if array.min() < 0 or array.max() >= n_vocab:
        bad = next(int(i) for i in array if not 0 <= i < n_vocab)
        raise TokenError(f"token id {bad} is outside the vocabulary (0 to {n_vocab - 1})")
    return np.ascontiguousarray(array, np.int32)


def n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two sequences."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def is_real(value: object) -> bool:
    """Whether the value is a finite number of Python or NumPy; a bool is not."""
    return is_integer(value) or (isinstance(value, (float, np.floating)) and math.isfinite(value))


def is_integer(value: object) -> bool:
    """Whether the value is an integer of Python or NumPy; a bool is not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def whole_number(
    name: str, value: object, minimum: int = 0, maximum: int | None = None, note: str = ""
) -> int:
    """Return the value as an int in [minimum, maximum], or raise OptionError, which calls it `name`.

    note: text that the message adds after the range.
    """
    try:
        n = operator.index(value)  # type: ignore[arg-type]  # raises TypeError for any other type
    except TypeError:
        n = minimum - 1
    if n < minimum or isinstance(value, bool) or (maximum is not None and n > maximum):
        bounds = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise OptionError(f"{name} must be an integer {bounds}{note}, not {value!r}")
    return n
