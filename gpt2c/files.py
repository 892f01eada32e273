"""The user's folders, and writing files whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .errors import Gpt2cError

if TYPE_CHECKING:
    from hashlib import _Hash


def user_folder(environ: Mapping[str, str], variable: str, under_home: str) -> Path | None:
    """The user's folder for gpt2c by the XDG specification; it need not be there. None: there is no home."""
    base = environ.get(variable, "")
    if not os.path.isabs(base):  # a relative one is to be ignored
        base = os.path.join(os.path.expanduser("~"), under_home)
    return Path(base, "gpt2c") if os.path.isabs(base) else None


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise Gpt2cError if `write_whole` cannot put a file there: said before long work, not after it."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise Gpt2cError(f"cannot write {os.fspath(path)!r}: it is a folder")
    if not os.path.isdir(folder):
        raise Gpt2cError(f"cannot write {os.fspath(path)!r}: there is no folder {folder!r}")
    if not os.access(path if _is_special(path) else folder, os.W_OK):
        raise Gpt2cError(f"cannot write {os.fspath(path)!r}: no permission in {folder!r}")


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file beside its place and rename it there. Gpt2cError: nothing was changed.

    What is there and no ordinary file (a pipe, a device) is written into and not replaced.
    """
    try:
        if _is_special(path):
            Path(path).write_text(text, encoding="utf-8")
            return
        with replacing(Path(path)) as file:
            file.write(text.encode())
            os.fchmod(file.fileno(), 0o666 & ~_umask())
    except OSError as error:
        raise Gpt2cError(f"cannot write {os.fspath(path)!r}: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file, its owner's alone, that is on the disk in `path`'s place when the block ends; OSError.

    A link stays one: what it leads to is replaced. If an exception ends the block, nothing has changed.
    """
    path = Path(os.path.realpath(path))
    import tempfile  # here, because it brings a dozen modules along, and who generates writes no files

    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether it is there, and no ordinary file."""
    return os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode)


def sha256(data: bytes) -> _Hash:
    """A SHA-256 begun with these bytes."""
    import hashlib  # here, because it brings OpenSSL along, 4 MB, and a small model needs no checksum

    return hashlib.sha256(data)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
