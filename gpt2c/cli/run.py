"""`gpt2c run` and `python -m gpt2c.run`: continue a prompt, with the optimizations that you choose.

Standard output: the prompt, then the continuation as it is generated; with --json one JSON object and nothing
else. Standard error: the plan and the timings. Exit status: 0; 2 for a bad flag or option; 1 for any other
error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from typing import Any, Literal

from .._files import check_writable, write_whole
from ..errors import OptionError
from ..generation.continuation import Completion
from ..model import Model
from . import compare_command, trace_report
from .arguments import (
    Parser,
    PrintVersion,
    add_generation_arguments,
    add_model_arguments,
    add_prompt_arguments,
    add_quiet_argument,
    load_model,
    note,
    plan_line,
    read_prompt,
    report_errors,
    settings_of,
    token_text,
    tokens_per_s,
)

HELP = "continue a prompt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `run`."""
    add_prompt_arguments(parser)
    add_model_arguments(parser, lists_options=True)
    add_generation_arguments(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--trace",
        metavar="N",
        type=int,
        choices=(0, 1, 2),
        default=0,
        help="on standard error, 1: time of each operation, most probable tokens; 2: also shapes and bytes",
    )
    group.add_argument(
        "--trace-file",
        metavar="F",
        help="write a trace for a viewer of Chrome's trace events, such as Perfetto",
    )
    group.add_argument("--compare", action="store_true", help="run every backend greedily and compare them")
    group.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    group.add_argument("--version", action=PrintVersion)


def run(args: argparse.Namespace) -> None:
    """Generate and print the text, the plan and the timings."""
    if args.compare:
        return _compare(args)
    if args.num_beams != 1 and (args.trace or args.trace_file is not None):
        raise OptionError("--trace and --trace-file do not work with several beams")
    if args.trace_file is not None:
        check_writable(args.trace_file)
    prompt = read_prompt(args)
    with ExitStack() as stack:
        model = stack.enter_context(load_model(args))
        draft = args.draft
        if draft not in (None, "ngram"):
            draft = stack.enter_context(load_model(args, draft))
        tracing = model.trace() if args.trace or args.trace_file else nullcontext()
        with tracing as trace:
            completion = _generate(model, prompt, draft, args)
        plan, text_of = str(model.plan), token_text(model)
    if args.json:
        print(json.dumps(as_json(completion, plan)))
    else:
        print()
    for line in _summary(completion, guessed=args.draft is not None):
        note(args, line)
    if trace is not None and args.trace:
        for line in trace_report.lines(trace, completion, text_of, args.trace):
            print(f"trace: {line}", file=sys.stderr)
    if trace is not None and args.trace_file is not None:
        write_whole(args.trace_file, trace_report.chrome_trace(trace, completion, text_of))


def _compare(args: argparse.Namespace) -> None:
    """Do what `gpt2c compare` does. Raise OptionError for a flag that `gpt2c compare` does not have.

    A flag with the value 0 is allowed, because it asks for nothing but a greedy choice.
    """
    here, there = Parser(), Parser()
    add_arguments(here)
    compare_command.add_arguments(there)
    known = {"compare", *vars(there.parse_args([]))}
    for name, default in vars(here.parse_args([])).items():
        if name not in known and getattr(args, name) not in (default, 0):
            raise OptionError(f"--compare is greedy and does not take --{name.replace('_', '-')}")
    compare_command.run(args)


def _summary(completion: Completion, guessed: bool) -> Iterator[str]:
    """Yield a few lines with the timings and counts of a completion."""
    t = completion.timings
    n_new, n_prompt = len(completion.ids), len(completion.prompt_ids)
    yield (
        f"{n_prompt} + {n_new} tokens, finish: {completion.finish_reason}, TTFT {t.ttft_ms:.1f} ms, "
        f"{t.ms_per_token:.2f} ms/token, {tokens_per_s(completion):.1f} tokens/s"
    )
    if guessed:
        yield f"{t.accepted} of {t.drafted} guesses right, {t.forward_passes} passes for {n_new} tokens"
    if completion.beams:
        scores = ", ".join(f"{beam.score:.4f}" for beam in completion.beams)
        yield f"{len(completion.beams)} beams with scores {scores}; {t.forward_passes} passes"
    if completion.dropped_tokens:
        yield f"the context was full: {completion.dropped_tokens} tokens were dropped"


def _generate(
    model: Model, prompt: str, draft: Literal["ngram"] | Model | None, args: argparse.Namespace
) -> Completion:
    """Generate; print the plan, and the text as it is generated, or at the end of a beam search."""
    settings = {**settings_of(args), "draft": draft}
    if args.num_beams != 1:
        completion = model.generate(prompt, **settings)
        note(args, plan_line(model))
        if not args.json:
            print(prompt + completion.text, end="", flush=True)
        return completion
    stream = model.stream(prompt, **settings)
    note(args, plan_line(model))
    if not args.json:
        print(prompt, end="", flush=True)
    for piece in stream:
        if not args.json:
            print(piece, end="", flush=True)
    assert stream.completion is not None
    return stream.completion


def as_json(completion: Completion, plan: str) -> dict[str, Any]:
    """Return the object that --json prints."""
    found = {
        "text": completion.text,
        "ids": completion.ids,
        "prompt_ids": completion.prompt_ids,
        "finish_reason": completion.finish_reason,
        "ttft_ms": round(completion.timings.ttft_ms, 3),
        "ms_per_token": round(completion.timings.ms_per_token, 4),
        "tokens_per_s": round(tokens_per_s(completion), 2),
        "plan": plan,
    }
    return found if completion.beams is None else {**found, "beams": [asdict(b) for b in completion.beams]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m gpt2c.run` and return its exit status."""
    parser = Parser(
        prog="python -m gpt2c.run", description="Continue a prompt with a GPT-2 model on the CPU."
    )
    add_arguments(parser)
    add_quiet_argument(parser)
    return report_errors(run, parser.parse_args(argv))
