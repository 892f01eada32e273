"""Files of token ids in llm.c's format: a header of 256 int32, then the ids as uint16.

The header holds a magic number, a version and the number of tokens; its remainder is 0.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2c._files import check_writable
from gpt2c.errors import Gpt2cError

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 1024
MAX_IDS = 1 << 16
"""Maximum size of a vocabulary whose ids fit into uint16."""


def is_token_file(path: Path) -> bool:
    """Whether a file starts with the magic number. Gpt2cError: it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == MAGIC.to_bytes(4, "little")
    except OSError as error:
        raise Gpt2cError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def read_tokens(path: Path) -> NDArray[np.uint16]:
    """The ids of a token file, uint16 [n], memory-mapped. Gpt2cError: it is not a valid token file."""
    if not is_token_file(path):
        raise Gpt2cError(f"{str(path)!r} is not a token file (tools/prepare_text.py writes them)")
    header = np.fromfile(path, "<i4", 3)
    n_bytes = os.path.getsize(path)
    version, n = (int(field) for field in header[1:]) if len(header) == 3 else (VERSION, 0)
    if version != VERSION:
        raise Gpt2cError(
            f"{str(path)!r} is a token file of version {version} (only version {VERSION} is supported)"
        )
    if n < 1 or n_bytes != HEADER_BYTES + 2 * n:
        raise Gpt2cError(f"{str(path)!r} claims {n:,} tokens, but has {n_bytes:,} bytes")
    return np.memmap(path, "<u2", "r", HEADER_BYTES, (n,))


def write_tokens(path: Path, ids: NDArray[np.uint16]) -> None:
    """Write a token file under a temporary name and rename it to `path`. Gpt2cError: nothing was changed."""
    check_writable(path)
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:3] = MAGIC, VERSION, len(ids)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(header.data)
            file.write(ids.astype("<u2", copy=False).data)
        os.replace(partial, path)
    except OSError as error:
        raise Gpt2cError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
