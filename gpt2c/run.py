"""`python -m gpt2c.run`: print a continuation, with the optimizations of your choice.

Standard output: the prompt, then the continuation as it comes; with --json one object and nothing else.
Standard error: the plan, and how long it took. Exit status: 0; 2 for a bad flag or option; 1 for all else.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NoReturn

from . import __version__, load, trace_report
from .backends import names as backend_names
from .bindings import NAMES
from .errors import Gpt2cError, OptionError
from .files import check_writable, write_whole
from .generation import Completion
from .model import Model
from .options import OPTIONS, WEIGHTS

HELP = "continue a prompt"

DEFAULT_PROMPT = "Once upon a time"


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"gpt2c: error: {message} (see --help)\n")


def _options_help() -> str:
    rows = [f"  {option.name:<11} {option.on}\n{'':13} off: {option.off}" for option in OPTIONS]
    return "options of --opts, a comma list, 'none' or 'all' (the default):\n" + "\n".join(rows)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say which model runs, and how; what each option does stands below them."""
    parser.epilog = _options_help()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="M", help="folder, file of weights or hub id (default: embedded)")
    group.add_argument(
        "--backend",
        metavar="B",
        default="native",
        help=f"{', '.join(backend_names())} (default: native)",
    )
    group.add_argument("--opts", metavar="LIST", help="optimizations to turn on, see below (default: all)")
    group.add_argument("--weights", metavar="F", help=f"weight format: {', '.join(WEIGHTS)}")
    group.add_argument("--binding", metavar="B", default="auto", help=f"auto, {', '.join(NAMES)}")
    group.add_argument("--threads", metavar="N", type=int, help="default: as many as there are cores")
    group.add_argument("--isa", metavar="I", default="auto", help="instruction set of `info`, or auto")


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say where the prompt comes from."""
    prompt = parser.add_argument_group("prompt").add_mutually_exclusive_group()
    prompt.add_argument("stdin", nargs="?", metavar="-", help="read the prompt from standard input")
    prompt.add_argument("--prompt", metavar="TEXT", help=f"text to continue (default: {DEFAULT_PROMPT!r})")
    prompt.add_argument(
        "--prompt-file", metavar="F", help="read the prompt from a file (- is standard input)"
    )


def add_length_argument(parser: argparse._ActionsContainer) -> None:
    """--max-new-tokens."""
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=50, help="default: 50")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All flags of `run`."""
    add_prompt_arguments(parser)
    add_model_arguments(parser)
    group = add_generation_arguments(parser)
    group.add_argument(
        "--stop",
        metavar="S",
        nargs="+",
        action="extend",
        default=[],
        help="end before any of these; - for standard input goes in front of it",
    )
    group.add_argument(
        "--draft", metavar="D", help="ngram, or a smaller model (as for --model) that guesses ahead"
    )
    group.add_argument(
        "--num-assistant-tokens", metavar="K", type=int, help="guesses a pass (default: as many as pay)"
    )
    group.add_argument(
        "--overflow", metavar="O", default="error", help="a full context: error, or slide to drop the oldest"
    )
    group.add_argument(
        "--num-beams", metavar="K", type=int, default=1, help="beam search with K beams (default: 1, none)"
    )
    group.add_argument(
        "--length-penalty",
        metavar="P",
        type=float,
        default=1.0,
        help="above 0 favours long texts (default: 1)",
    )
    group.add_argument(
        "--early-stopping",
        metavar="E",
        default="false",
        help="end a beam search early: false (when no better text is likely), true (when there are K), never",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--trace",
        metavar="N",
        type=int,
        choices=(0, 1, 2),
        default=0,
        help="1: time of each operation, likeliest tokens; 2: shapes and bytes too; on standard error",
    )
    group.add_argument(
        "--trace-file",
        metavar="F",
        help="write a trace for a viewer of Chrome's trace events, such as Perfetto",
    )
    group.add_argument("--compare", action="store_true", help="run every backend, greedy, and compare them")
    group.add_argument("--json", action="store_true", help="one JSON object on standard output")
    group.add_argument("--version", action="version", version=f"gpt2c {__version__}")


