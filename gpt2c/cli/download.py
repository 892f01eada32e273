"""`gpt2c download`: fetch a model from the Hugging Face hub, to be used by its name from then on."""

from __future__ import annotations

import argparse
import os

from ..checkpoints import hub
from ..checkpoints.checkpoint import load_checkpoint

HELP = "fetch a model from the Hugging Face hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All flags of `download`."""
    parser.description = (
        "Fetch a model into huggingface_hub's own cache, or bring it up to date. What was broken off is "
        "resumed. Afterwards --model ID works without the network."
    )
    parser.add_argument("model", metavar="ID", help='such as "gpt2" or "org/name"')


def run(args: argparse.Namespace) -> None:
    """Fetch, check that it is a model that gpt2c runs, and print its folder."""
    if args.quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # the client reads it when it is imported
    folder = hub.download(args.model)
    load_checkpoint(folder).close()
    print(folder)
