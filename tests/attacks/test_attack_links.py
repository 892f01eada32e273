"""Files that are not files, and links that lead somewhere.

Links themselves are followed: in the hub's cache every file is one. What they lead to is held to the same
checks, and nothing of another file's contents is repeated in a message.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Refused = Callable[[Path, str], None]
FILES = ("model.safetensors", "config.json")


def replaced(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder / name


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_a_device_without_end(folder: Path, refused: Refused, name: str) -> None:
    replaced(folder, name).symlink_to("/dev/zero")
    refused(folder, f"{name}: is not a regular file")


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_without_a_writer(folder: Path, refused: Refused, name: str) -> None:
    os.mkfifo(replaced(folder, name))
    refused(folder, f"{name}: is not a regular file")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_a_files_place(folder: Path, refused: Refused, name: str) -> None:
    replaced(folder, name).mkdir()
    refused(folder, f"{name}: is not a regular file")


def test_a_link_to_itself(folder: Path, refused: Refused) -> None:
    replaced(folder, "config.json").symlink_to("config.json")
    refused(folder, "config.json: cannot be read: Too many levels of symbolic links")


def test_a_link_to_nothing(folder: Path, refused: Refused) -> None:
    replaced(folder, "config.json").symlink_to("nowhere")
    refused(folder, f"'{folder}/config.json' does not exist")


def test_a_link_to_a_secret_tells_nothing_of_it(folder: Path, refused: Refused, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password=hunter2 " * 100)
    replaced(folder, "config.json").symlink_to(secret)
    refused(folder, "config.json: is not JSON: Expecting value (line 1, column 1)")
    replaced(folder, "model.safetensors").symlink_to(secret)
    n = int.from_bytes(b"password", "little")
    refused(
        folder,
        f"model.safetensors: is not a safetensors file, or damaged: its header claims {n} bytes "
        "(at most 100000000)",
    )


def test_a_link_out_of_the_folder_is_read_as_the_file_it_leads_to(
    folder: Path, refused: Refused, tmp_path: Path
) -> None:
    os.rename(folder / "model.safetensors", tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to("../elsewhere")
    refused(
        folder, f"{folder}/vocab.json: no such file, and no tokenizer.json next to it"
    )  # all else is good
