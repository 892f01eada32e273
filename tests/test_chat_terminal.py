"""`gpt2c chat` at a terminal: every command, line editing, and what is remembered between two runs."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import references
from processes import INSTALLED, NO_HANG

import gpt2c

references.readline()

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
UP = "\x1b[A"


class Terminal:
    """A command with a terminal: types lines, and reads what is on the screen."""

    def __init__(self, *argv: str, cwd: Path, **environment: str) -> None:
        self._screen, terminal = pty.openpty()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("GPT2C_", "XDG_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gpt2c", *argv],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
            env={**clean, "PYTHONPATH": str(INSTALLED), "TERM": "vt100", "HOME": str(cwd), **environment},
        )
        os.close(terminal)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def say(self, line: str, until: str = "\nYou: ") -> str:
        """Type a line; all that is then shown, until that comes."""
        self.type(line + "\r")
        return self.read(until)

    def read(self, until: str) -> str:
        shown, deadline = "", time.monotonic() + NO_HANG
        while until not in shown:
            ready, _, _ = select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{until!r} did not come: {shown!r}"
            shown = self._more(shown)
        return shown

    def end(self) -> tuple[int, str]:
        """Wait for the command's end: its exit status, and what it showed last."""
        shown = ""
        try:
            while (longer := self._more(shown)) != shown:
                shown = longer
        except OSError:  # how a terminal ends whose last program has
            pass
        status = self._process.wait(NO_HANG)
        os.close(self._screen)
        return status, shown

    def _more(self, shown: str) -> str:
        return ESCAPES.sub(
            "", shown + os.read(self._screen, 65536).decode(errors="replace").replace("\r", "")
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts `gpt2c chat` and waits for its prompt."""
    begun: list[Terminal] = []

    def start(*argv: str, **environment: str) -> Terminal:
        flags = ("--max-new-tokens", "4", "--temperature", "0", "--threads", "1")
        begun.append(Terminal("chat", *flags, *argv, cwd=tmp_path, **environment))
        begun[-1].read("You: ")
        return begun[-1]

    yield start
    for terminal in begun:
        terminal.kill()


def test_every_command(chat: Callable[..., Terminal]) -> None:
    terminal = chat()
    answer = re.compile(r"Watson:(.*)\n")
    first = answer.search(terminal.say("Who is there?"))
    assert first is not None
    assert "/quit" in terminal.say("/help")
    terminal.say("/clear")
    again = answer.search(terminal.say("Who is there?"))
    assert again is not None
    assert again[1] == first[1]

    assert "error" not in terminal.say("/set temperature 0.8")
    assert "temperature 0.8" in terminal.say("/set")
    assert "temperature must be >= 0" in terminal.say("/set temperature -1")
    terminal.say("/set temperature 0")

    terminal.say("/trace 1")
    traced = terminal.say("And now?")
    assert "tokens reused from the last turn" in traced
    assert "trace: first token after" in traced
    assert re.search(r"trace: +attention +\d", traced)
    assert "GB/s" not in traced
    terminal.say("/trace 2")
    assert "GB/s" in terminal.say("And now?")
    reused = re.search(r"(\d+) of \d+ tokens reused", terminal.say("Go on."))
    assert reused is not None
    assert int(reused[1]) > 0  # a traced session is reused too

    isa = gpt2c.build_info()["isas_supported"][0]
    assert f"isa={isa}" in terminal.say(f"/isa {isa}")
    assert "trace: first token after" in terminal.say("Go on.")  # of the other plan now
    terminal.say("/trace 0")
    assert "opts=kv,linear" in terminal.say("/opts kv,linear")
    for line, shown in [
        ("/threads 2", "threads=2"),
        ("/binding cffi", "binding=cffi"),
        ("/opts all", "opts=kv,linear,gelu"),
        ("/weights q8", "weights=q8"),
        ("/isa mmx", "unknown instruction set 'mmx'"),
        ("/bogus", "unknown command '/bogus'"),
    ]:
        assert shown in terminal.say(line)
    last = terminal.say("Go on.")
    assert "Watson:" in last
    assert "trace:" not in last
    terminal.type("/quit\r")
    assert terminal.end()[0] == 0


def test_ctrl_c_ends_an_answer_and_not_the_talk(chat: Callable[..., Terminal]) -> None:
    terminal = chat("--max-new-tokens", "400", "--opts", "none")
    terminal.type("Tell me all.\r")
    terminal.read("Watson:")
    terminal.type("\x03")
    assert "interrupted" in terminal.read("You: ")
    terminal.type("\x04")  # the end of input
    assert terminal.end()[0] == 0


def test_lines_are_remembered_from_one_run_to_the_next(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    terminal = chat()
    terminal.say("/set seed 7")
    terminal.type("/quit\r")
    assert terminal.end()[0] == 0
    file = tmp_path / ".local/state/gpt2c/chat_history"
    assert file.read_text() == "/set seed 7\n/quit\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    terminal = chat()
    terminal.type(UP + UP)
    assert "seed 7" in terminal.say("7", until="\nYou: ")
    assert "seed 77" in terminal.say("/set")
    terminal.type("/quit\r")
    terminal.end()
    assert file.read_text() == "/set seed 7\n/quit\n/set seed 77\n/set\n/quit\n"


def test_the_oldest_lines_go(chat: Callable[..., Terminal], tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text("".join(f"line {i}\n" for i in range(1000)))
    terminal = chat(GPT2C_HISTORY=str(file))
    terminal.type("/quit\r")
    terminal.end()
    assert file.read_text().split("\n")[:-1] == [f"line {i}" for i in range(1, 1000)] + ["/quit"]


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_nothing_is_kept_where_that_is_not_wanted(
    how: str, chat: Callable[..., Terminal], tmp_path: Path
) -> None:
    terminal = chat("--no-history") if how == "flag" else chat(GPT2C_HISTORY="off")
    terminal.type("/quit\r")
    assert terminal.end()[0] == 0
    assert not (tmp_path / ".local/state").exists()


def test_a_history_that_cannot_be_kept_is_said_and_is_no_error(
    chat: Callable[..., Terminal], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    terminal = chat(XDG_STATE_HOME=str(tmp_path / "file"))
    assert "Watson:" in terminal.say("Who is there?")
    terminal.type("/quit\r")
    assert terminal.end()[0] == 0