def add_generation_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The flags that say how tokens are chosen, and how many."""
    group = parser.add_argument_group("generation")
    add_length_argument(group)
    group.add_argument(
        "--temperature", metavar="T", type=float, help="default: 0.8 (0 with beams); 0 is greedy"
    )
    group.add_argument("--top-k", metavar="K", type=int, default=40, help="default: 40; 0 is off")
    group.add_argument("--top-p", metavar="P", type=float, default=1.0, help="default: 1, off")
    group.add_argument("--min-p", metavar="P", type=float, default=0.0, help="default: 0, off")
    group.add_argument("--repetition-penalty", metavar="R", type=float, default=1.0, help="default: 1, off")
    group.add_argument(
        "--no-repeat-ngram-size", metavar="N", type=int, default=0, help="no N tokens twice (default: 0, off)"
    )
    group.add_argument(
        "--min-new-tokens", metavar="N", type=int, default=0, help="no end of text before (default: 0)"
    )
    group.add_argument(
        "--seed", metavar="S", type=int, default=0, help="default: 0: the same text every time"
    )
    return group


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the flags of `add_generation_arguments` ask for."""
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    given = {name: getattr(args, name) for name in (*names, "no_repeat_ngram_size", "min_new_tokens")}
    return {**given, "temperature": 0.8} if args.temperature is None else given


def beams_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a beam search; of a single beam, too, so that they are checked."""
    early = {"false": False, "true": True}.get(args.early_stopping, args.early_stopping)
    settings = {"length_penalty": args.length_penalty, "early_stopping": early}
    if args.num_beams == 1:
        return settings
    if args.trace or args.trace_file is not None:
        raise OptionError("--trace follows one continuation, not several beams")
    return {**settings, "num_beams": args.num_beams, "temperature": args.temperature or 0.0}


def read_prompt(args: argparse.Namespace) -> str:
    """The prompt that the flags name. Bytes that are not UTF-8 become U+FFFD, with a note."""
    if args.stdin not in (None, "-"):
        raise OptionError(f"unexpected argument {args.stdin!r}: a prompt is given with --prompt")
    source = args.stdin or args.prompt_file
    if args.prompt is not None:
        data = args.prompt.encode(errors="surrogateescape")  # the bytes as they were typed
    elif source is None:
        return DEFAULT_PROMPT
    elif source == "-":
        data = sys.stdin.buffer.read()
    else:
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise Gpt2cError(f"prompt file {source!r} cannot be read: {error.strerror}") from None
    try:
        return str(data.decode())
    except UnicodeDecodeError:
        print("gpt2c: the prompt is not UTF-8; bytes that are not were replaced", file=sys.stderr)
        return str(data.decode(errors="replace"))


def load_model(args: argparse.Namespace, model: str | None = None) -> Model:
    """The model that the flags of `add_model_arguments` ask for, or another one with the same plan."""
    if args.opts is not None and args.backend != "native":  # load() cannot tell "all" from nothing
        raise OptionError(f"--opts is for the native backend only, not for {args.backend!r}")
    return load(
        model or args.model,
        weights=args.weights,
        opts="all" if args.opts is None else args.opts,
        threads=args.threads,
        isa=args.isa,
        binding=args.binding,
        backend=args.backend,
    )


def plan_line(model: Model) -> str:
    """What runs, in words."""
    binding = f" binding={model.binding}" if model.plan.backend == "native" else ""
    return f"{model.plan}{binding}"


def run(args: argparse.Namespace) -> None:
    """Generate as the flags say."""
    if args.compare:
        return _compare(args)
    if args.trace_file is not None:
        check_writable(args.trace_file)
    prompt = read_prompt(args)
    with ExitStack() as stack:
        model = stack.enter_context(load_model(args))
        draft = args.draft
        if draft not in (None, "ngram"):
            draft = stack.enter_context(load_model(args, draft))
        looking = model.trace() if args.trace or args.trace_file else nullcontext()
        with looking as trace:
            completion = _generate(model, prompt, draft, args)
        plan, text_of = str(model.plan), token_text(model)
    if args.json:
        print(json.dumps(as_json(completion, plan)))
    else:
        print()
    for line in _summary(completion, guessed=args.draft is not None):
        print(f"gpt2c: {line}", file=sys.stderr)
    if trace is not None and args.trace:
        for line in trace_report.lines(trace, completion, text_of, args.trace):
            print(f"trace: {line}", file=sys.stderr)
    if trace is not None and args.trace_file is not None:
        write_whole(args.trace_file, trace_report.chrome_trace(trace, completion, text_of))


def _compare(args: argparse.Namespace) -> None:
    """What `gpt2c compare` does. Flags that it does not have, other than to say "greedy", are refused."""
    from .commands import compare  # which uses this module

    here, there = Parser(), Parser()
    add_arguments(here)
    compare.add_arguments(there)
    known = {"compare", *vars(there.parse_args([]))}
    for name, default in vars(here.parse_args([])).items():
        if name not in known and getattr(args, name) not in (default, 0):
            raise OptionError(f"--compare is greedy, and takes no --{name.replace('_', '-')}")
    compare.run(args)


def _summary(completion: Completion, guessed: bool) -> Iterator[str]:
    """What it took, in a few lines."""
    t = completion.timings
    n_new, n_prompt = len(completion.ids), len(completion.prompt_ids)
    yield (
        f"{n_prompt} + {n_new} tokens, finish: {completion.finish_reason}, TTFT {t.ttft_ms:.1f} ms, "
        f"{t.ms_per_token:.2f} ms/token, {tokens_per_s(completion):.1f} tokens/s"
    )
    if guessed:
        yield f"{t.accepted} of {t.drafted} guesses held, {t.forward_passes} passes for {n_new} tokens"
    if completion.beams:
        scores = ", ".join(f"{beam.score:.4f}" for beam in completion.beams)
        yield f"{len(completion.beams)} beams with scores {scores}; {t.forward_passes} passes"
    if completion.dropped_tokens:
        yield f"the context was full: {completion.dropped_tokens} tokens were dropped"


def _generate(
    model: Model, prompt: str, draft: Literal["ngram"] | Model | None, args: argparse.Namespace
) -> Completion:
    """Prints the plan, and the text as it comes; that of a beam search comes at its end."""
    settings = {
        **sampling_of(args),
        **beams_of(args),
        "stop": args.stop,
        "draft": draft,
        "num_assistant_tokens": args.num_assistant_tokens,
        "overflow": args.overflow,
    }
    if args.num_beams != 1:
        completion = model.generate(prompt, **settings)
        print(f"gpt2c: {plan_line(model)}", file=sys.stderr)
        if not args.json:
            print(prompt + completion.text, end="", flush=True)
        return completion
    stream = model.stream(prompt, **settings)
    print(f"gpt2c: {plan_line(model)}", file=sys.stderr)
    if not args.json:
        print(prompt, end="", flush=True)
    for piece in stream:
        if not args.json:
            print(piece, end="", flush=True)
    assert stream.completion is not None
    return stream.completion


def token_text(model: Model) -> Callable[[int], str]:
    """A token's text, U+FFFD in the place of bytes that are no whole character."""
    tokenizer = model.tokenizer
    return lambda token: tokenizer.token_bytes(token).decode(errors="replace")


