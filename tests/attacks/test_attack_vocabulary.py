"""vocab.json, merges.txt and tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[[Path, str], None]
Ids = dict[str, Any]


def vocabulary(folder: Path, change: Callable[[Ids], None]) -> None:
    ids = json.loads((folder / "vocab.json").read_text())
    change(ids)
    (folder / "vocab.json").write_text(json.dumps(ids))


def test_a_vocabulary_of_three_entries(with_words: Path, refused: Refused) -> None:
    (with_words / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (with_words / "merges.txt").write_text("a b\n")
    refused(
        with_words,
        f"{with_words}/vocab.json: no token for byte 0x21 ('!'): a byte-level vocabulary has all 256",
    )


IDS: dict[str, tuple[Callable[[Ids], None], str]] = {
    "beyond the model's": (
        lambda ids: ids.update(zzz=8192),
        "token 'zzz' has id 8192, but the config's vocabulary ends at 8191",
    ),
    "2^63": (
        lambda ids: ids.update(zzz=2**63),
        f"token 'zzz' has id {2**63}, but the config's vocabulary ends at 8191",
    ),
    "negative": (lambda ids: ids.update(zzz=-1), "token 'zzz' has id -1, not an integer >= 0"),
    "twice": (lambda ids: ids.update(zzz=5), "token 'zzz' has id 5, which '&' has too"),
    "a float": (lambda ids: ids.update(zzz=1.0), "token 'zzz' has id 1.0, not an integer >= 0"),
    "null": (lambda ids: ids.update(zzz=None), "token 'zzz' has id None, not an integer >= 0"),
    "of no token": (lambda ids: ids.update({"": ids.pop("zzz", 8191)}), "token '' is empty"),
}


@pytest.mark.parametrize(("change", "line"), IDS.values(), ids=IDS)
def test_an_id_that_is_none(
    with_words: Path, refused: Refused, change: Callable[[Ids], None], line: str
) -> None:
    def without_last(ids: Ids) -> None:
        ids.pop(next((token for token, id in ids.items() if id == 8191), ""), None)
        change(ids)

    vocabulary(with_words, without_last if "empty" in line else change)
    refused(with_words, f"{with_words}/vocab.json: {line}")


MERGES = {
    "of what is not there": (b"x1 y2\n", "1: token 'x1' is not in the vocabulary"),
    "into what is not there": (b"q q\n", "1: token 'qq' is not in the vocabulary"),
    "of three": (b"a b c\n", "1: ['a', 'b', 'c'] is not two tokens"),
    "of one": (b"abc\n", "1: ['abc'] is not two tokens"),
    "of nothing": (b" \n", "1: ['', ''] is not two tokens"),
    "twice": (b"e r\ne r\n", "2: merge 'e r' is listed twice"),
}


@pytest.mark.parametrize(("text", "line"), MERGES.values(), ids=MERGES)
def test_a_merge_that_refers_to_nothing(with_words: Path, refused: Refused, text: bytes, line: str) -> None:
    (with_words / "merges.txt").write_bytes(text)
    refused(with_words, f"{with_words}/merges.txt: line {line}")


TEXTS = {
    "a list": (b"[]", "not a JSON object"),
    "a key twice": (b'{"a": 0, "a": 1}', "key 'a' appears twice"),
    "not UTF-8": (b'{"\xff": 0}', "not UTF-8 at byte 2"),
    "entries without end": (b'{"a":[' + b"0," * 2_000_001 + b"0]}", "has more than 2000000 entries"),
}


@pytest.mark.parametrize(("text", "line"), TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_vocabulary(with_words: Path, refused: Refused, text: bytes, line: str) -> None:
    (with_words / "vocab.json").write_bytes(text)
    refused(with_words, f"{with_words}/vocab.json: {line}")


def test_deep_json_in_a_vocabulary(with_words: Path, refused: Refused) -> None:
    (with_words / "vocab.json").write_bytes(b'{"a":' * 500_000)
    with pytest.raises(Exception) as caught:  # the parser's own words differ between Pythons
        refused(with_words, "")
    assert "vocab.json: not JSON: " in str(caught.value)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"type": "Unigram"}, "model.type is 'Unigram'; only 'BPE' is supported"),
        ({"type": "BPE", "vocab": [], "merges": []}, "model.vocab is not a JSON object"),
        ({"type": "BPE", "vocab": {}, "merges": {}}, "model.merges is not a list"),
        ({"type": "BPE", "vocab": {}, "merges": [["a", 5]]}, "merge 1: ['a', 5] is not two tokens"),
    ],
)
def test_a_tokenizer_json_that_lies(
    with_words: Path, refused: Refused, model: dict[str, Any], line: str
) -> None:
    (with_words / "vocab.json").unlink()
    splitter = {"type": "ByteLevel", "add_prefix_space": False}
    (with_words / "tokenizer.json").write_text(json.dumps({"model": model, "pre_tokenizer": splitter}))
    refused(with_words, f"{with_words}/tokenizer.json: {line}")
