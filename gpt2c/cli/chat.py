"""`gpt2c chat`: talk with a model at the terminal, turn by turn.

A GPT-2 model is not trained for conversation; it continues texts. So the conversation is written as a script
with one line per turn. The model continues the line that begins with its name, and stops before the
next name.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import ContextLengthError, Gpt2cError, OptionError
from ..generation.continuation import Completion
from ..generation.settings import SETTINGS
from ..model import Model
from ..options import nearest
from ..trace import Trace
from . import trace_report
from .arguments import (
    add_generation_arguments,
    add_model_arguments,
    load_model,
    note,
    plan_line,
    settings_of,
    token_text,
    tokens_per_s,
)
from .line_editing import line_editing

HELP = "talk with a model at the terminal"

PARSERS = {name: row.flag.parse for name, row in SETTINGS.items() if row.flag and row.flag.in_chat}
"""The settings that /set takes, with the function that parses the value."""

PLAN = ("opts", "isa", "threads", "weights", "binding")
"""The parts of the plan that a command changes: /opts, /isa, ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `chat`."""
    add_model_arguments(parser, lists_options=True)
    add_generation_arguments(parser, chat=True)
    group = parser.add_argument_group("chat")
    group.add_argument("--user", metavar="NAME", default="You", help="name of the user (default: You)")
    group.add_argument(
        "--name", metavar="NAME", default="Watson", help="name of the speaker who answers (default: Watson)"
    )
    group.add_argument("--no-history", action="store_true", help="do not save typed lines on disk")
    group.add_argument("--system", metavar="TEXT", default="", help="text before the first turn")


def run(args: argparse.Namespace) -> None:
    """Talk until /quit or the end of input. Bytes of the input that are not UTF-8 become U+FFFD."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    with line_editing(history=not args.no_history):
        _talk(args)


def _talk(args: argparse.Namespace) -> None:
    talk = Talk(load_model(args), args)
    note(args, f"{plan_line(talk.model)}; /help lists commands")
    try:
        while talk.is_running:
            try:
                line = input(f"{args.user}: ")
            except EOFError:
                print()
                return
            _answer(talk, line)
    finally:
        talk.close()


