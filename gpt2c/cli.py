"""The `gpt2c` command: `run` with its subcommands beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__, build_info, run


def info(args: argparse.Namespace) -> None:
    """Print what is installed, and what the model is."""
    with run.load_model(args) as model:
        built, c = build_info(args.binding), model.config
        supported = built["isas_supported"]
        isas = [name if name in supported else f"({name})" for name in built["isas_compiled"]]
        print(f"gpt2c {built['version']}")
        print(f"binding      {built['binding']} (built: {', '.join(built['bindings'])})")
        print(f"isa          {built['isa']} (compiled: {' '.join(isas)}; in brackets: not on this machine)")
        print(f"model        {args.model or 'embedded'}")
        print(
            f"shape        n_layer={c.n_layer} n_head={c.n_head} n_embd={c.n_embd} n_inner={c.n_inner} "
            f"n_ctx={c.n_ctx} n_vocab={c.n_vocab}"
        )
        print(f"parameters   {c.n_parameters:,}")
        print(f"weights      {model.weight_bytes:,} bytes in memory, {model.plan.weights}")
        print(f"plan         {model.plan}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = run.Parser(prog="gpt2c", description="GPT-2 on the CPU.")
    parser.add_argument("--version", action="version", version=f"gpt2c {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run.add_arguments(commands.add_parser("run", help="continue a prompt"))
    run.add_model_arguments(commands.add_parser("info", help="what is installed, and what a model is"))
    args = parser.parse_args(argv)
    return run.report_errors({"run": run.run, "info": info}[args.command], args)


if __name__ == "__main__":
    sys.exit(main())
