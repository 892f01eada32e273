"""Files that lie. Each attack is a few lines that build one; each has its own error, and nothing else.

`refused` loads the model with the binding of the test's turn and demands the error. Whatever the file
claims, that takes neither long nor much memory: a test that hangs is ended, and one that needs more than
twice the file's size and a little is failed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from models import write_model

import gpt2c
from gpt2c.checkpoints.hub import EMBEDDED_MODEL

NO_HANG = 20  # seconds
LITTLE = 64 << 20  # bytes, for all that an error needs, under a sanitizer too

Refused = Callable[[Path, str], None]


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def end(*_: object) -> None:
        raise TimeoutError(f"took more than {NO_HANG} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(NO_HANG)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good model, for a test to spoil."""
    return write_model(tmp_path / "m", "tiny")


@pytest.fixture
def with_words(tmp_path: Path) -> Path:
    """A good model with a vocabulary."""
    target = tmp_path / "w"
    target.mkdir()
    for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt"):
        (target / name).write_bytes((EMBEDDED_MODEL / name).read_bytes())
    return target


@pytest.fixture
def refused(binding: str) -> Refused:
    """Loading the model (and its vocabulary) fails with exactly this line, in one of gpt2c's own errors."""

    def load(path: Path, line: str) -> None:
        before = peak()
        with pytest.raises(gpt2c.Gpt2cError) as caught, gpt2c.load(path, binding=binding) as model:
            _ = model.tokenizer
        assert str(caught.value) == line
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        assert peak() - before < 2 * sum(os.stat(file).st_size for file in files) + LITTLE

    return load


def peak() -> int:
    """The peak memory of this process, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
