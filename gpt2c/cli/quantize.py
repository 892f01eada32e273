"""`gpt2c quantize`: write a model with its matrices in 8 or 4 bits."""

from __future__ import annotations

import argparse
from pathlib import Path

from .._files import quoted
from ..checkpoints import hub
from ..checkpoints.checkpoint import Checkpoint, load_checkpoint
from ..checkpoints.formats import FORMATS
from ..errors import ModelFileError
from ..quantization.calibration import N_WINDOWS
from ..quantization.write import write_quantized
from ..text.tokenizer import Tokenizer
from .terminal import bar_of_bytes

HELP = "write a model in 8 or 4 bits"

_CHARACTERS = 8  # more than a token has on average in any ordinary text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `quantize`."""
    parser.description = (
        "Write a model with its matrices in 8 or 4 bits, into a folder that loads like any other. "
        "FOLDER is written whole or not at all. docs/quantization.md gives the loss of accuracy."
    )
    parser.add_argument("model", metavar="MODEL", help="folder, weight file, hub id or embedded")
    parser.add_argument("--weights", metavar="F", required=True, help=f"format: {', '.join(FORMATS)}")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="folder to write; must not exist yet",
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE",
        help="a text like those the model will see: rounding is adapted to reduce the error on it (slow)",
    )


def run(args: argparse.Namespace) -> None:
    """Quantize the model, with a progress bar on a terminal."""
    with load_checkpoint(hub.resolve_model(args.model)) as checkpoint:
        ids = _calibration_ids(checkpoint, args.calibrate) if args.calibrate else ()
        write_quantized(checkpoint, args.output, args.weights, bar_of_bytes(args.quiet), ids)


def _calibration_ids(checkpoint: Checkpoint, path: str) -> list[int]:
    """Return the token ids of a text file, up to the number that calibration uses.

    Raises ModelFileError if the file cannot be read or has fewer than n_ctx tokens.
    """
    max_ids = N_WINDOWS * checkpoint.config.n_ctx
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_CHARACTERS * max_ids)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ModelFileError(f"calibration text {quoted(path, 300)} cannot be read: {reason}") from None
    ids = Tokenizer(checkpoint.read_vocabulary(), checkpoint.config).encode(text)
    if len(ids) < checkpoint.config.n_ctx:
        raise ModelFileError(
            f"calibration text {quoted(path, 300)} has {len(ids)} tokens, "
            f"but at least {checkpoint.config.n_ctx} are needed"
        )
    return ids[:max_ids]
