"""Line editing for `gpt2c chat`, and what was typed before, from one run to the next.

Lines are kept in `$GPT2C_HISTORY`, else `$XDG_STATE_HOME/gpt2c/chat_history`, else
`~/.local/state/gpt2c/chat_history`, a file that its owner alone can read; the newest MOST_LINES of them.
`GPT2C_HISTORY=off` keeps none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .._files import user_folder

MOST_LINES = 1000


def history_file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where lines are kept; it need not be there. None: they are not kept, or there is no home."""
    named = environ.get("GPT2C_HISTORY", "")
    if named:
        return None if named == "off" else Path(os.path.abspath(named))
    folder = user_folder(environ, "XDG_STATE_HOME", ".local/state")
    return folder / "chat_history" if folder is not None else None


@contextmanager
def line_editing(keep: bool = True) -> Iterator[None]:
    """Arrow keys and history for input() at a terminal, where Python was built with it.

    keep: lines are read from the history file, and new ones are added to it. What stands in the way of that
    is said in a line and is no error.
    """
    try:
        import readline
    except ImportError:
        print("gpt2c: no line editing: this Python has no readline", file=sys.stderr)
        yield
        return
    path = history_file() if keep and sys.stdin.isatty() else None
    if path is None:
        yield
        return
    readline.set_history_length(MOST_LINES)
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
            # Appended, so that two that talk at the same time both keep their lines.
            readline.append_history_file(readline.get_current_history_length() - n_before, path)
        except OSError as error:
            _cannot(path, error)


def _cannot(path: Path, error: OSError) -> None:
    print(f"gpt2c: no history is kept in {str(path)!r}: {error.strerror}", file=sys.stderr)
