"""Session files: they hold a session's state, so that another process can continue from it.

    bytes 0..7        "gpt2c se"
    8..11             length of the header, little-endian
    12..              header: JSON that identifies the model and plan of the state
    then              state: see gpt2c_session_get_state in include/gpt2c.h
    the last 32       SHA-256 of all bytes before

A state can only be loaded into the model that it was taken from: the same weights (compared by the
core's checksum), shape, instruction set and options. The number of threads and fusing do not matter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ._files import parse_json_object, read_bounded, replacing, sha256
from .errors import ModelFileError

MAGIC = b"gpt2c se"
_DIGEST_BYTES = 32
_MAX_HEADER_BYTES = 65536
_LENGTH_AT = slice(len(MAGIC), len(MAGIC) + 4)

Header = dict[str, Any]


def write_session(path: Path, header: Header, state: memoryview) -> None:
    """Write a session's state to a file.

    If that fails, `path` holds what it held before, never a part of a file. Raises ModelFileError if the
    file cannot be written.
    """
    text = json.dumps(header, sort_keys=True).encode()
    first = MAGIC + len(text).to_bytes(4, "little") + text
    digest = sha256(first)
    digest.update(state)
    if path.exists() and not path.is_file():  # a rename would replace it with a file
        raise ModelFileError(f"{path}: is not a regular file")
    try:
        with replacing(path) as file:
            for part in (first, state, digest.digest()):
                file.write(part)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror}") from None


def read_session(path: Path, expected: Header, max_state_bytes: int) -> tuple[int, np.ndarray]:
    """Read a session file; return the number of tokens and their state, uint8 [n].

    expected: the header that the file must have, apart from n_tokens. max_state_bytes: the size of the
    largest state that the model can have. Raises ModelFileError if the file is missing, damaged or not a
    session file, or belongs to another model or plan.
    """
    limit = max_state_bytes + _MAX_HEADER_BYTES + len(MAGIC) + 4 + _DIGEST_BYTES
    data = read_bounded(path, limit, ModelFileError)
    if data[: len(MAGIC)] != MAGIC:
        raise ModelFileError(f"{path.name}: is not a session file")
    content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if sha256(content).digest() != digest:
        raise ModelFileError(f"{path.name}: is damaged: its checksum does not match")
    begin = _LENGTH_AT.stop + int.from_bytes(content[_LENGTH_AT], "little")
    header = parse_json_object(content[_LENGTH_AT.stop : begin], path.name, ModelFileError)
    n_tokens = header.pop("n_tokens", None)
    differing = sorted(key for key in header.keys() | expected.keys() if header.get(key) != expected.get(key))
    if differing:
        raise ModelFileError(f"{path.name}: belongs to another model or plan: {', '.join(differing)} differ")
    if not isinstance(n_tokens, int) or n_tokens < 0:
        raise ModelFileError(f"{path.name}: does not say how many tokens it holds")
    return n_tokens, np.frombuffer(content, np.uint8, offset=begin)
