"""Files and folders that are written whole or not at all: a temporary name first, renamed at the end."""

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
    """Yield an empty folder to fill, and rename it to `path` when the block ends.

    If an exception ends the block, the folder is deleted. Threads and processes that write to one `path` at
    the same time do not disturb each other: each has a temporary folder of its own. `ModelFileError`: `path`
    exists, also if only at the end, or cannot be written.
    """
    partial = _temporary_name(path)
    try:
        partial.mkdir()
    except OSError as e:
        raise ModelFileError(f"{quoted(str(path), 300)} cannot be written: {e.strerror}") from None
    with _renamed_at_the_end(partial, path):
        yield partial
        for file in partial.iterdir():
            _flush_to_disk(file)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a name under which the block creates a file; otherwise as `new_folder`."""
    partial = _temporary_name(path)
    with _renamed_at_the_end(partial, path):
        yield partial
        _flush_to_disk(partial)


def _temporary_name(path: Path) -> Path:
    """A name in the folder of `path`, a different one at each call."""
    path = path.absolute()
    if os.path.lexists(path):
        raise ModelFileError(f"{quoted(str(path), 300)} already exists: remove it, or choose another name")
    with suppress(OSError):  # creating the file or folder fails next, with a better message
        path.parent.mkdir(parents=True, exist_ok=True)
    # Random, because threads of one process may write to the same path. (tempfile makes files that only
    # their owner can read.)
    return path.parent / f".{path.name}.partial-{os.urandom(4).hex()}"


@contextmanager
def _renamed_at_the_end(partial: Path, path: Path) -> Iterator[None]:
    try:
        yield
        if os.path.lexists(path):  # another writer was faster
            raise ModelFileError(f"{quoted(str(path), 300)} appeared meanwhile")
        os.rename(partial, path)
    except OSError as e:
        raise ModelFileError(f"{quoted(str(path), 300)} cannot be written: {e.strerror or e}") from e
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _flush_to_disk(file: Path) -> None:
    """Flush a file to the disk. OSError: the disk is full, which some file systems report only now."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
