"""Byte-level BPE as GPT-2 defines it, short enough to read in one sitting.

A regular expression cuts the text into pieces, and each piece is encoded as UTF-8 bytes. Inside a piece, the
adjacent pair that comes first in the list of merges is joined, again and again, until no pair is in the list
(Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019, section 2.2). `tokenizer.py` runs tiktoken
instead if `merges_give_every_token` proves that both give the same ids.
"""

from __future__ import annotations

import heapq
import math
import unicodedata
from collections.abc import Mapping
from itertools import pairwise

Ranks = Mapping[tuple[bytes, bytes], int]
Recipe = tuple[int, bytes, bytes]  # a token's merge: rank, left part, right part
BYTE: Recipe = (-1, b"", b"")  # the recipe of a single byte, which no merge makes

# GPT-2's own pattern: contractions; then letters, digits or other marks, each with at most one leading space;
# then white space without the last space before a word. `regex` and tiktoken both take it, each with the
# letters and numbers of the Unicode version that it knows.
PIECE_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# What `\s` means there: Unicode's White_Space. (str.isspace() and `re` add U+001C to U+001F.)
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

# In vocab.json each byte is one visible character. Bytes that are printable in Latin-1 stand for themselves;
# the others (controls, spaces, the soft hyphen) become U+0100, U+0101, ...
PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_TO_CHAR = {byte: chr(byte) for byte in PRINTABLE}
for _byte in range(256):
    if _byte not in BYTE_TO_CHAR:
        BYTE_TO_CHAR[_byte] = chr(256 + len(BYTE_TO_CHAR) - len(PRINTABLE))
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def piece_border(text: str, at: int) -> bool | None:
    """Whether a piece of PIECE_PATTERN ends before text[at].

    True or False: text[:at] and text[at:] are cut as in the whole text, except that with False one piece
    spans the cut. None: that is not certain.
    """
    before, here, after = text[at - 1], text[at], text[at + 1 : at + 2]
    a, b = _kind(before), _kind(here)
    if not a or not b:
        return None
    if a == "space":
        # The last white space before a word belongs to the word or is a piece alone.
        return None if b != "space" else bool(after) and after not in WHITE_SPACE
    if b == "space":
        return True
    if a != b:
        return None if before == "'" else True
    if a == "L":  # no contraction if the last three characters are letters
        return False if at >= 3 and _kind(text[at - 2]) == _kind(text[at - 3]) == "L" else None
    return None if here == "'" and after.isalpha() else False


def _kind(char: str) -> str:
    """The class that a character has in PIECE_PATTERN; "" if this Python's Unicode does not know it."""
    if char in WHITE_SPACE:
        return "space"
    category = unicodedata.category(char)
    return category[0] if category[0] in "LN" else "" if category == "Cn" else "other"


def bpe_merge(piece: bytes, ranks: Ranks) -> list[bytes]:
    """Split a piece into tokens: join the pair of lowest rank, the leftmost on a tie, while there is one.

    `ranks` maps a pair of tokens to its index in the list of merges. Takes quadratic time in the piece's
    length, because every step looks at every pair; `bpe_merge_long` finds the same tokens with a heap.
    """
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        pairs = pairwise(parts)
        found = [(ranks[pair], i) for i, pair in enumerate(pairs) if pair in ranks]
        if not found:
            return parts
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def bpe_merge_long(piece: bytes, ranks: Ranks) -> list[bytes]:
    """`bpe_merge` in O(n log n), for pieces of thousands of bytes; gives the same tokens.

    Pairs are in a heap, ordered by (rank, position). A merge does not remove outdated pairs from the heap; a
    pair whose two tokens have changed since is skipped when it is popped.
    """
    n = len(piece)
    token = [piece[i : i + 1] for i in range(n)]  # b"" once it has been joined to the left
    before, after = list(range(-1, n - 1)), list(range(1, n + 1))
    pairs = pairwise(token)
    heap = [(ranks[pair], i, *pair) for i, pair in enumerate(pairs) if pair in ranks]
    heapq.heapify(heap)
    while heap:
        _, i, left, right = heapq.heappop(heap)
        j = after[i]
        if token[i] != left or j >= n or token[j] != right:
            continue
        token[i], token[j] = left + right, b""
        after[i] = after[j]
        if after[i] < n:
            before[after[i]] = i
        for k in (before[i], i):
            if k >= 0 and after[k] < n and (pair := (token[k], token[after[k]])) in ranks:
                heapq.heappush(heap, (ranks[pair], k, *pair))
    return [part for part in token if part]


def recipes(ranks: Ranks) -> dict[bytes, Recipe]:
    """Token -> the merge that makes it: its rank and the two parts."""
    return {left + right: (rank, left, right) for (left, right), rank in ranks.items()}


def stay_apart(
    left: bytes, right: bytes, ranks: Ranks, recipe_of: Mapping[bytes, Recipe], limit: float = math.inf
) -> bool:
    """Whether no merge with a rank below `limit` joins bytes of token `left` with bytes of token `right`.

    If so without a limit, the tokens of a text that ends in `left`, followed by those of a text that begins
    with `right`, are the tokens of both texts joined. Needs ranks for which `merges_give_every_token` holds.

    The loop undoes the merges next to the border between the two tokens, latest first. Each step uncovers a
    pair of parts at the border. That pair would have been joined if its rank is below that of the merge just
    undone. On a tie the leftmost pair is joined first: the one at the border if the undone merge is to the
    right of it (`wins_tie`).
    """
    wins_tie = False
    left_rank, _, left_end = recipe_of.get(left, BYTE)
    right_rank, right_start, _ = recipe_of.get(right, BYTE)
    while True:
        rank = ranks.get((left, right))
        if rank is not None and (rank < limit or (wins_tie and rank == limit)):
            return False
        if left_rank == right_rank == -1:
            return True
        wins_tie = right_rank >= left_rank
        if wins_tie:
            limit, right = right_rank, right_start
            right_rank, right_start, _ = recipe_of.get(right, BYTE)
        else:
            limit, left = left_rank, left_end
            left_rank, _, left_end = recipe_of.get(left, BYTE)


def merges_give_every_token(ranks: Ranks) -> bool:
    """Whether `bpe_merge` gives, for the bytes of every merged token, that token alone.

    Then the set of tokens and their order determine the result: to look up a whole piece, or to join any two
    tokens whose bytes together are a token, gives the same as to follow the list of pairs. tiktoken does
    both. Every part must be a byte or the result of an earlier merge.
    """
    recipe_of = recipes(ranks)
    if len(recipe_of) != len(ranks):  # two merges make the same token
        return False
    for rank, left, right in recipe_of.values():
        for part in (left, right):
            if len(part) > 1 and (part not in recipe_of or recipe_of[part][0] >= rank):
                return False
        if not stay_apart(left, right, ranks, recipe_of, rank):
            return False
    return True
