"""Turn a text into token files, which tools/train.py trains on.

    python tools/prepare_text.py TEXT -o FOLDER [--vocabulary MODEL] [--hold-out TOKENS]
    python tools/prepare_text.py --recipe tinyshakespeare TEXT -o FOLDER --vocabulary gpt2

TEXT is UTF-8, plain or compressed with xz or gzip. `<|endoftext|>` in it separates documents and becomes the
token of that name. MODEL is a folder with `vocab.json` and `merges.txt` or a `tokenizer.json`, or a hub id
(default: the embedded model). The tool writes `train.bin` to FOLDER, and with --hold-out also `valid.bin`
with the first TOKENS tokens. Both hold uint16 ids after a header, in llm.c's format.

The recipe `tinyshakespeare` is that of llm.c and staticgrad: the text consists of speeches separated by empty
lines, `<|endoftext|>` is inserted before each speech, and the first 32,768 tokens are held out.
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

from training.token_file import MAX_IDS, write_tokens

from gpt2c.checkpoints.hub import resolve_model
from gpt2c.errors import Gpt2cError, TokenError
from gpt2c.text.tokenizer import END_OF_TEXT, Tokenizer

_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}


def read_text(path: Path) -> str:
    """The text of a file; .xz and .gz are decompressed. Gpt2cError: it is not UTF-8 or cannot be read."""
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
    """The parts of a text between `<|endoftext|>`, each followed by that token except for the last one."""
    *ended, last = text.split(END_OF_TEXT)
    for part in ended:
        yield [part, END_OF_TEXT]
    if last:
        yield [last]


def speeches(text: str) -> Iterator[list[str]]:
    """The parts of a text up to and with an empty line, `<|endoftext|>` inserted before each."""
    *ended, last = text.split("\n\n")
    for part in ended:
        yield [END_OF_TEXT, part + "\n\n"]
    yield [END_OF_TEXT, last]


@dataclass(frozen=True)
class Recipe:
    """How a text is split into pieces, and how many tokens at its start are held out."""

    pieces: Callable[[str], Iterator[list[str]]]
    n_hold_out: int


RECIPES = {"plain": Recipe(documents, 0), "tinyshakespeare": Recipe(speeches, 32_768)}


def encode(
    text: str, tokenizer: Tokenizer, pieces: Callable[[str], Iterator[list[str]]] = documents
) -> NDArray[np.uint16]:
    """The ids of a text, uint16 [n].

    pieces: splits the text into lists of ordinary text and `<|endoftext|>`. TokenError: the text is empty, it
    needs `<|endoftext|>` and the vocabulary has none, or the vocabulary has more ids than uint16 holds.
    """
    if tokenizer.n_vocab > MAX_IDS:
        raise TokenError(f"a vocabulary of {tokenizer.n_vocab:,} ids does not fit into uint16")
    arrays = []
    for piece in pieces(text):
        ids: list[int] = []
        for part in piece:
            if part != END_OF_TEXT:
                ids += tokenizer.encode(part)
            elif tokenizer.eos_token_id is None:
                raise TokenError(f"the vocabulary has no {END_OF_TEXT}, which the text needs")
            else:
                ids.append(tokenizer.eos_token_id)
        arrays.append(np.array(ids, np.uint16))
    if not sum(map(len, arrays)):
        raise TokenError("the text is empty")
    return np.concatenate(arrays)


def prepare(text: Path, folder: Path, vocabulary: str | None, recipe: Recipe, n_hold_out: int) -> None:
    """Write train.bin, and valid.bin if n_hold_out is not 0, to a folder, which is created if necessary."""
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
    parser.add_argument("text", metavar="TEXT", type=Path, help="UTF-8, plain or compressed with xz or gzip")
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, type=Path)
    parser.add_argument(
        "--vocabulary", metavar="MODEL", help="folder or hub id (default: the embedded model)"
    )
    parser.add_argument("--recipe", choices=RECIPES, default="plain", help="how the text is split")
    parser.add_argument(
        "--hold-out", metavar="TOKENS", type=int, help="number of tokens at the start that go to valid.bin"
    )
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
