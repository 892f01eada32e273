"""Text to token ids and back: byte-level BPE from the checkpoint's vocabulary files.

The files are read and checked here; `bpe.py` defines what their merges mean. If the ids follow the order of
the merges and the merges give every token, tiktoken gives the same ids, and encodes. Otherwise the readable
loop of `bpe.py` encodes. tiktoken is imported by the first `encode`.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2c.config import ModelConfig
from gpt2c.errors import BackendUnavailable, ModelFileError, ModelNotFoundError, TokenError
from gpt2c.text import bpe

if TYPE_CHECKING:
    import tiktoken

END_OF_TEXT = "<|endoftext|>"
MAX_FILE_BYTES = 100_000_000
MAX_ENTRIES = 2_000_000  # commas in a file; GPT-2's tokenizer.json has about 200,000
LONG_PIECE = 1000  # bytes from which on the heap is faster than the readable loop
WINDOW = 1024  # characters that tiktoken gets at once if a text has a very long word
UNSETTLED = 16  # tokens at the end of a window that the text after it might change
WHITE_SPACE = re.compile(f"[{bpe.WHITE_SPACE}]")
NOT_WHITE_SPACE = re.compile(f"[^{bpe.WHITE_SPACE}]")


VOCABULARY_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer.json")
"""The files that `read_vocabulary` looks for in a folder."""


class Tokenizer:
    """A checkpoint's vocabulary: `encode` and `decode`, and the bytes of single tokens.

    `n_vocab` is the config's (without a config, the highest id + 1). An id below it that no file lists is
    padding: it has no bytes. `eos_token_id` is the config's, else the id of `<|endoftext|>`, else None.
    Special tokens are those that are neither a byte nor the result of a merge. Any number of threads may
    use one tokenizer.
    """

    def __init__(self, vocabulary: Vocabulary, config: ModelConfig | None = None) -> None:
        """Check a vocabulary, and that it fits a model. ModelFileError names the file and the entry."""
        ids, source, place = vocabulary.ids, vocabulary.source, vocabulary.merge_place
        _check_ids(vocabulary, config.n_vocab if config else None)
        self.n_vocab: int = config.n_vocab if config else max(ids.values(), default=-1) + 1
        token_bytes = {char: bytes([byte]) for char, byte in bpe.CHAR_TO_BYTE.items()}
        for char, byte in bpe.CHAR_TO_BYTE.items():
            if char not in ids:
                raise ModelFileError(
                    f"{source}: no token for byte {byte:#04x} ({char!r}): a byte-level vocabulary has all 256"
                )
        self._ranks: dict[tuple[bytes, bytes], int] = {}
        merged: list[int] = []
        for number, left, right in vocabulary.merges:
            joined = left + right
            if joined not in ids or left not in ids or right not in ids:
                missing = next(token for token in (left, right, joined) if token not in ids)
                raise ModelFileError(f"{place} {number}: token {_show(missing)} is not in the vocabulary")
            for token in (left, right):
                if token not in token_bytes:
                    token_bytes[token] = _decode_token(token, f"{place} {number}")
            pair = token_bytes[left], token_bytes[right]
            if pair in self._ranks:
                raise ModelFileError(f"{place} {number}: merge {_show(left + ' ' + right)} is listed twice")
            self._ranks[pair] = len(merged)
            token_bytes[joined] = pair[0] + pair[1]
            merged.append(ids[joined])
        self._ids_follow_merges = all(a < b for a, b in pairwise(merged))
        self._id_of = {data: ids[token] for token, data in token_bytes.items()}
        self._special = {token: id for token, id in ids.items() if token not in token_bytes}
        self._bytes_of = {id: data for data, id in self._id_of.items()}
        for token, id in self._special.items():
            self._bytes_of[id] = _encode_special(token, source)
        self.eos_token_id: int | None = config.eos_token_id if config else None
        if self.eos_token_id is None:
            self.eos_token_id = ids.get(END_OF_TEXT)

    @classmethod
    def from_folder(cls, folder: Path, config: ModelConfig | None = None) -> Tokenizer:
        """Read `vocab.json` and `merges.txt` (and `added_tokens.json`), else `tokenizer.json`.

        ModelNotFoundError: the files do not exist. ModelFileError: they hold no byte-level BPE, or an id that
        is not below the config's n_vocab.
        """
        return cls(read_vocabulary(Path(folder)), config)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of a text.

        allow_special: whether names of special tokens in the text, such as `<|endoftext|>`, become those
        tokens; otherwise they are ordinary text. A lone surrogate is encoded as U+FFFD, as in tiktoken.
        TokenError if `text` is not a str.
        """
        if not isinstance(text, str):
            raise TokenError(f"encode() takes a str, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if not allow_special or not self._special:
            return self._encode_ordinary(text)
        ids: list[int] = []
        end = 0
        for match in self._special_pattern.finditer(text):
            ids += self._encode_ordinary(text[end : match.start()])
            ids.append(self._special[match.group()])
            end = match.end()
        return ids + self._encode_ordinary(text[end:])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; bytes that are not UTF-8 become U+FFFD. TokenError for an unknown id."""
        if isinstance(ids, (str, bytes)):
            raise TokenError(f"decode() takes token ids, not {type(ids).__name__}")
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token, b"" for padding. TokenError unless `id` is an integer in [0, n_vocab)."""
        try:
            index = operator.index(id)
        except TypeError:
            raise TokenError(f"a token id must be an integer, not {type(id).__name__}") from None
        if not 0 <= index < self.n_vocab:
            raise TokenError(f"token id {index} is outside the vocabulary of {self.n_vocab}")
        return self._bytes_of.get(index, b"")

    def has_tokens_of(self, other: Tokenizer) -> bool:
        """Whether every id has the same bytes in both vocabularies."""
        return self._bytes_of == other._bytes_of

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._special, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    @cached_property
    def _core(self) -> tiktoken.Encoding | None:
        """tiktoken with this vocabulary; None if its ids could differ from those of the merges."""
        if not self._ids_follow_merges or not bpe.merges_give_every_token(self._ranks):
            return None
        try:
            import tiktoken
        except ImportError as error:
            raise BackendUnavailable(f"text needs tiktoken, which cannot be imported: {error}") from None
        return tiktoken.Encoding(
            "gpt2c", pat_str=bpe.PIECE_PATTERN, mergeable_ranks=self._id_of, special_tokens={}
        )

    def _encode_ordinary(self, text: str) -> list[int]:
        if self._core is None:
            return self._encode_readable(text)
        if _has_long_run(text):
            return self._encode_windows(self._core, text)
        return self._core.encode_ordinary(text)

    def _encode_readable(self, text: str) -> list[int]:
        """Encode a text as GPT-2's tokenizer is defined, step by step. Tests compare tiktoken with it."""
        import regex

        ids: list[int] = []
        for match in regex.finditer(bpe.PIECE_PATTERN, text):
            piece = match.group().encode()
            merge = bpe.bpe_merge if len(piece) < LONG_PIECE else bpe.bpe_merge_long
            ids += [self._id_of[token] for token in merge(piece, self._ranks)]
        return ids

    def _encode_windows(
        self, core: tiktoken.Encoding, text: str, window: int = WINDOW, unsettled: int = UNSETTLED
    ) -> list[int]:
        """Encode window by window a text with a very long word or run of white space; gives the same ids.

        tiktoken is slow for such a word (before 0.13 it takes quadratic time) and panics at a million spaces
        before a letter. Each window is cut between two of its tokens, a little before its end, at a place
        where both sides are certain to be encoded as in the whole text. If there is no such place, the text
        is encoded with windows of twice the length.
        """
        ids: list[int] = []
        start, tokens = 0, core.encode_ordinary(text[:window])
        while start + window < len(text):
            cuts = self._cuts(text, start + window, tokens, unsettled)
            for n_tokens, at, is_border in islice(cuts, 8):
                following = core.encode_ordinary(text[at : at + window])
                if is_border or self._stay_apart(tokens[n_tokens - 1], following[0]):
                    ids += tokens[:n_tokens]
                    start, tokens = at, following
                    break
            else:
                return self._encode_windows(core, text, 2 * window, unsettled)
        return ids + tokens

    def _cuts(
        self, text: str, end: int, tokens: list[int], unsettled: int
    ) -> Iterator[tuple[int, int, bool]]:
        """The places where text[:end] can be cut between its tokens, from the end backwards.

        Yields the number of tokens before the place, its index in `text`, and whether a piece ends there;
        stops after a few hundred tokens.
        """
        at = end
        for n_tokens in range(len(tokens) - 1, max(0, len(tokens) - 500), -1):
            starts_character = [byte & 0xC0 != 0x80 for byte in self._bytes_of[tokens[n_tokens]]]
            at -= sum(starts_character)
            if starts_character[0] and n_tokens <= len(tokens) - unsettled:
                is_border = bpe.piece_border(text, at)
                if is_border is not None:
                    yield n_tokens, at, is_border

    def _stay_apart(self, left: int, right: int) -> bool:
        return bpe.stay_apart(self._bytes_of[left], self._bytes_of[right], self._ranks, self._recipes)

    @cached_property
    def _recipes(self) -> dict[bytes, bpe.Recipe]:
        return bpe.recipes(self._ranks)


@dataclass(frozen=True)
class Vocabulary:
    """The content of vocabulary files, not yet checked: ids by token, and merges as (number, left, right).

    Tokens are spelled as in vocab.json, where each byte is one visible character (`bpe.BYTE_TO_CHAR`).
    `source` is the file with the ids. For error messages, `merge_place` followed by a merge's number says
    where the merge is, for example "merges.txt: line" and 7.
    """

    ids: dict[str, Any]
    merges: list[tuple[int, str, str]]
    source: Path
    merge_place: str


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read a folder's vocabulary files. ModelNotFoundError or ModelFileError names the file."""
    vocab, merges, added, both = (folder / name for name in VOCABULARY_FILES)
    if vocab.exists() and merges.exists():
        ids = _read_json(vocab)
        if added.exists():
            _add_tokens(ids, _read_json(added).items(), added)
        return Vocabulary(ids, _merges_of_lines(_read_text(merges), merges), vocab, f"{merges}: line")
    if both.exists():
        return _vocabulary_of_tokenizer_json(both)
    missing = merges if vocab.exists() else vocab
    raise ModelNotFoundError(f"{missing}: no such file, and no tokenizer.json next to it")


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ModelFileError(f"{path}: has more than {MAX_FILE_BYTES // 1_000_000} MB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: not UTF-8 at byte {error.start}") from None


def _read_json(path: Path) -> dict[str, Any]:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ModelFileError(f"{path}: key {_show(twice)} appears twice")
        return found

    text = _read_text(path)
    if text.count(",") >= MAX_ENTRIES:
        raise ModelFileError(f"{path}: has more than {MAX_ENTRIES} entries")
    try:
        value = json.loads(text, object_pairs_hook=without_duplicates)
    except ModelFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: not a JSON object")
    return value


def _add_tokens(ids: dict[str, Any], added: Iterable[tuple[str, Any]], path: Path) -> None:
    for token, id in added:
        if ids.setdefault(token, id) != id:
            both = f"{_show(ids[token])} and {_show(id)}"
            raise ModelFileError(f"{path}: token {_show(token)} has two ids, {both}")


def _merges_of_lines(text: str, path: Path) -> list[tuple[int, str, str]]:
    lines = enumerate(text.replace("\r\n", "\n").split("\n"), 1)
    return [
        _merge(number, line.split(" "), f"{path}: line")
        for number, line in lines
        if line and not (number == 1 and line.startswith("#version"))
    ]


def _merge(number: int, parts: Any, place: str) -> tuple[int, str, str]:
    if isinstance(parts, list) and len(parts) == 2:
        left, right = parts
        if isinstance(left, str) and isinstance(right, str) and left and right:
            return number, left, right
    raise ModelFileError(f"{place} {number}: {_show(parts)} is not two tokens")


def _vocabulary_of_tokenizer_json(path: Path) -> Vocabulary:
    """Read Hugging Face's one-file form. ModelFileError names what differs from GPT-2's kind of tokenizer."""
    content = _read_json(path)
    model = _part(content, "model", path)
    splitter = _part(content, "pre_tokenizer", path)
    conditions = [
        ("model.type", model.get("type", "BPE"), "BPE"),
        ("pre_tokenizer.type", splitter.get("type"), "ByteLevel"),
        ("pre_tokenizer.add_prefix_space", splitter.get("add_prefix_space", True), False),
        ("pre_tokenizer.use_regex", splitter.get("use_regex", True), True),
        ("normalizer", content.get("normalizer"), None),
        ("model.byte_fallback", model.get("byte_fallback") or False, False),
    ]
    for name, value, supported in conditions:
        if value != supported:
            raise ModelFileError(f"{path}: {name} is {_show(value)}; only {supported!r} is supported")
    ids = dict(_part(content, "model.vocab", path))
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(entry, dict) for entry in added):
        raise ModelFileError(f"{path}: added_tokens is not a list of objects")
    for entry in added:
        if not isinstance(entry.get("content"), str):
            raise ModelFileError(f"{path}: added token {_show(entry)} has no content")
    _add_tokens(ids, [(entry["content"], entry.get("id")) for entry in added], path)
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ModelFileError(f"{path}: model.merges is not a list")
    pairs = [
        _merge(number, merge.split(" ") if isinstance(merge, str) else merge, f"{path}: merge")
        for number, merge in enumerate(merges, 1)
    ]
    return Vocabulary(ids, pairs, path, f"{path}: merge")


