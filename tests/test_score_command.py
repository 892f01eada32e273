"""`gpt2c score`: texts and JSON lines in, numbers out, and errors of one line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

import gpt2c
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.cli import main as cli
from gpt2c.text.tokenizer import END_OF_TEXT

TEXT = "It was a dark night, and the old man looked at the sea."


@pytest.fixture
def score(capsys, tmp_path, monkeypatch):
    """Calls `gpt2c score` with a file of the given content: (status, standard output, standard error)."""

    def call(content: str | bytes, *argv: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        Path("in").write_bytes(content if isinstance(content, bytes) else content.encode())
        status = cli.main(["score", "in", *argv])
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def expected():
    with gpt2c.load() as model:
        yield model.score(TEXT)


def test_a_text_has_its_numbers_on_standard_output(score, expected) -> None:
    status, out, err = score(TEXT)
    assert status == 0
    assert out == (
        f"tokens       {expected.logprobs.size + 1}, all but the first scored\n"
        f"nll          {expected.nll:.4f} nats per token\n"
        f"perplexity   {expected.perplexity:.3f}\n"
        f"bits/byte    {expected.bits_per_byte:.4f}\n"
    )
    assert err.startswith("gpt2c: opts=")


def test_the_plan_of_another_backend_names_no_binding(score) -> None:
    assert score(TEXT, "--backend", "numpy")[2] == "gpt2c: backend=numpy weights=f32\n"


def test_json_is_one_object(score, expected) -> None:
    status, out, _ = score(TEXT, "--json", "--logprobs")
    assert status == 0
    assert json.loads(out) == {
        "tokens": expected.logprobs.size + 1,
        "nll": expected.nll,
        "perplexity": expected.perplexity,
        "bits_per_byte": expected.bits_per_byte,
        "logprobs": expected.logprobs.tolist(),
    }


def test_json_lines_are_scored_one_by_one(score, expected) -> None:
    with gpt2c.load() as model:
        ids = model.tokenizer.encode(TEXT)
    lines = [json.dumps(TEXT), "", json.dumps({"text": TEXT, "label": 1}), json.dumps({"ids": ids})]
    status, out, _ = score("\n".join(lines) + "\n", "--jsonl")
    assert status == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 3
    assert [f["nll"] for f in found] == [expected.nll] * 3


def test_standard_input_is_a_file_too(capsys, monkeypatch, expected) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert cli.main(["score", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nll"] == expected.nll


def test_a_terminal_gets_a_progress_bar(score, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    _, _, err = score(TEXT, "--json")
    assert f"\r[{'#' * 30}] " in err
    assert err.rstrip().endswith("tokens")


@pytest.mark.parametrize(
    ("content", "argv", "status", "line"),
    [
        (b"\xff\xfe", [], 1, "'in' is not UTF-8 text (byte 0)"),
        ("", [], 1, "the prompt is empty: at least one token is needed"),
        (
            "[1]\n",
            ["--jsonl"],
            1,
            "line 1: at least two tokens are needed: the first has no tokens before it",
        ),
        (
            '"a b"\n{"text": 5}\n',
            ["--jsonl"],
            1,
            "'in', line 2: must be a string, or an object with text or ids",
        ),
        ('"a b\n', ["--jsonl"], 1, "'in', line 1: is not JSON: "),
        ('\n["a", "b"]\n', ["--jsonl"], 1, "line 2: token ids must be integers"),
        (TEXT, ["--json", "--jsonl"], 2, "give --json (one text) or --jsonl (one text per line), not both"),
        (TEXT, ["--logprobs"], 2, "--logprobs needs --json or --jsonl"),
        (TEXT, ["--stride", "600"], 2, "stride must be an integer from 1 to 511, not 600"),
    ],
)
def test_each_error_is_one_line(score, content, argv, status, line) -> None:
    found, out, err = score(content, *argv)
    assert (found, out) == (status, "")
    assert err.splitlines()[-1].startswith(f"gpt2c: error: {line}")


def test_tokens_without_bytes_have_no_bits_a_byte(capsys, tmp_path) -> None:
    folder = tmp_path / "padded"
    folder.mkdir()
    for file in EMBEDDED_MODEL.iterdir():
        (folder / file.name).symlink_to(file)
    ids = json.loads((EMBEDDED_MODEL / "vocab.json").read_text())
    (folder / "vocab.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({t: i for t, i in ids.items() if t != END_OF_TEXT}))
    padding = ids[END_OF_TEXT]
    (tmp_path / "in").write_text(json.dumps({"ids": [1, padding, padding]}))
    assert cli.main(["score", str(tmp_path / "in"), "--jsonl", "--model", str(folder)]) == 0

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    assert json.loads(capsys.readouterr().out, parse_constant=refuse)["bits_per_byte"] is None


def test_a_file_that_is_not_there_is_an_error_of_one_line(capsys, tmp_path) -> None:
    assert cli.main(["score", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.endswith("none' cannot be read: No such file or directory\n")
