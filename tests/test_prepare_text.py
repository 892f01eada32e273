"""tools/prepare_text.py and tools/train_tokenizer.py: the ids of Hugging Face, the files of llm.c."""

from __future__ import annotations

import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from references import optional, published_data, published_vocabulary

from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.errors import Gpt2cError
from gpt2c.text.tokenizer import Tokenizer

tokenizers = optional("tokenizers")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import prepare_text  # noqa: E402
import train_tokenizer  # noqa: E402
from training.token_file import read_tokens, write_tokens  # noqa: E402

TEXT = "It was a dark night,\r\nand Mr. Ünterberg's 12 dogs   slept.\n\n\tWho? I!" * 20


def hugging_face(folder: Path) -> Any:
    made = tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    made.add_special_tokens(["<|endoftext|>"])
    return made


def test_a_text_becomes_the_ids_of_hugging_face(tmp_path: Path) -> None:
    text = f"{TEXT}<|endoftext|>Another.<|endoftext|>"
    (tmp_path / "text.txt.xz").write_bytes(lzma.compress(text.encode()))
    words = [str(tmp_path / "text.txt.xz"), "-o", str(tmp_path / "out"), "--hold-out", "7"]
    assert prepare_text.main(words) == 0
    valid, train = (read_tokens(tmp_path / "out" / name) for name in ("valid.bin", "train.bin"))
    assert len(valid) == 7 and train[-1] == 8191
    assert [*valid, *train] == hugging_face(EMBEDDED_MODEL).encode(text).ids


def test_tiny_shakespeare_has_the_tokens_that_llm_c_prints(tmp_path: Path) -> None:
    gpt2, text = published_vocabulary(), published_data("tinyshakespeare/input.txt")
    words = [str(text), "-o", str(tmp_path), "--recipe", "tinyshakespeare"]
    assert prepare_text.main([*words, "--vocabulary", str(gpt2)]) == 0
    valid, train = (read_tokens(tmp_path / name) for name in ("valid.bin", "train.bin"))
    assert (len(valid), len(train)) == (32_768, 305_260)
    assert (tmp_path / "valid.bin").stat().st_size == 66_560
    speech = text.read_text().split("\n\n")[0] + "\n\n"
    expected = [50256, *hugging_face(gpt2).encode(speech).ids, 50256]
    assert valid[: len(expected)].tolist() == expected


def test_a_token_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    ids = np.array([0, 1, 65535, 3], np.uint16)
    write_tokens(tmp_path / "a.bin", ids)
    assert read_tokens(tmp_path / "a.bin").tolist() == ids.tolist()
    header = np.fromfile(tmp_path / "a.bin", "<i4", 256)
    assert header[:4].tolist() == [20240520, 1, 4, 0]  # llm.c's


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "is not a token file"),
        (lambda data: b"\0" + data[1:], "is not a token file"),
        (lambda data: data[:4], "claims 0 tokens"),
        (lambda data: data[:4] + b"\2" + data[5:], "of version 2"),
        (lambda data: data[:-1], "claims 4 tokens, but has 1,031 bytes"),
        (lambda data: data[:8] + b"\xff" * 4 + data[12:], "claims -1 tokens"),
    ],
)
def test_a_damaged_token_file_is_refused(change, message, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_tokens(path, np.arange(4, dtype=np.uint16))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(Gpt2cError, match=message):
        read_tokens(path)


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (None, [], "cannot be read: No such file"),
        (b"\xff\xfe", [], "is not UTF-8 text (byte 0)"),
        (b"", [], "the text is empty"),
        (b"one two", ["--hold-out", "9"], "9 tokens cannot be held out: the text has 2"),
        (b"one two", ["--vocabulary", "nowhere/at/all"], "no model at"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(content, more, message, tmp_path: Path, capsys) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    assert prepare_text.main([str(tmp_path / "text"), "-o", str(tmp_path / "out"), *more]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_packed_text_that_is_cut_off_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "text.xz").write_bytes(lzma.compress(TEXT.encode())[:-20])
    assert prepare_text.main([str(tmp_path / "text.xz"), "-o", str(tmp_path / "out")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_trained_vocabulary_gives_the_ids_of_hugging_face(tmp_path: Path, capsys) -> None:
    (tmp_path / "text").write_text(TEXT + "<|endoftext|>" + TEXT, encoding="utf-8")
    words = [str(tmp_path / "text"), "-o", str(tmp_path / "vocabulary"), "--size"]
    assert train_tokenizer.main([*words, "280"]) == 0
    ours = Tokenizer.from_folder(tmp_path / "vocabulary")
    assert (ours.n_vocab, ours.eos_token_id) == (280, 279)
    assert ours.token_bytes(279) == b"<|endoftext|>"
    ids = ours.encode(TEXT)
    assert ids == hugging_face(tmp_path / "vocabulary").encode(TEXT).ids
    assert ours.decode(ids) == TEXT and len(ids) < 0.8 * len(TEXT.encode())
    assert train_tokenizer.main([*words, "280"]) == 1  # it is there
    assert "already exists" in capsys.readouterr().err


def test_the_first_merge_is_the_most_frequent_pair() -> None:
    vocabulary = train_tokenizer.train_vocabulary("ab ab ab ab abc abc", 258)
    assert [(left, right) for _, left, right in vocabulary.merges] == [("a", "b")]
    assert vocabulary.ids["ab"] == 256 and vocabulary.ids["<|endoftext|>"] == 257
