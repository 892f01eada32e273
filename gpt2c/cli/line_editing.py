"""Line editing for `gpt2c chat`, with a history of typed lines that is saved between runs.

The newest MAX_LINES lines are saved in `$GPT2C_HISTORY`, else in `$XDG_STATE_HOME/gpt2c/chat_history`, else
in `~/.local/state/gpt2c/chat_history`. Only its owner can read the file. `GPT2C_HISTORY=off` saves nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .._files import user_folder

MAX_LINES = 1000


def history_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the path of the history file, which may not exist yet.

    None means that lines are not saved, or that there is no home folder.
    """
    named = environ.get("GPT2C_HISTORY", "")
    if named:
        return None if named == "off" else Path(os.path.abspath(named))
    folder = user_folder(environ, "XDG_STATE_HOME", ".local/state")
    return folder / "chat_history" if folder is not None else None


@contextmanager
def line_editing(history: bool = True) -> Iterator[None]:
    """Give input() arrow keys and a history while the context is open, if this Python has readline.

    history: read earlier lines from the history file, and append new ones to it. If that is not possible, a
    line on standard error says why.
    """
    try:
        import readline
    except ImportError:
        print("gpt2c: no line editing: this Python has no readline", file=sys.stderr)
        yield
        return
    path = history_file() if history and sys.stdin.isatty() else None
    if path is None:
        yield
        return
    readline.set_history_length(MAX_LINES)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        readline.read_history_file(path)
    except OSError as error:
        _cannot(path, error)
        yield
        return
    n_before = readline.get_current_history_length()
    try:
        yield
    finally:
        try:
            # Appended, so that two chats at the same time save the lines of both.
            readline.append_history_file(readline.get_current_history_length() - n_before, path)
        except OSError as error:
            _cannot(path, error)


def _cannot(path: Path, error: OSError) -> None:
    print(f"gpt2c: no history is saved in {str(path)!r}: {error.strerror}", file=sys.stderr)
