"""Turn a text into token files, which tools/train.py trains on.

    python tools/prepare_text.py TEXT -o FOLDER [--vocabulary MODEL] [--hold-out TOKENS]
    python tools/prepare_text.py --recipe tinyshakespeare TEXT -o FOLDER --vocabulary gpt2

TEXT is UTF-8, or that packed with xz or gzip. `<|endoftext|>` in it parts documents and becomes that token.
MODEL is a folder with `vocab.json` and `merges.txt` or a `tokenizer.json`, or a hub id (default: the
embedded model). FOLDER gets
`train.bin`, and with --hold-out `valid.bin` with the first TOKENS tokens: uint16 ids behind the header
that llm.c gives them.

The recipe `tinyshakespeare` is the one of llm.c and staticgrad: a text of speeches parted by empty lines,
`<|endoftext|>` before each, and the first 32,768 tokens held out.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout

from training.token_file import MOST_IDS, write_tokens

from gpt2c.checkpoints.hub import resolve_model
from gpt2c.errors import Gpt2cError, TokenError
from gpt2c.text.tokenizer import END_OF_TEXT, Tokenizer

_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}


def read_text(path: Path) -> str:
    """The text of a file, unpacked by its suffix. Gpt2cError: it is not there, or not such a text."""
    try:
        with _OPENERS.get(path.suffix, open)(path, "rb") as file:
            data: bytes = file.read()
        return data.decode()
    except UnicodeDecodeError as error:
        raise Gpt2cError(f"{str(path)!r} is not UTF-8 text (byte {error.start})") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Gpt2cError(f"{str(path)!r} cannot be read: {reason}") from None


def documents(text: str) -> Iterator[list[str]]:
    """The parts between `<|endoftext|>`, with the token behind all but the last where the text has it."""
    *parted, last = text.split(END_OF_TEXT)
    for part in parted:
        yield [part, END_OF_TEXT]
    if last:
        yield [last]


def speeches(text: str) -> Iterator[list[str]]:
    """The parts between empty lines, which they keep, each behind `<|endoftext|>`."""
    *parted, last = text.split("\n\n")
    for part in parted:
        yield [END_OF_TEXT, part + "\n\n"]
    yield [END_OF_TEXT, last]


@dataclass(frozen=True)
class Recipe:
    """How a text is parted into pieces, and how many tokens are held out at its start."""

    pieces: Callable[[str], Iterator[list[str]]]
    n_hold_out: int


RECIPES = {"plain": Recipe(documents, 0), "tinyshakespeare": Recipe(speeches, 32_768)}


def encode(
    text: str, tokenizer: Tokenizer, pieces: Callable[[str], Iterator[list[str]]] = documents
) -> NDArray[np.uint16]:
    """The ids of a text, [n]. TokenError: the vocabulary has no `<|endoftext|>` but the text needs it, or
    it has more ids than uint16 holds.
    """
    if tokenizer.n_vocab > MOST_IDS:
        raise TokenError(f"a vocabulary of {tokenizer.n_vocab:,} ids does not fit into uint16")
    found = []
    for piece in pieces(text):
        ids: list[int] = []
        for part in piece:
            if part != END_OF_TEXT:
                ids += tokenizer.encode(part)
            elif tokenizer.eos_token_id is None:
                raise TokenError(f"the vocabulary has no {END_OF_TEXT}, which the text needs")
            else:
                ids.append(tokenizer.eos_token_id)
        found.append(np.array(ids, np.uint16))
    if not sum(map(len, found)):
        raise TokenError("the text is empty")
    return np.concatenate(found)


def prepare(text: Path, folder: Path, vocabulary: str | None, recipe: Recipe, n_hold_out: int) -> None:
    """Write train.bin, and valid.bin if n_hold_out is not 0, into a folder, which is made if need be."""
    tokenizer = Tokenizer.from_folder(resolve_model(vocabulary))
    ids = encode(read_text(text), tokenizer, recipe.pieces)
    if n_hold_out >= len(ids):
        raise TokenError(f"{n_hold_out:,} tokens cannot be held out: the text has {len(ids):,}")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"valid.bin": ids[:n_hold_out], "train.bin": ids[n_hold_out:]}
    for name, part in parts.items():
        if len(part):
            write_tokens(folder / name, part)
            print(f"{folder / name}: {len(part):,} tokens")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", metavar="TEXT", type=Path, help="UTF-8, plain or packed with xz or gzip")
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, type=Path)
    parser.add_argument("--vocabulary", metavar="MODEL", help="folder or hub id (default: the embedded one)")
    parser.add_argument("--recipe", choices=RECIPES, default="plain", help="how the text is parted")
    parser.add_argument("--hold-out", metavar="TOKENS", type=int, help="the first so many go to valid.bin")
    args = parser.parse_args(argv)
    recipe = RECIPES[args.recipe]
    n_hold_out = recipe.n_hold_out if args.hold_out is None else args.hold_out
    if n_hold_out < 0:
        parser.error("--hold-out must not be negative")
    try:
        prepare(args.text, args.output, args.vocabulary, recipe, n_hold_out)
    except Gpt2cError as error:
        print(f"prepare_text: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
