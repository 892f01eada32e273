"""Files: bounded reads, strict JSON, atomic writes, and the user's folders."""

from __future__ import annotations

import json
import os
import reprlib
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from .errors import ConfigError, Gpt2cError, ModelFileError, ModelNotFoundError

if TYPE_CHECKING:
    from hashlib import _Hash


MAX_JSON_BYTES = 10_000_000
"""Maximum length of a config.json or shard index; published ones have about a thousand bytes."""


MAX_JSON_ENTRIES = 1_000_000
"""Maximum number of commas in a JSON text; the header of a model with 1,024 layers has about 60,000."""


# ---- Reading ----


def quoted(value: object, limit: int = 80) -> str:
    """`value` for a one-line message: true, false or null as in JSON, else its `repr`, shortened.

    Values come from files that nobody has checked: they may have any length, any depth and any character.
    limit: maximum length of a string.
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    clipped = reprlib.Repr()
    clipped.maxstring = clipped.maxother = limit
    clipped.maxlevel = 2
    return clipped.repr(value)


def require_regular_file(path: Path, error: type[ConfigError] | type[ModelFileError]) -> None:
    """Raise `ModelNotFoundError` if there is no such file, `error` if it is not a regular file.

    Symbolic links are followed. Call this before opening a file, because opening a pipe may wait for ever.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFoundError(f"{quoted(str(path), 300)} does not exist") from None
    except (OSError, ValueError) as e:
        raise error(f"{path.name}: cannot be read: {_reason(e)}") from e
    if not stat.S_ISREG(mode):
        raise error(f"{path.name}: is not a regular file")


def read_bounded(path: Path, limit: int, error: type[ConfigError] | type[ModelFileError]) -> bytes:
    """The bytes of a regular file. `error`: it cannot be read, or is longer than `limit` bytes."""
    require_regular_file(path, error)
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as e:
        raise error(f"{path.name}: cannot be read: {_reason(e)}") from e
    if len(data) > limit:
        raise error(f"{path.name}: is longer than {limit} bytes")
    return data


def _reason(e: Exception) -> str:
    return (e.strerror if isinstance(e, OSError) else None) or str(e)


def parse_json_object(
    text: bytes, name: str, error: type[ConfigError] | type[ModelFileError]
) -> dict[str, object]:
    """Parse strict JSON (RFC 8259) whose top level is an object.

    Unlike the standard parser, this refuses what two parsers may read differently: duplicate keys, NaN and
    Infinity, encodings other than UTF-8, integers of more than 40 digits. It also refuses more than
    `MAX_JSON_ENTRIES` entries, because an entry takes far more memory than its text. `name`: what the message
    of `error` calls the source.
    """

    def refuse_constant(word: str) -> NoReturn:
        raise error(f"{name}: {word} is not JSON")

    def bounded_int(digits: str) -> int:
        if len(digits) > 40:  # parsing takes quadratic time
            raise error(f"{name}: the number {quoted(digits, 20)} is too long")
        return int(digits)

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise error(f"{name}: the key {quoted(twice)} appears twice")
        return result

    if text.count(b",") >= MAX_JSON_ENTRIES:
        raise error(f"{name}: has more than {MAX_JSON_ENTRIES} entries")
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=refuse_constant,
            parse_int=bounded_int,
        )
    except UnicodeDecodeError as e:
        raise error(f"{name}: is not UTF-8 text (byte {e.start})") from None
    except json.JSONDecodeError as e:
        raise error(f"{name}: is not JSON: {e.msg} (line {e.lineno}, column {e.colno})") from None
    except RecursionError:
        raise error(f"{name}: the JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise error(f"{name}: must hold a JSON object, not {quoted(value)}")
    return value


# ---- The user's folders, and writing ----


def user_folder(environ: Mapping[str, str], variable: str, under_home: str) -> Path | None:
    """The user's folder for gpt2c by the XDG specification; it may not exist yet. None: there is no home."""
    base = environ.get(variable, "")
    if not os.path.isabs(base):  # the specification says to ignore a relative path
        base = os.path.join(os.path.expanduser("~"), under_home)
    return Path(base, "gpt2c") if os.path.isabs(base) else None


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise Gpt2cError if `write_whole` cannot write a file there. Call it before long work."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise Gpt2cError(f"cannot write {os.fspath(path)!r}: it is a folder")
    if not os.path.isdir(folder):
        raise Gpt2cError(f"cannot write {os.fspath(path)!r}: there is no folder {folder!r}")
    if not os.access(path if _is_special(path) else folder, os.W_OK):
        raise Gpt2cError(f"cannot write {os.fspath(path)!r}: no permission in {folder!r}")


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file under a temporary name and rename it to `path`. Gpt2cError: nothing was changed.

    If `path` is a pipe, a device or another special file, the text is written into it instead.
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
    """Yield a temporary file that replaces `path` when the block ends; only its owner may read it. OSError.

    Its data is flushed to the disk first. If `path` is a link, its target is replaced and the link stays. If
    an exception ends the block, nothing has changed.
    """
    path = Path(os.path.realpath(path))
    import tempfile  # here, because it imports a dozen modules, and generating text writes no files

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
    """Whether a path exists and is not a regular file."""
    return os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode)


def sha256(data: bytes) -> _Hash:
    """A SHA-256 object that has hashed these bytes."""
    import hashlib  # here, because it loads OpenSSL (4 MB), and a small model needs no checksum

    return hashlib.sha256(data)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
