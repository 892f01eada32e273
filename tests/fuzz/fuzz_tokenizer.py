"""Coverage-guided fuzzing (Atheris) of the tokenizer. Run by tools/fuzz.py.

After an even first byte come three files, separated by zero bytes: vocab.json, merges.txt, tokenizer.json
(an empty one does not exist). Reading them must succeed or raise one of gpt2c's errors.

After an odd first byte, the bytes give merges, a vocabulary that fits them, and a text. tiktoken's core
must encode the text to the ids of the readable loop, and decoding must return the text. The text has no
character newer than Unicode 3.2: tiktoken and `regex`, which splits the text for the loop, do not always
classify the newest characters alike.
"""

from __future__ import annotations

import os
import sys
import tempfile
import unicodedata
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gpt2c"]):
    from gpt2c.errors import Gpt2cError
    from gpt2c.text import bpe
    from gpt2c.text.tokenizer import Tokenizer, Vocabulary

BASE = Path(tempfile.mkdtemp(prefix="gpt2c-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
NAMES = ("vocab.json", "merges.txt", "tokenizer.json")


def files(data: bytes) -> None:
    for name, content in zip(NAMES, data.split(b"\0", 2), strict=False):
        (BASE / name).unlink(missing_ok=True)
        if content:
            (BASE / name).write_bytes(content)
    try:
        tokenizer = Tokenizer.from_folder(BASE)
        assert tokenizer.decode(tokenizer.encode("The sea, 12 ü\n")) == "The sea, 12 ü\n"
    except Gpt2cError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


def merges(data: bytes) -> None:
    provider = atheris.FuzzedDataProvider(data)
    tokens = list(bpe.CHAR_TO_BYTE)
    pairs: list[tuple[int, str, str]] = []
    seen = set(tokens)
    for rank in range(provider.ConsumeIntInRange(0, 40)):
        left = tokens[provider.ConsumeIntInRange(0, len(tokens) - 1)]
        right = tokens[provider.ConsumeIntInRange(0, len(tokens) - 1)]
        if left + right not in seen:
            seen.add(left + right)
            tokens.append(left + right)
            pairs.append((rank, left, right))
    ids = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(Vocabulary(ids, pairs, Path("fuzz"), "fuzz"))
    drawn = provider.ConsumeUnicode(300)
    text = "".join(char for char in drawn if unicodedata.ucd_3_2_0.category(char) != "Cn")
    found = tokenizer.encode(text)
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert tokenizer.decode(found) == whole
    assert found == tokenizer._encode_readable(whole)


def one_input(data: bytes) -> None:
    if data:
        (merges if data[0] % 2 else files)(data[1:])


atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
