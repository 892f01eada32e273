"""Byte-level BPE as GPT-2 defines it, small enough to read in one sitting.

Text is cut into pieces by a regular expression, each piece is turned into UTF-8 bytes, and inside a
piece the adjacent pair that comes first in the list of merges is joined until no listed pair is left
(Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019, section 2.2). `tokenizer.py` runs
tiktoken instead wherever `merges_give_every_token` proves that both give the same ids.
"""

from __future__ import annotations

import heapq
import math
import unicodedata
from collections.abc import Mapping
from itertools import pairwise

Ranks = Mapping[tuple[bytes, bytes], int]
Recipe = tuple[int, bytes, bytes]  # a token's merge: rank, left part, right part
BYTE: Recipe = (-1, b"", b"")  # of a single byte, which no merge makes

# Contractions, then letters, digits and other marks with at most one space in front, then white space
# without the last space before a word. GPT-2's own pattern; `regex` and tiktoken both read it, each with the
# letters and numbers of the Unicode version that it knows.
PIECE_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# What `\s` means there: Unicode's White_Space, which str.isspace() and `re` get wrong (U+001C to U+001F).
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

# In vocab.json each byte is one visible character: bytes that print in Latin-1 stand for themselves,
# the others (controls, spaces, the soft hyphen) are numbered upwards from U+0100.
PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_TO_CHAR = {byte: chr(byte) for byte in PRINTABLE}
for _byte in range(256):
    if _byte not in BYTE_TO_CHAR:
        BYTE_TO_CHAR[_byte] = chr(256 + len(BYTE_TO_CHAR) - len(PRINTABLE))
CHAR_TO_BYTE = {char: byte for byte, char in BYTE_TO_CHAR.items()}


def piece_border(text: str, at: int) -> bool | None:
    """Whether PIECE_PATTERN ends a piece before text[at]: True or False where it cuts text[:at] and
    text[at:] as it cuts the whole (but for the one piece that spans the place, if False), else None.
    """
    before, here, after = text[at - 1], text[at], text[at + 1 : at + 2]
    a, b = _kind(before), _kind(here)
    if not a or not b:
        return None
    if a == "space":
        # The last white space before a word belongs to it or stands alone.
        return None if b != "space" else bool(after) and after not in WHITE_SPACE
    if b == "space":
        return True
    if a != b:
        return None if before == "'" else True
    if a == "L":  # far enough from an apostrophe not to be in a contraction
        return False if at >= 3 and _kind(text[at - 2]) == _kind(text[at - 3]) == "L" else None
    return None if here == "'" and after.isalpha() else False


def _kind(char: str) -> str:
    """The class of PIECE_PATTERN that a character is in; "" for those this Python's Unicode lacks."""
    if char in WHITE_SPACE:
        return "space"
    category = unicodedata.category(char)
    return category[0] if category[0] in "LN" else "" if category == "Cn" else "other"


def bpe_merge(piece: bytes, ranks: Ranks) -> list[bytes]:
    """Split one piece into tokens: join the best-ranked pair, the leftmost of equals, until none is left.

    `ranks` maps a pair of tokens to its place in the list of merges. Quadratic in the piece's length,
    because every step looks at every pair; `bpe_merge_long` finds the same tokens with a heap.
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
    """`bpe_merge` in O(n log n): the same tokens, for pieces of thousands of bytes.

    Candidates wait in a heap as (rank, position). A merge leaves the old candidates there; one whose
    two tokens are no longer what they were is skipped when it comes up.
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
    """The merge that makes each token: its rank and the two parts."""
    return {left + right: (rank, left, right) for (left, right), rank in ranks.items()}


def stay_apart(
    left: bytes, right: bytes, ranks: Ranks, recipe_of: Mapping[bytes, Recipe], limit: float = math.inf
) -> bool:
    """Whether no merge ranked before `limit` ever crosses from token `left` into token `right`.

    If so, and there is no limit, the tokens of two texts that end in `left` and begin with `right` are
    together the tokens of the joined text. The walk undoes the merges along the border, latest first:
    a pair that was adjacent there would have been joined if it ranks before the merge that ended it.
    The leftmost of equal pairs is joined first, hence `wins_tie` where the crossing pair is the left one.
    Needs ranks for which `merges_give_every_token` holds.
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
    """Whether `bpe_merge` turns the bytes of every merged token back into that token.

    Then it is enough to know which tokens there are and in which order: looking up a whole piece, or
    joining any two tokens whose bytes together are a token, cannot differ from following the pairs.
    tiktoken does both. Every part must be a byte or the result of an earlier merge.
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
