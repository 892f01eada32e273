"""A file or folder that is there whole or not at all: made beside its place, and moved there at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..._files import quoted
from ...errors import ModelFileError


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends, and vanishes if an exception ends it.

    `ModelFileError`: there is something at `path` already, or the folder it is to be in cannot be written.
    """
    partial = _beside(path)
    try:
        partial.mkdir()
    except OSError as e:
        raise ModelFileError(f"{quoted(str(path), 300)} cannot be written: {e.strerror}") from None
    with _moved_in_the_end(partial, path):
        yield partial
        for file in partial.iterdir():
            _to_disk(file)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """As `new_folder`, for a file, which the block makes."""
    partial = _beside(path)
    with _moved_in_the_end(partial, path):
        yield partial
        _to_disk(partial)


def _beside(path: Path) -> Path:
    path = path.absolute()
    if os.path.lexists(path):
        raise ModelFileError(f"{quoted(str(path), 300)} already exists: remove it, or choose another name")
    with suppress(OSError):  # what follows will say it better
        path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".{path.name}.partial-{os.getpid()}"


@contextmanager
def _moved_in_the_end(partial: Path, path: Path) -> Iterator[None]:
    try:
        yield
        if os.path.lexists(path):  # made by another meanwhile
            raise ModelFileError(f"{quoted(str(path), 300)} appeared meanwhile")
        os.rename(partial, path)
    except OSError as e:
        raise ModelFileError(f"{quoted(str(path), 300)} cannot be written: {e.strerror or e}") from e
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _to_disk(file: Path) -> None:
    """A disk that is full may only say so here."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
