"""`gpt2c compare`, which is also `run --compare`: run one prompt on every backend."""

from __future__ import annotations

import argparse
import json

from .. import backends
from ..backends import Choices
from ..errors import OptionError
from .arguments import add_model_arguments, add_prompt_arguments, add_setting, read_prompt
from .comparison import as_table, compare, progress_display

HELP = "run one prompt on every backend and compare them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `compare`."""
    add_prompt_arguments(parser)
    add_model_arguments(parser, lists_options=True)
    add_setting(parser, "max_new_tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def run(args: argparse.Namespace) -> None:
    """Compare greedily. --threads applies to all backends, other flags to the row `native`."""
    if args.backend != "native":
        raise OptionError("--compare runs every backend: do not give --backend")
    choices = Choices(args.weights, args.opts or "all", args.threads, args.isa, args.binding)
    with progress_display(len(backends.names()), args.quiet) as progress:
        done = compare(args.model, read_prompt(args), args.max_new_tokens, choices, progress)
    print(json.dumps(done.as_json()) if args.json else as_table(done))
