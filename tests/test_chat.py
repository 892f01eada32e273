"""`gpt2c chat`: turns, commands, and a context that forgets the oldest."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import pytest
from processes import INSTALLED, NO_HANG

import gpt2c
from gpt2c.cli import main as cli


@pytest.fixture
def chat(capsys, monkeypatch):
    """Calls `gpt2c chat` and types lines: (status, standard output, standard error)."""

    def call(lines, *argv):
        typed = iter(lines)

        def read(prompt):
            line = next(typed, None)
            if line is None:
                raise EOFError
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        status = cli.main(["chat", "--max-new-tokens", "12", *argv])
        return status, *capsys.readouterr()

    return call


def test_an_answer_is_what_the_model_writes_after_its_name(chat) -> None:
    status, out, err = chat(["Where is the dog?", "/quit"], "--temperature", "0")
    with gpt2c.load() as model:
        expected = model.generate("You: Where is the dog?\nWatson:", 12, stop=["\nYou:", "\nWatson:"]).text
    assert (status, out) == (0, f"Watson:{expected}\n")
    assert err.startswith("gpt2c: opts=")


def test_later_turns_follow_earlier_ones_which_are_not_computed_again(chat) -> None:
    _, _, err = chat(["/trace 1", "One?", "Two?", "Three?"], "--temperature", "0")
    counts = [tuple(map(int, m)) for m in re.findall(r"(\d+) of (\d+) tokens reused", err)]
    assert len(counts) == 3
    assert counts[0][0] == 0
    for (_, before), (reused, n) in itertools.pairwise(counts):
        assert before <= reused < n
    assert n - reused < 20


def test_clear_forgets_and_the_end_of_input_leaves(chat) -> None:
    _, out, _ = chat(["One?", "/clear", "One?"], "--temperature", "0")
    first, second = out.strip().split("Watson:")[1:]
    assert first.strip() == second.strip()


def test_settings_and_the_plan_can_be_changed(chat) -> None:
    status, _, err = chat(["/set temperature 0", "/set seed 3", "/isa ref", "/opts none", "One?", "/quit"])
    assert status == 0
    assert "isa=ref" in err
    assert "gpt2c: opts=none isa=ref threads=1" in err
    assert "error" not in err


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/bogus", "unknown command '/bogus'; /help lists all commands"),
        ("/cleer", "unknown command '/cleer' (did you mean 'clear'?); /help lists all commands"),
        ("/set temperature warm", "temperature must be a number, not 'warm'"),
        ("/set temperature -1", "temperature must be >= 0, not -1.0"),
        ("/set warmth 1", "use /set NAME VALUE; the settings now: max_new_tokens 12, "),
        ("/trace 3", "use /trace N: 1 prints the times of each answer, 2 also shapes and bytes, 0 nothing"),
        ("/isa mmx", "unknown instruction set 'mmx'"),
        ("/threads two", "threads must be a number, not 'two'"),
        ("/threads ²", "threads must be a number, not '²'"),
        ("/opts", "use /opts VALUE; the plan now: opts=kv,"),
        ("word " * 600, "this turn alone is longer than the context"),
    ],
)
def test_what_goes_wrong_is_a_line_and_the_talk_goes_on(chat, line, answer) -> None:
    status, out, err = chat([line, "One?"])
    assert status == 0
    assert any(found.startswith(f"gpt2c: {answer}") for found in err.splitlines())
    assert out.count("Watson:") == 1


def test_when_the_context_is_full_the_oldest_turns_go_and_it_says_so(chat) -> None:
    status, out, err = chat(["What was it that the old man said to you?"] * 30)
    assert status == 0
    assert out.count("Watson:") == 30
    assert "gpt2c: the context is full: the oldest turn was dropped\n" in err


def test_help_lists_the_commands(chat) -> None:
    _, out, _ = chat(["/help"])
    for command in ("/quit", "/clear", "/set", "/trace", "/isa", "/opts"):
        assert command in out


def test_ctrl_c_at_the_prompt_leaves(chat) -> None:
    status, _, err = chat([KeyboardInterrupt()])
    assert status == 1
    assert err.endswith("gpt2c: interrupted\n")


def test_another_backend_talks_too(chat) -> None:
    status, out, err = chat(["One?", "/clear", "Two?"], "--backend", "numpy")
    assert (status, out.count("Watson:")) == (0, 2)
    assert err.splitlines() == ["gpt2c: backend=numpy weights=f32; /help lists commands"]


def test_bytes_that_are_no_text_and_a_closed_input_are_no_crash(tmp_path) -> None:
    command = [sys.executable, "-m", "gpt2c", "chat", "--max-new-tokens", "3"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(INSTALLED),
        "PYTHONIOENCODING": "utf-8:strict",
        "GPT2C_HISTORY": "off",
    }
    how = {"env": environment, "cwd": tmp_path, "capture_output": True, "timeout": NO_HANG}
    done = subprocess.run(command, input=b"a \xff b\n", **how)
    assert (done.returncode, done.stdout.count(b"Watson:")) == (0, 1)
    close = [sys.executable, "-c", "import os, sys; os.close(0); os.execv(sys.argv[1], sys.argv[1:])"]
    done = subprocess.run([*close, *command], **how)
    assert (done.returncode, done.stdout) == (0, b"You: \n")


def test_no_readline_is_said_and_is_no_error(chat, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "readline", None)
    status, _, err = chat(["/quit"])
    assert status == 0
    assert "gpt2c: no line editing: this Python has no readline\n" in err
