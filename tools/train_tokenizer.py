"""Train a byte-level BPE vocabulary like GPT-2's on a text.

    python tools/train_tokenizer.py TEXT -o FOLDER --size 8192

TEXT is UTF-8, plain or compressed with xz or gzip; `<|endoftext|>` in it separates documents. The size counts
every token: the 256 bytes, the merges, and `<|endoftext|>`, which is the last one as in GPT-2. The tool
writes vocab.json and merges.txt to FOLDER, for gpt2c and transformers. The training itself is done by Hugging
Face's `tokenizers` (the extra `train`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout

from prepare_text import read_text

from gpt2c.checkpoints.writers.atomic import new_folder
from gpt2c.checkpoints.writers.huggingface import write_vocabulary
from gpt2c.errors import BackendUnavailable, Gpt2cError
from gpt2c.text.tokenizer import END_OF_TEXT, Vocabulary

MIN_SIZE = 257  # the bytes and <|endoftext|>


def train_vocabulary(text: str, size: int) -> Vocabulary:
    """Train a vocabulary of `size` tokens, or fewer if the text has no more pairs to merge.

    BackendUnavailable: tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise BackendUnavailable("this needs tokenizers: pip install 'gpt2c[train]'") from None
    splitter = pre_tokenizers.ByteLevel
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,  # the special token is added at the end
        initial_alphabet=sorted(splitter.alphabet()),
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(text.split(END_OF_TEXT), trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    ids = dict(sorted(trained["vocab"].items(), key=lambda entry: entry[1]))
    ids[END_OF_TEXT] = len(ids)
    merges = [(number, left, right) for number, (left, right) in enumerate(trained["merges"])]
    return Vocabulary(ids, merges, Path("tokenizers"), "merge")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", metavar="TEXT", type=Path, help="UTF-8, plain or compressed with xz or gzip")
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, type=Path, help="must not exist")
    parser.add_argument(
        "--size", metavar="N", type=int, default=8192, help="number of tokens (default: 8192)"
    )
    args = parser.parse_args(argv)
    if args.size < MIN_SIZE:
        parser.error(f"--size must be at least {MIN_SIZE}: the 256 bytes and {END_OF_TEXT}")
    try:
        with new_folder(args.output) as folder:
            vocabulary = train_vocabulary(read_text(args.text), args.size)
            write_vocabulary(vocabulary, folder)
    except Gpt2cError as error:
        print(f"train_tokenizer: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {len(vocabulary.ids):,} tokens", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
