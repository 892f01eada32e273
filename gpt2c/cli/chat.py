"""`gpt2c chat`: talk with a model at the terminal, turn by turn.

A GPT-2 was not trained to talk; it continues a script. So what is said is laid out as one, a line for each
turn, and the model writes the line that follows its name until the other's name would come.
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
"""What /set takes, and how its value is read."""

PLAN = ("opts", "isa", "threads", "weights", "binding")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All flags of `chat`."""
    add_model_arguments(parser, lists_options=True)
    add_generation_arguments(parser, chat=True)
    group = parser.add_argument_group("chat")
    group.add_argument("--user", metavar="NAME", default="You", help="who speaks first (default: You)")
    group.add_argument("--name", metavar="NAME", default="Watson", help="who answers (default: Watson)")
    group.add_argument("--no-history", action="store_true", help="keep nothing of what is typed on disk")
    group.add_argument("--system", metavar="TEXT", default="", help="text in front of the first turn")


def run(args: argparse.Namespace) -> None:
    """Talk until /quit or the end of input. Bytes that are not UTF-8 become U+FFFD."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    with line_editing(keep=not args.no_history):
        _talk(args)


def _talk(args: argparse.Namespace) -> None:
    talk = Talk(load_model(args), args)
    note(args, f"{plan_line(talk.model)}; /help lists commands")
    try:
        while talk.goes_on:
            try:
                line = input(f"{args.user}: ")
            except EOFError:
                print()
                return
            _answer(talk, line)
    finally:
        talk.close()


def _answer(talk: Talk, line: str) -> None:
    """One line of the user's. What goes wrong is said, and the talk goes on; Ctrl-C ends an answer."""
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
    """A model, what has been said, and how the next answer is chosen.

    trace_level: 0, or 1 or 2 for what `--trace` of `run` tells of each answer.
    """

    model: Model
    args: argparse.Namespace
    turns: list[list[int]] = field(default_factory=list)
    trace_level: int = 0
    goes_on: bool = True
    tracing: ExitStack = field(default_factory=ExitStack)
    trace: Trace | None = None

    def __post_init__(self) -> None:
        self.settings = settings_of(self.args)
        self._use(self.model)

    def _use(self, model: Model) -> None:
        """Answer with this model from now on, and trace it if that is wanted."""
        self.tracing.close()
        self.model = model
        model.cache_prompts(1)  # each prompt is the last one, and what came of it, and a turn
        self.trace = self.tracing.enter_context(model.trace()) if self.trace_level else None

    def close(self) -> None:
        """Let go of the model."""
        self.tracing.close()
        self.model.close()

    # ---- Turns ----

    def say(self, text: str) -> None:
        """The user's turn, and the model's."""
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
            self._tell(self.trace, completion)

    def _tell(self, trace: Trace, completion: Completion) -> None:
        """What an answer took."""
        print(_summary(completion), file=sys.stderr)
        for line in trace_report.lines(trace, completion, token_text(self.model), self.trace_level):
            print(f"trace: {line}", file=sys.stderr)
        trace.feeds.clear()
        trace.sessions.clear()

    def _said(self, completion: Completion) -> list[int]:
        """The answer's tokens, up to where it was stopped: the very ones, so that a session knows them."""
        if completion.finish_reason == "length":
            return completion.ids
        tokenizer = self.model.tokenizer
        kept: list[int] = []
        left = len(completion.text.rstrip("\n").encode())
        for id in completion.ids:
            left -= len(tokenizer.token_bytes(id))
            if left < 0:
                return tokenizer.encode(completion.text.rstrip("\n"))
            kept.append(id)
            if left == 0:
                break
        return kept

    def _prompt(self, turn: list[int]) -> list[int]:
        """All that was said, in tokens; the oldest turns go for the answer to have room."""
        system = self.model.tokenizer.encode(f"{self.args.system}\n") if self.args.system else []
        room = self.model.config.n_ctx - len(system) - len(turn) - self.settings["max_new_tokens"]
        if room < 0 and len(system) + len(turn) > self.model.config.n_ctx:
            raise ContextLengthError("this turn alone is longer than the context")
        n_gone = 0
        while self.turns and sum(map(len, self.turns)) > room:
            del self.turns[:2]  # a question and its answer
            n_gone += 1
        if n_gone:
            what = "the oldest turn was" if n_gone == 1 else f"the {n_gone} oldest turns were"
            print(f"gpt2c: the context is full: {what} forgotten", file=sys.stderr)
        return [*system, *(id for turn in self.turns for id in turn), *turn]

    # ---- Commands ----

    def command(self, line: str) -> None:
        """A line that begins with /."""
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
            raise OptionError(f"unknown command '/{name}'{nearest(name, commands)}; /help lists them")
        commands[name](words)

    def _quit(self, words: list[str]) -> None:
        self.goes_on = False

    def _clear(self, words: list[str]) -> None:
        self.turns.clear()

    def _set(self, words: list[str]) -> None:
        if len(words) != 2 or words[0] not in PARSERS:
            now = ", ".join(f"{name} {value}" for name, value in self.settings.items())
            raise OptionError(f"/set NAME VALUE, NAME being one of those of now: {now}")
        name, text = words
        changed = {**self.settings, name: _number(name, PARSERS[name], text)}
        self.model.stream([0], **changed).close()  # checks them
        self.settings = changed

    def _trace(self, words: list[str]) -> None:
        if words not in (["0"], ["1"], ["2"]):
            raise OptionError("/trace 1 tells what each answer took, 2 shapes and bytes too, 0 nothing")
        self.trace_level = int(words[0])
        self._use(self.model)

    def _change_plan(self, part: str, words: list[str]) -> None:
        """Another model takes this one's place; if it cannot be loaded, this one stays."""
        if len(words) != 1:
            raise OptionError(f"/{part} VALUE; now: {plan_line(self.model)}")
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
            "/quit             leave (also the end of input)\n"
            "/clear            forget all that was said\n"
            f"/set NAME VALUE   {', '.join(PARSERS)}\n"
            "/trace N          1: tell what each answer took; 2: shapes and bytes too; 0: nothing\n"
            f"/{', /'.join(PLAN)} VALUE   go on with another plan: /isa avx2, /opts all,kv_f16, ..."
        )


def _number(name: str, kind: Callable[[str], Any], text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise OptionError(f"{name} must be a number, not {text!r}") from None


def _summary(completion: Completion) -> str:
    t, n = completion.timings, len(completion.prompt_ids)
    return (
        f"gpt2c: {t.reused_tokens} of {n} tokens kept from the last turn; {len(completion.ids)} new, "
        f"{completion.finish_reason}, in {t.forward_passes} passes; TTFT {t.ttft_ms:.1f} ms, "
        f"{t.ms_per_token:.2f} ms/token, {tokens_per_s(completion):.1f} tokens/s"
    )
