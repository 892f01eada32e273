"""The `gpt2c` command and its subcommands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Protocol

from . import chat, compare_command, convert, download, info, quantize, run, score
from .arguments import Parser, PrintVersion, add_quiet_argument, report_errors


class Command(Protocol):
    """The interface of a subcommand's module."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add all flags of the subcommand."""

    def run(self, args: argparse.Namespace) -> None:
        """Run the subcommand. Errors are raised."""


# A subcommand is registered here only.
COMMANDS: dict[str, Command] = {
    "run": run,
    "chat": chat,
    "score": score,
    "compare": compare_command,
    "quantize": quantize,
    "convert": convert,
    "download": download,
    "info": info,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog="gpt2c", description="Run GPT-2 models on the CPU.")
    parser.add_argument("--version", action=PrintVersion)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        description = f"{command.HELP[0].upper()}{command.HELP[1:]}."
        subparser = subparsers.add_parser(name, help=command.HELP, description=description)
        command.add_arguments(subparser)
        add_quiet_argument(subparser)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    return report_errors(COMMANDS[args.command].run, args)