def _part(content: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    part = content
    for key in name.split("."):
        value = part.get(key)
        if not isinstance(value, dict):
            raise ModelFileError(f"{path}: {name} is not a JSON object")
        part = value
    return part


def _check_ids(vocabulary: Vocabulary, n_vocab: int | None) -> None:
    token_of: dict[int, str] = {}
    for token, id in vocabulary.ids.items():
        if type(id) is not int or id < 0:
            wrong = f"has id {_show(id)}, not an integer >= 0"
        elif n_vocab is not None and id >= n_vocab:
            wrong = f"has id {_show(id)}, but the config's vocabulary ends at {n_vocab - 1}"
        elif id >= MAX_ENTRIES:
            wrong = f"has id {_show(id)}, which is too large (at most {MAX_ENTRIES - 1})"
        elif id in token_of:
            wrong = f"has id {id}, which {_show(token_of[id])} has too"
        elif not token:
            wrong = "is empty"
        else:
            token_of[id] = token
            continue
        raise ModelFileError(f"{vocabulary.source}: token {_show(token)} {wrong}")


def _decode_token(token: str, where: str) -> bytes:
    try:
        return bytes([bpe.CHAR_TO_BYTE[char] for char in token])
    except KeyError as error:
        char = error.args[0]
        raise ModelFileError(f"{where}: {_show(token)} contains {char!r}, which encodes no byte") from None


def _encode_special(token: str, source: Path) -> bytes:
    try:
        return token.encode()
    except UnicodeEncodeError:
        raise ModelFileError(f"{source}: token {_show(token)} is not Unicode text") from None


def _show(value: object) -> str:
    """A value for an error message: its repr, shortened to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _has_long_run(text: str) -> bool:
    """Whether a run of white space, or one without any, may be longer than WINDOW characters."""
    starts = range(0, len(text) - WINDOW + 1, WINDOW)  # any run of 2 * WINDOW contains one of these windows
    return any(
        not WHITE_SPACE.search(text, i, i + WINDOW) or not NOT_WHITE_SPACE.search(text, i, i + WINDOW)
        for i in starts
    )