def tokens_per_s(completion: Completion) -> float:
    """Speed behind the first token; 0.0 when there is nothing behind it."""
    per_token = completion.timings.ms_per_token
    return 1e3 / per_token if per_token else 0.0


def as_json(completion: Completion, plan: str) -> dict[str, Any]:
    """The object that --json prints."""
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


def report_errors(command: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a command; turn each error into its one line and exit status, and each warning into a line."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed
            setattr(sys, name, io.TextIOWrapper(io.BytesIO()))
        elif name != "stdin" and hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)
        try:
            command(args)
            sys.stdout.flush()
        except Gpt2cError as error:
            return _fail(f"error: {error}", 2 if isinstance(error, OptionError) else 1)
        except Warning as warning:  # made an error by -W error
            return _fail(f"error: {warning}")
        except KeyboardInterrupt:
            return _fail("interrupted", before="\n")
        except BrokenPipeError:
            # The reader has gone (`| head`): nothing more to say, and nothing to flush at exit either.
            sys.stdout = None
            return 1
        except MemoryError:
            return _fail("error: out of memory")
        except OSError as error:
            return _fail(f"error: {error.strerror or error}")
    return 0


def _fail(message: str, status: int = 1, before: str = "") -> int:
    print(f"{before}gpt2c: {message}", file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = Parser(prog="python -m gpt2c.run", description="Continue a prompt with a GPT-2 on the CPU.")
    add_arguments(parser)
    return report_errors(run, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
