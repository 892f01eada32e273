"""`gpt2c download`: download a model from the Hugging Face hub, so that its id works offline."""

from __future__ import annotations

import argparse
import os

from ..checkpoints import hub
from ..checkpoints.checkpoint import load_checkpoint

HELP = "download a model from the Hugging Face hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `download`."""
    parser.description = (
        "Download a model into huggingface_hub's cache, or update it there. An interrupted download is "
        "resumed. Afterwards --model ID works without a network."
    )
    parser.add_argument("model", metavar="ID", help='id of the model, such as "gpt2" or "org/name"')


def run(args: argparse.Namespace) -> None:
    """Download the model, check that gpt2c can run it, and print its folder."""
    if args.quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # huggingface_hub reads it on import
    folder = hub.download(args.model)
    load_checkpoint(folder).close()
    print(folder)
