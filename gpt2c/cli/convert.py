"""`gpt2c convert`: write a model as a folder in Hugging Face layout or as a GGUF file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoints import hub
from ..checkpoints.checkpoint import load_checkpoint
from ..checkpoints.writers import DTYPES, write_folder, write_gguf
from ..errors import OptionError
from .terminal import bar_of_bytes

HELP = "write a model as safetensors or GGUF"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `convert`."""
    parser.description = (
        "Write a model as a folder in Hugging Face layout, or as a GGUF file if OUT ends in .gguf. "
        "OUT is written whole or not at all."
    )
    parser.add_argument("model", metavar="MODEL", help="folder, weight file, hub id or embedded")
    parser.add_argument(
        "output", metavar="OUT", type=Path, help="folder or file to write; must not exist yet"
    )
    parser.add_argument("--dtype", metavar="D", help=f"{', '.join(DTYPES)} (default: as stored)")


def run(args: argparse.Namespace) -> None:
    """Convert the model, with a progress bar on a terminal."""
    if args.dtype not in (None, *DTYPES):
        raise OptionError(f"unknown dtype {args.dtype!r} (choose from {', '.join(DTYPES)})")
    write = write_gguf if args.output.suffix == ".gguf" else write_folder
    with load_checkpoint(hub.resolve_model(args.model)) as checkpoint:
        write(checkpoint, args.output, args.dtype, bar_of_bytes(args.quiet))
