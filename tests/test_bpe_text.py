"""Hostile text: our ids are tiktoken's, Hugging Face's and the readable loop's, and come back as text."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

import pytest
import regex
import tiktoken
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from references import optional, published_vocabulary
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from gpt2c.text import bpe
from gpt2c.text.tokenizer import Tokenizer, Vocabulary

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "gpt2c" / "assets"
# As tiktoken's `openai_public.py` spells it for r50k_base; ours is the form that GPT-2 was released with.
R50K_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

TEXTS = [
    "foo._bar __init__(self, *_args): x_=_y_ (_) ._. -_- a_ _b",
    "a  b   c    d  ",
    "\ttabs\t\tand \t mixes\r\n\r\n \n  x",
    "1 22 333 4444 55555 3.14159 1,000,000 0x1F ½ ² ٣ 五 Ⅷ",
    "😀 👩‍👩‍👧‍👦 🇨🇭 ☃️ e\u0301 \u200b\u200d\ufeff x",
    "日本語のテキスト、混ぜる English も。  全角　空白",
    "don't DON'T it's 'tis 's 't 'll ''s 're've'd 'S x'y' '",
    "mid<|endoftext|>dle <|endoftext|> <|endof text|>",
    b"\xff\xfe valid \xe6\x97 cut \xc0\x80".decode("utf-8", "replace"),
    b"\xff\xfe valid \xe6\x97 cut \xc0\x80".decode("utf-8", "surrogateescape"),
    "\ud800 lone \udfff\udfff surrogates \ud83d",
    "a pair \ud83d\ude00 of surrogates",
    "\x00\x01\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad controls \u2028\u2029\u3000 x",
    "\ufeffbom first",
    "ÀÉÎõü straße \u017f ﬁ İı ᾳ\u0345 עברית العربية हिन्दी ไทย 한국어",
]
REPEATS = ["^", "0", "a", "'s", " ", "\n", " \n", "é", "日", "😀", "\u0378", "'", "_-", "a1", "\t"]
REPEATS += ["<|endoftext|>"]


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return Tokenizer.from_folder(published_vocabulary(), None)


@pytest.fixture(scope="module")
def tiktoken_gpt2():
    """GPT-2's encoding as tiktoken itself reads the published files; nothing of ours is in it."""
    folder = published_vocabulary()
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "merges.txt"), str(folder / "vocab.json"))
    return tiktoken.Encoding(
        "gpt2", pat_str=R50K_PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    return Tokenizer.from_folder(EMBEDDED, None)


@pytest.fixture(scope="module")
def hugging_face():
    """The embedded vocabulary in Hugging Face's own implementation."""
    tokenizers = optional("tokenizers")
    model = tokenizers.models.BPE.from_file(str(EMBEDDED / "vocab.json"), str(EMBEDDED / "merges.txt"))
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return theirs


def valid(text: str) -> str:
    """Surrogate pairs joined and lone surrogates replaced, one by one."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in joined)


def is_in_every_unicode(char: str) -> bool:
    """Only these are letters or not in all versions of Unicode that Python, regex and tiktoken know."""
    return unicodedata.ucd_3_2_0.category(char) != "Cn"


any_character = st.characters(exclude_categories=["Cs", "Cn"]).filter(is_in_every_unicode)
snippets = st.sampled_from(
    [*TEXTS[:9], *REPEATS[:10], "  ", "'t", "'ll", "\r\n", "the", " and", "\x1c", "\u3000"]
)
texts = st.text(any_character, max_size=60) | st.lists(snippets | any_character, max_size=30).map("".join)
relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_difficult_text_has_tiktokens_ids(text, gpt2, tiktoken_gpt2):
    ids = gpt2.encode(text)
    assert ids == tiktoken_gpt2.encode_ordinary(text)
    assert ids == gpt2._encode_readable(valid(text))
    assert gpt2.decode(ids) == tiktoken_gpt2.decode(ids) == valid(text)
    assert gpt2.encode(text, allow_special=True) == tiktoken_gpt2.encode(text, allowed_special="all")


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_difficult_text_has_the_ids_of_hugging_face(text, embedded, hugging_face):
    assert embedded.encode(text) == hugging_face.encode(valid(text), add_special_tokens=False).ids


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_difficult_text_has_the_ids_of_the_readable_loop(text, embedded):
    ids = embedded.encode(text)
    assert ids == embedded._encode_readable(valid(text))
    assert embedded.decode(ids) == valid(text)


@relaxed
@given(text=texts)
def test_any_text_has_tiktokens_ids(gpt2, tiktoken_gpt2, text):
    ids = gpt2.encode(text)
    assert ids == tiktoken_gpt2.encode_ordinary(text) == gpt2._encode_readable(text)
    assert gpt2.decode(ids) == text


@relaxed
@given(text=texts)
def test_any_text_has_the_ids_of_the_readable_loop(embedded, text):
    ids = embedded.encode(text)
    assert ids == embedded._encode_readable(text)
    assert embedded.decode(ids) == text


@relaxed
@given(text=texts)
def test_any_text_has_the_ids_of_hugging_face(embedded, hugging_face, text):
    assert embedded.encode(text) == hugging_face.encode(text, add_special_tokens=False).ids


@relaxed
@given(ids=st.lists(st.integers(0, 8191), max_size=40))
def test_any_ids_decode_to_their_bytes(embedded, ids):
    vocabulary = json.loads((EMBEDDED / "vocab.json").read_text(encoding="utf-8"))
    spelled = {id: token for token, id in vocabulary.items()}
    data = b"".join(
        b"<|endoftext|>" if id == 8191 else bytes(bpe.CHAR_TO_BYTE[c] for c in spelled[id]) for id in ids
    )
    assert embedded.decode(ids) == data.decode("utf-8", "replace")


@relaxed
@given(text=st.text(max_size=50))
def test_a_surrogate_or_unassigned_character_anywhere_is_handled_as_tiktoken_does(gpt2, tiktoken_gpt2, text):
    text = text[:25] + "\udc80" + text[25:]
    assert gpt2.encode(text) == tiktoken_gpt2.encode_ordinary(text)


@pytest.mark.parametrize("unit", REPEATS, ids=ascii)
@pytest.mark.parametrize("tail", ["", "x", " "], ids=ascii)
def test_ten_thousand_repeats(unit, tail, gpt2, tiktoken_gpt2):
    text = unit * 10_000 + tail
    ids = gpt2.encode(text)
    assert ids == tiktoken_gpt2.encode_ordinary(text)
    assert gpt2.decode(ids) == text


@pytest.mark.parametrize("unit", REPEATS, ids=ascii)
@pytest.mark.parametrize("tail", ["", "x"], ids=ascii)
def test_ten_thousand_repeats_with_the_embedded_vocabulary(unit, tail, embedded, hugging_face):
    text = unit * 10_000 + tail
    ids = embedded.encode(text)
    assert ids == hugging_face.encode(text, add_special_tokens=False).ids
    assert embedded.decode(ids) == text


def test_a_word_of_a_megabyte(gpt2, tiktoken_gpt2):
    chars = random.Random(7)
    for text in ("".join(chars.choices("etaoinshrdlu", k=10**6)), "0" * 10**6, " " * 10**6, "\n" * 10**6):
        assert gpt2.encode(text) == tiktoken_gpt2.encode_ordinary(text)


@pytest.mark.parametrize("space", [" ", "\n", " \t"], ids=ascii)
def test_a_megabyte_of_white_space_before_a_letter(space, gpt2, tiktoken_gpt2):
    # tiktoken panics at the whole text, but not at its pieces: all white space but the last, and the rest.
    text = "x" + space * (10**6 // len(space))
    expected = tiktoken_gpt2.encode_ordinary("x") + tiktoken_gpt2.encode_ordinary(text[1:-1])
    expected += tiktoken_gpt2.encode_ordinary(text[-1] + "y")
    assert gpt2.encode(text + "y") == expected


@relaxed
@given(text=st.lists(snippets | any_character, max_size=150).map("".join), window=st.integers(5, 80))
def test_text_in_windows_has_the_same_ids(embedded, text, window):
    assert embedded._encode_windows(embedded._core, text, window, 1) == embedded._encode_readable(text)


@pytest.mark.parametrize("unit", [*REPEATS, "\xa0", "-", "="], ids=ascii)
def test_short_windows_over_long_tokens_give_the_same_ids(unit, gpt2, tiktoken_gpt2):
    for n in range(1, 70):
        expected = tiktoken_gpt2.encode_ordinary(unit * n)
        for window in (3, 5, 8, 13):
            assert gpt2._encode_windows(gpt2._core, unit * n, window, 1) == expected


@relaxed
@given(st.text("'stlre1^ \n\u3000", max_size=12))
def test_pieces_end_where_piece_border_says(text):
    whole = regex.findall(bpe.PIECE_PATTERN, text)
    for at in range(1, len(text)):
        left, right = (regex.findall(bpe.PIECE_PATTERN, part) for part in (text[:at], text[at:]))
        is_border = bpe.piece_border(text, at)
        if is_border is True:
            assert left + right == whole
        elif is_border is False:
            assert [*left[:-1], left[-1] + right[0], *right[1:]] == whole


def test_piece_border_knows_most_places():
    text = "aaaa1111^^^^    aaa\n\n\n日日日日"
    unknown = [at for at in range(1, len(text)) if bpe.piece_border(text, at) is None]
    assert unknown == [1, 2, 16, 17, 18, 22, 23, 24]  # in a word's first letters, and before it


@st.composite
def small_vocabularies(draw):
    """Random merges over few bytes: tokens that contain themselves, and tokens no text can reach."""
    alphabet = draw(st.sampled_from(["a", "ab", "abc", "a 1'"]))
    tokens = [bpe.BYTE_TO_CHAR[ord(char)] for char in alphabet]
    ids = {char: id for id, char in enumerate(bpe.CHAR_TO_BYTE)}
    merges = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if left + right not in ids:
            ids[left + right] = len(ids)
            merges.append((number, left, right))
            tokens.append(left + right)
    text = draw(st.text(alphabet, max_size=40))
    return Tokenizer(Vocabulary(ids, merges, Path("vocab.json"), "merges.txt: line")), text


@relaxed
@given(small_vocabularies())
def test_any_small_vocabulary_has_the_ids_of_its_merges(case):
    tokenizer, text = case
    expected = tokenizer._encode_readable(text)
    assert tokenizer.encode(text) == expected
    if tokenizer._core is not None:
        assert tokenizer._encode_windows(tokenizer._core, text, 9, 1) == expected


@relaxed
@given(small_vocabularies())
def test_tiktoken_is_used_exactly_where_the_merges_give_every_token(case):
    ranks = case[0]._ranks
    every = all(bpe.bpe_merge(left + right, ranks) == [left + right] for left, right in ranks)
    assert bpe.merges_give_every_token(ranks) == every == (case[0]._core is not None)


@relaxed
@given(small_vocabularies())
def test_tokens_stay_apart_exactly_where_two_texts_keep_theirs_when_joined(case):
    tokenizer, text = case
    ranks, data = tokenizer._ranks, text.encode()
    assume(bpe.merges_give_every_token(ranks))
    whole = bpe.bpe_merge(data, ranks)
    for at in range(1, len(data)):
        left, right = bpe.bpe_merge(data[:at], ranks), bpe.bpe_merge(data[at:], ranks)
        assert bpe.stay_apart(left[-1], right[0], ranks, bpe.recipes(ranks)) == (left + right == whole)


@relaxed
@given(small_vocabularies())
def test_any_small_vocabulary_has_the_ids_of_hugging_face(case):
    tokenizers = optional("tokenizers")
    tokenizer, text = case
    spelled = {id: "".join(bpe.BYTE_TO_CHAR[b] for b in data) for data, id in tokenizer._id_of.items()}
    merges = [tuple("".join(bpe.BYTE_TO_CHAR[b] for b in part) for part in pair) for pair in tokenizer._ranks]
    assume(merges)
    model = tokenizers.models.BPE({token: id for id, token in spelled.items()}, merges)
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert tokenizer.encode(text) == theirs.encode(text).ids


@relaxed
@given(small_vocabularies())
def test_the_heap_merges_as_the_readable_loop_does(case):
    ranks, piece = case[0]._ranks, case[1].encode()
    assert bpe.bpe_merge_long(piece, ranks) == bpe.bpe_merge(piece, ranks)
