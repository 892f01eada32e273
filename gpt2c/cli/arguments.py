"""Code that the subcommands share: the parser, groups of flags, and errors printed as one line."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import bindings
from ..backends import names as backend_names
from ..bindings import NAMES
from ..errors import Gpt2cError, OptionError
from ..generation.continuation import Completion
from ..generation.settings import SETTINGS
from ..model import Model, load
from ..options import OPTIONS, WEIGHTS

DEFAULT_PROMPT = "Once upon a time"


class Parser(argparse.ArgumentParser):
    """An argument parser that prints an error as one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"gpt2c: error: {message} (see --help)\n")


class PrintVersion(argparse.Action):
    """Print the version and exit. argparse's own action needs the text before anybody asks for it."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"gpt2c {bindings.version()}")
        parser.exit()


def options_help() -> str:
    """Describe each option of --opts, for the end of a command's help."""
    rows = [f"  {option.name:<11} {option.on}\n{'':13} off: {option.off}" for option in OPTIONS]
    return "options of --opts: a comma-separated list, 'none' or 'all' (the default):\n" + "\n".join(rows)


def add_model_arguments(parser: argparse.ArgumentParser, lists_options: bool = False) -> None:
    """Add the flags that say which model runs, and how. lists_options: list all options in the help."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = options_help() if lists_options else "`gpt2c run --help` lists the options of --opts."
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="M", help="folder, weight file or hub id (default: embedded)")
    group.add_argument(
        "--backend",
        metavar="B",
        default="native",
        help=f"backend: {', '.join(backend_names())} (default: native)",
    )
    group.add_argument("--opts", metavar="LIST", help="optimizations to turn on (default: all)")
    group.add_argument("--weights", metavar="F", help=f"weight format: {', '.join(WEIGHTS)}")
    group.add_argument("--binding", metavar="B", default="auto", help=f"binding: auto, {', '.join(NAMES)}")
    group.add_argument("--threads", metavar="N", type=int, help="number of threads (default: one per core)")
    group.add_argument(
        "--isa", metavar="I", default="auto", help="instruction set (listed by `info`), or auto"
    )


def add_quiet_argument(parser: argparse.ArgumentParser) -> None:
    """Add --quiet, which every command has."""
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="on standard error, print only warnings, errors and what --trace shows",
    )


def note(args: argparse.Namespace, text: str) -> None:
    """Print a line on standard error, unless --quiet is given."""
    if not args.quiet:
        print(f"gpt2c: {text}", file=sys.stderr)


def add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the prompt comes from."""
    prompt = parser.add_argument_group("prompt").add_mutually_exclusive_group()
    prompt.add_argument("stdin", nargs="?", metavar="-", help="read the prompt from standard input")
    prompt.add_argument("--prompt", metavar="TEXT", help=f"text to continue (default: {DEFAULT_PROMPT!r})")
    prompt.add_argument(
        "--prompt-file", metavar="F", help="read the prompt from a file (- is standard input)"
    )


def add_setting(parser: argparse._ActionsContainer, name: str) -> None:
    """Add the flag of one generation setting, as its row defines it."""
    row = SETTINGS[name]
    assert row.flag is not None
    parser.add_argument(
        f"--{name.replace('_', '-')}",
        metavar=row.flag.metavar,
        type=row.flag.parse,
        default=row.flag_default,
        help=row.flag.help,
        **row.flag.more,
    )


def add_generation_arguments(parser: argparse.ArgumentParser, chat: bool = False) -> None:
    """Add the flags of settings.py that the command has: how tokens are chosen, and how many."""
    group = parser.add_argument_group("generation")
    for name, row in SETTINGS.items():
        if row.flag is not None and (row.flag.in_chat or not chat):
            add_setting(group, name)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the flags of `add_generation_arguments` give. The API checks them."""
    given = {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
    if args.temperature is None:
        given["temperature"] = 0.8 if given.get("num_beams", 1) == 1 else 0.0
    return given


def read_prompt(args: argparse.Namespace) -> str:
    """Return the prompt that the flags name. Bytes that are not UTF-8 become U+FFFD, with a note."""
    if args.stdin not in (None, "-"):
        raise OptionError(f"unexpected argument {args.stdin!r}: give a prompt with --prompt")
    source = args.stdin or args.prompt_file
    if args.prompt is not None:
        data = args.prompt.encode(errors="surrogateescape")  # restores the bytes that were typed
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
        print("gpt2c: the prompt is not valid UTF-8; invalid bytes were replaced", file=sys.stderr)
        return str(data.decode(errors="replace"))


def load_model(args: argparse.Namespace, model: str | None = None) -> Model:
    """Load the model that the flags of `add_model_arguments` name, or the given one with the same flags."""
    if args.opts is not None and args.backend != "native":  # load() cannot tell --opts all from no --opts
        raise OptionError(f"--opts works with the native backend only, not with {args.backend!r}")
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
    """Describe what runs: the plan and the binding."""
    binding = f" binding={model.binding}" if model.plan.backend == "native" else ""
    return f"{model.plan}{binding}"


def token_text(model: Model) -> Callable[[int], str]:
    """Return a function from token ids to text, with U+FFFD for bytes that are not a whole character."""
    tokenizer = model.tokenizer
    return lambda token: tokenizer.token_bytes(token).decode(errors="replace")


def tokens_per_s(completion: Completion) -> float:
    """Return the speed after the first token; 0.0 if there was only one."""
    per_token = completion.timings.ms_per_token
    return 1e3 / per_token if per_token else 0.0


def report_errors(command: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a command and return its exit status. Each error and each warning is printed as one line."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # the process was started with it closed
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
        except Warning as warning:  # python -W error raises warnings
            return _fail(f"error: {warning}")
        except KeyboardInterrupt:
            return _fail("interrupted", before="\n")
        except BrokenPipeError:
            # The reader has gone away (`| head`). With stdout None, Python does not flush it at exit.
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
