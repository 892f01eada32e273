"""Files are written whole or not at all, and what is no file is not replaced."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from gpt2c._files import check_writable, write_whole
from gpt2c.errors import Gpt2cError


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for text in ("first", "“second”"):
        write_whole(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["a.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "text"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text")
    reader.join(60)
    assert read == ["text"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_whole(file, "before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(Gpt2cError, match="No space left"):
        write_whole(file, "after")
    assert file.read_text() == "before" and os.listdir(tmp_path) == ["a.json"]


def test_what_cannot_be_written_is_said_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.json")
    with pytest.raises(Gpt2cError, match="it is a folder"):
        check_writable(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "no" / "new.json")
    for path in (tmp_path / "no" / "new.json", tmp_path / "link"):
        with pytest.raises(Gpt2cError, match=f"there is no folder '{tmp_path / 'no'}'"):
            check_writable(path)


def test_permission_is_asked_of_what_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for a file that is replaced there, and a device or pipe itself; root may write to all."""
    os.mkfifo(tmp_path / "pipe")
    asked: list[str] = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append(os.fspath(path)) or "pipe" in str(path))
    check_writable(tmp_path / "pipe")
    with pytest.raises(Gpt2cError, match=f"no permission in '{tmp_path}'"):
        check_writable(tmp_path / "file")
    assert asked == [str(tmp_path / "pipe"), str(tmp_path)]
