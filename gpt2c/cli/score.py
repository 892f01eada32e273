"""`gpt2c score FILE`: print how probable a model finds a text, or each text of a JSON Lines file."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import Gpt2cError, OptionError, TokenError
from ..generation.scoring import Score
from .arguments import add_model_arguments, load_model, note, plan_line
from .terminal import draw_bar

HELP = "score texts: log probabilities, perplexity, bits per byte"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all flags of `score`."""
    parser.add_argument(
        "file", metavar="FILE", help="a text file, or with --jsonl JSON Lines; - is standard input"
    )
    add_model_arguments(parser)
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--jsonl",
        action="store_true",
        help="score each line: a JSON string, or an object with text or ids",
    )
    group.add_argument("--json", action="store_true", help="print one JSON object for the text")
    group.add_argument(
        "--logprobs", action="store_true", help="add the log probability of each token to the JSON"
    )
    group.add_argument(
        "--stride", metavar="N", type=int, help="tokens between windows (default: half the context)"
    )


def run(args: argparse.Namespace) -> None:
    """Score the file and print the results."""
    if args.json and args.jsonl:
        raise OptionError("give --json (one text) or --jsonl (one text per line), not both")
    if args.logprobs and not (args.json or args.jsonl):
        raise OptionError("--logprobs needs --json or --jsonl")
    text = _read(args.file)
    texts = list(_lines(text, args.file)) if args.jsonl else [(1, text)]
    with load_model(args) as model:
        note(args, plan_line(model))
        encoded = [(n, model.tokenizer.encode(t) if isinstance(t, str) else t) for n, t in texts]
        progress = _progress_bar(sum(max(0, len(ids) - 1) for _, ids in encoded), args.quiet)
        for n, ids in encoded:
            try:
                score = model.score(ids, args.stride, progress=progress)
            except TokenError as error:
                raise TokenError(f"line {n}: {error}" if args.jsonl else str(error)) from None
            if args.json or args.jsonl:
                print(json.dumps(as_json(score, args.logprobs)), flush=True)
            else:
                print(_as_text(score))


def as_json(score: Score, logprobs: bool = False) -> dict[str, Any]:
    """Return the object that --json prints, and --jsonl for each line.

    JSON has no infinity; such a value is null.
    """
    found = {
        "tokens": score.logprobs.size + 1,
        "nll": score.nll,
        "perplexity": None if score.perplexity == math.inf else score.perplexity,
        "bits_per_byte": None if score.bits_per_byte == math.inf else score.bits_per_byte,
    }
    return {**found, "logprobs": score.logprobs.tolist()} if logprobs else found


def _as_text(score: Score) -> str:
    bits = "" if score.bits_per_byte is None else f"\nbits/byte    {score.bits_per_byte:.4f}"
    return (
        f"tokens       {score.logprobs.size + 1:,}, all but the first scored\n"
        f"nll          {score.nll:.4f} nats per token\n"
        f"perplexity   {score.perplexity:.3f}{bits}"
    )


def _read(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise Gpt2cError(f"{source!r} cannot be read: {error.strerror}") from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Gpt2cError(f"{source!r} is not UTF-8 text (byte {error.start})") from None


def _lines(text: str, source: str) -> Iterator[tuple[int, str | list[int]]]:
    """Yield (line number, text or ids) for each line of JSON Lines; empty lines are skipped."""
    for n, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Gpt2cError(f"{source!r}, line {n}: is not JSON: {error}") from None
        if isinstance(value, dict):
            value = value.get("text", value.get("ids"))
        if not isinstance(value, (str, list)):
            raise Gpt2cError(f"{source!r}, line {n}: must be a string, or an object with text or ids")
        yield n, value


def _progress_bar(n_all: int, quiet: bool) -> Callable[[int], None]:
    """Return a function that counts scored tokens, and on a terminal draws a progress bar."""
    n_done = 0

    def draw(n: int) -> None:
        nonlocal n_done
        n_done += n
        draw_bar(n_done, n_all, f"{n_done:,} of {n_all:,} tokens")

    return draw if sys.stderr.isatty() and not quiet else lambda n: None
