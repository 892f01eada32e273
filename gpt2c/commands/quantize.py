"""`gpt2c quantize`: write a model with its matrices in 8 or 4 bits."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .. import hub
from ..quantized import FORMATS
from ..weights import load_checkpoint
from ..writers import write_quantized
from .convert import draw_bar

HELP = "write a model in 8 or 4 bits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All flags of `quantize`."""
    parser.description = (
        "Write a model with its matrices in 8 or 4 bits, into a folder that loads like any other. "
        "Whatever happens, FOLDER is there whole or not at all. docs/quantization.md says what it costs."
    )
    parser.add_argument("model", metavar="MODEL", help="folder, file of weights or hub id")
    parser.add_argument("--weights", metavar="F", required=True, help=f"format: {', '.join(FORMATS)}")
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, required=True, help="must not be there yet"
    )


def run(args: argparse.Namespace) -> None:
    """Quantize, showing the progress on a terminal."""
    with load_checkpoint(hub.resolve_model(args.model)) as checkpoint:
        write_quantized(checkpoint, args.output, args.weights, draw_bar if sys.stderr.isatty() else None)