def _answer(talk: Talk, line: str) -> None:
    """Handle a line of the user. Errors are printed, and the talk continues; Ctrl-C ends an answer."""
    try:
        if line.startswith("/"):
            talk.command(line)
        elif line.strip():
            talk.say(line.strip())
    except Gpt2cError as error:
        print(f"gpt2c: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print()
        print("gpt2c: interrupted", file=sys.stderr)


@dataclass
class Talk:
    """A model, the turns so far, and the settings for the next answer.

    turns: token ids, alternately a turn of the user and an answer. trace_level: 0, or 1 or 2 to print for
    each answer what `run --trace` prints.
    """

    model: Model
    args: argparse.Namespace
    turns: list[list[int]] = field(default_factory=list)
    trace_level: int = 0
    is_running: bool = True
    tracing: ExitStack = field(default_factory=ExitStack)
    trace: Trace | None = None

    def __post_init__(self) -> None:
        self.settings = settings_of(self.args)
        self._use(self.model)

    def _use(self, model: Model) -> None:
        """Answer with this model from now on, and trace it if tracing is on."""
        self.tracing.close()
        self.model = model
        model.cache_prompts(1)  # each prompt begins with the last prompt and its answer
        self.trace = self.tracing.enter_context(model.trace()) if self.trace_level else None

    def close(self) -> None:
        """Close the model."""
        self.tracing.close()
        self.model.close()

    # ---- Turns ----

    def say(self, text: str) -> None:
        """Take a turn of the user, and print the model's answer."""
        user, name = self.args.user, self.args.name
        turn = self.model.tokenizer.encode(f"{user}: {text}\n{name}:")
        prompt = self._prompt(turn)
        print(f"{name}:", end="", flush=True)
        stream = self.model.stream(prompt, stop=[f"\n{user}:", f"\n{name}:"], **self.settings)
        for piece in stream:
            print(piece, end="", flush=True)
        print(flush=True)
        completion = stream.completion
        assert completion is not None
        ending = self.model.tokenizer.encode("\n")
        self.turns += [turn, [*self._said(completion), *ending]]
        if self.trace is not None:
            self._report(self.trace, completion)

    def _report(self, trace: Trace, completion: Completion) -> None:
        """Print the timings and the trace of an answer."""
        print(_summary(completion), file=sys.stderr)
        for line in trace_report.lines(trace, completion, token_text(self.model), self.trace_level):
            print(f"trace: {line}", file=sys.stderr)
        trace.feeds.clear()
        trace.sessions.clear()

    def _said(self, completion: Completion) -> list[int]:
        """Return the tokens of the answer's text: the generated ones if possible, which the session holds."""
        if completion.finish_reason == "length":
            return completion.ids
        tokenizer = self.model.tokenizer
        said: list[int] = []
        n_left = len(completion.text.rstrip("\n").encode())  # bytes
        for id in completion.ids:
            n_left -= len(tokenizer.token_bytes(id))
            if n_left < 0:  # the text ends inside this token
                return tokenizer.encode(completion.text.rstrip("\n"))
            said.append(id)
            if n_left == 0:
                break
        return said

    def _prompt(self, turn: list[int]) -> list[int]:
        """Return the tokens of the script; if space for the answer is short, the oldest turns are dropped."""
        system = self.model.tokenizer.encode(f"{self.args.system}\n") if self.args.system else []
        space = self.model.config.n_ctx - len(system) - len(turn) - self.settings["max_new_tokens"]
        if space < 0 and len(system) + len(turn) > self.model.config.n_ctx:
            raise ContextLengthError("this turn alone is longer than the context")
        n_dropped = 0
        while self.turns and sum(map(len, self.turns)) > space:
            del self.turns[:2]  # a question and its answer
            n_dropped += 1
        if n_dropped:
            what = "the oldest turn was" if n_dropped == 1 else f"the {n_dropped} oldest turns were"
            print(f"gpt2c: the context is full: {what} dropped", file=sys.stderr)
        return [*system, *(id for turn in self.turns for id in turn), *turn]

    # ---- Commands ----

    def command(self, line: str) -> None:
        """Run a command, a line that begins with /."""
        name, *words = line[1:].split()
        commands: dict[str, Callable[[list[str]], None]] = {
            "quit": self._quit,
            "clear": self._clear,
            "set": self._set,
            "trace": self._trace,
            "help": self._help,
            **{part: partial(self._change_plan, part) for part in PLAN},
        }
        if name not in commands:
            raise OptionError(f"unknown command '/{name}'{nearest(name, commands)}; /help lists all commands")
        commands[name](words)

    def _quit(self, words: list[str]) -> None:
        self.is_running = False

    def _clear(self, words: list[str]) -> None:
        self.turns.clear()

    def _set(self, words: list[str]) -> None:
        if len(words) != 2 or words[0] not in PARSERS:
            now = ", ".join(f"{name} {value}" for name, value in self.settings.items())
            raise OptionError(f"use /set NAME VALUE; the settings now: {now}")
        name, text = words
        changed = {**self.settings, name: _number(name, PARSERS[name], text)}
        self.model.stream([0], **changed).close()  # raises if the value is invalid
        self.settings = changed

    def _trace(self, words: list[str]) -> None:
        if words not in (["0"], ["1"], ["2"]):
            raise OptionError(
                "use /trace N: 1 prints the times of each answer, 2 also shapes and bytes, 0 nothing"
            )
        self.trace_level = int(words[0])
        self._use(self.model)

    def _change_plan(self, part: str, words: list[str]) -> None:
        """Load the model again with a changed plan; if that fails, the old one stays."""
        if len(words) != 1:
            raise OptionError(f"use /{part} VALUE; the plan now: {plan_line(self.model)}")
        value: Any = words[0]
        if part == "threads":
            value = _number(part, int, value)
        changed = argparse.Namespace(**{**vars(self.args), part: value})
        other = load_model(changed)
        old, self.args = self.model, changed
        self._use(other)
        old.close()
        note(self.args, plan_line(self.model))

    def _help(self, words: list[str]) -> None:
        print(
            "/quit             leave (as does the end of input)\n"
            "/clear            forget all turns\n"
            f"/set NAME VALUE   change a setting: {', '.join(PARSERS)}\n"
            "/trace N          1: print the times of each answer; 2: also shapes and bytes; 0: nothing\n"
            f"/{', /'.join(PLAN)} VALUE   change the plan: /isa avx2, /opts all,kv_f16, ..."
        )


def _number(name: str, kind: Callable[[str], Any], text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise OptionError(f"{name} must be a number, not {text!r}") from None


def _summary(completion: Completion) -> str:
    t, n = completion.timings, len(completion.prompt_ids)
    return (
        f"gpt2c: {t.reused_tokens} of {n} tokens reused from the last turn; {len(completion.ids)} new, "
        f"{completion.finish_reason}, in {t.forward_passes} passes; TTFT {t.ttft_ms:.1f} ms, "
        f"{t.ms_per_token:.2f} ms/token, {tokens_per_s(completion):.1f} tokens/s"
    )
