"""The tokenizer against tiktoken, Hugging Face and published ids; its files under attack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from references import optional, published_vocabulary
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from gpt2c.config import ModelConfig
from gpt2c.errors import ModelFileError, ModelNotFoundError, TokenError
from gpt2c.text import bpe
from gpt2c.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "gpt2c" / "assets"

# The ids of these texts are published: tiktoken's tests (hello world, zeros), and the tests and examples
# of other GPT-2 engines (fschmole/bare-bones-inference, certik/fastGPT).
PUBLISHED = {
    "": "",
    "hello world": "31373 995",
    "Hello": "15496",
    "Hello, world!": "15496 11 995 0",
    "The capital of France is": "464 3139 286 4881 318",
    "GPT2 inference runtime in C++ and CUDA": "38 11571 17 32278 19124 287 327 4880 290 29369 5631",
    "Ondřej Čertík was born in": "46 358 129 247 68 73 34754 234 861 8836 74 373 4642 287",
    "Alan Turing theorized that computers would one day become": (
        "36235 39141 18765 1143 326 9061 561 530 1110 1716"
    ),
    "foo._bar": "21943 13557 5657",
    "snake_case": "16184 539 62 7442",
    "naïve café": "2616 38776 40304",
    "I'll don't": "40 1183 836 470",
    "<|endoftext|>": "27 91 437 1659 5239 91 29",
    "日本語テスト": "33768 98 17312 105 45739 252 24336 43302",
    "I've got 3 cats,  two dogs\n\n\tand a_bird.": (
        "40 1053 1392 513 11875 11 220 734 6844 628 197 392 257 62 16944 13"
    ),
}
ZEROS = (
    "15, 405, 830, 2388, 20483, 10535, 24598, 8269, 10535 830, 8269 405, 8269 830, 8269 2388, 8269 20483, "
    "8269 10535, 8269 24598, 25645, 8269 10535 830"
)
PUBLISHED |= {"0" * n: ids for n, ids in enumerate(ZEROS.split(", "), 1)}


def config(n_vocab: int, eos_token_id: int | None = None) -> ModelConfig:
    return ModelConfig(1, 1, 4, 16, 8, n_vocab, eos_token_id=eos_token_id)


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    return Tokenizer.from_folder(published_vocabulary(), config(50257, 50256))


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    return Tokenizer.from_folder(EMBEDDED, None)


@pytest.mark.parametrize("text", PUBLISHED, ids=lambda text: repr(text[:20]))
def test_published_ids(gpt2, text):
    expected = [int(id) for id in PUBLISHED[text].split()]
    assert gpt2.encode(text) == gpt2._encode_readable(text) == expected
    assert gpt2.decode(expected) == text


def test_end_of_text_is_special_only_on_request(gpt2, embedded):
    text = "hello <|endoftext|>"
    assert gpt2.encode(text, allow_special=True) == [31373, 220, 50256]
    assert 50256 not in gpt2.encode(text)
    assert gpt2.decode(gpt2.encode(text)) == gpt2.decode([31373, 220, 50256]) == text
    twice = embedded.encode("a<|endoftext|><|endoftext|>b", allow_special=True)
    assert twice == [*embedded.encode("a"), 8191, 8191, *embedded.encode("b")]


def test_ids_of_every_single_token_are_tiktokens(gpt2):
    folder = published_vocabulary()
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "merges.txt"), str(folder / "vocab.json"))
    assert {gpt2.token_bytes(id): id for id in range(50256)} == ranks
    assert gpt2.token_bytes(50256) == b"<|endoftext|>"
    assert (gpt2.n_vocab, gpt2.eos_token_id) == (50257, 50256)


@pytest.mark.parametrize("name", ["gpt2", "embedded"])
def test_every_token_alone_comes_back(name, request):
    tokenizer = request.getfixturevalue(name)
    for id in range(tokenizer.n_vocab):
        data = tokenizer.token_bytes(id)
        assert tokenizer.decode([id]) == data.decode("utf-8", "replace")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        assert tokenizer.encode(text, allow_special=True) == [id]


def test_the_embedded_vocabulary(embedded):
    assert (embedded.n_vocab, embedded.eos_token_id) == (8192, 8191)
    assert embedded.token_bytes(8191) == b"<|endoftext|>"
    assert embedded._core is not None  # tiktoken runs it


def test_the_byte_alphabet_is_hugging_faces():
    pre_tokenizers = optional("tokenizers").pre_tokenizers
    assert set(bpe.CHAR_TO_BYTE) == set(pre_tokenizers.ByteLevel.alphabet())
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for char in map(chr, range(0x800)):  # all of one and two bytes in UTF-8
        ((token, _),) = spelled.pre_tokenize_str(char)
        assert token == "".join(bpe.BYTE_TO_CHAR[byte] for byte in char.encode())


def test_importing_the_tokenizer_does_not_import_tiktoken():
    code = "import sys, gpt2c.text.tokenizer; print('tiktoken' in sys.modules, 'regex' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"


# --- small vocabularies, whole and broken ---

BYTES = {char: id for id, char in enumerate(bpe.CHAR_TO_BYTE)}
WORDS = BYTES | {"ab": 256, "abc": 257, "<|endoftext|>": 258}
MERGES = "#version: 0.2\na b\nab c\n"


def folder(tmp_path: Path, vocab: object, merges: str | bytes = MERGES) -> Path:
    text = vocab if isinstance(vocab, (str, bytes)) else json.dumps(vocab)
    (tmp_path / "vocab.json").write_bytes(text.encode() if isinstance(text, str) else text)
    (tmp_path / "merges.txt").write_bytes(merges.encode() if isinstance(merges, str) else merges)
    return tmp_path


def one_line(error: pytest.ExceptionInfo[Exception], tmp_path: Path) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message.replace(f"{tmp_path}{os.sep}", "")


def test_a_small_vocabulary_works(tmp_path):
    tokenizer = Tokenizer.from_folder(folder(tmp_path, WORDS), config(259))
    assert tokenizer.encode("abcab") == [257, 256]
    assert (tokenizer.n_vocab, tokenizer.eos_token_id) == (259, 258)
    assert Tokenizer.from_folder(tmp_path, config(259, 7)).eos_token_id == 7


def test_windows_line_ends_and_no_version_line_change_nothing(tmp_path):
    tokenizer = Tokenizer.from_folder(folder(tmp_path, WORDS, "a b\r\nab c\r\n"), None)
    assert tokenizer.encode("abcab") == [257, 256]


def test_fewer_ids_than_the_model_has_is_padding_that_stands_for_nothing(tmp_path):
    tokenizer = Tokenizer.from_folder(folder(tmp_path, WORDS), config(300))
    assert (tokenizer.n_vocab, tokenizer.token_bytes(299)) == (300, b"")
    assert tokenizer.decode([BYTES["x"], 299, BYTES["y"]]) == "xy"


def test_ids_that_do_not_follow_the_merges_go_through_the_readable_loop(tmp_path):
    tokenizer = Tokenizer.from_folder(folder(tmp_path, BYTES | {"ab": 257, "bc": 256}, "a b\nb c\n"), None)
    assert tokenizer._core is None
    assert tokenizer.encode("abc") == [257, BYTES["c"]]  # tiktoken would join b and c, whose id is lower


def test_merges_that_do_not_reach_a_token_go_through_the_readable_loop(tmp_path):
    vocab = BYTES | {"ab": 256, "bc": 257, "abc": 258}
    tokenizer = Tokenizer.from_folder(folder(tmp_path, vocab, "a b\nb c\na bc\n"), None)
    assert tokenizer._core is None
    assert tokenizer.encode("abc") == [256, BYTES["c"]]  # tiktoken would look the whole word up: [258]
    assert len(tokenizer.encode("abc" * 100_000)) == 200_000  # with a heap: the readable loop is quadratic


def test_added_tokens_are_special(tmp_path):
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 260, "[PAD]x": 261, "<|endoftext|>": 258}')
    tokenizer = Tokenizer.from_folder(folder(tmp_path, WORDS | {"<é>": 259}), config(262))
    assert tokenizer.encode("[PAD]xab[PAD]<é>", allow_special=True) == [261, 256, 260, 259]
    assert tokenizer.decode([260, 259]) == "[PAD]<é>"
    assert not {259, 260, 261} & set(tokenizer.encode("[PAD]xab[PAD]<é>"))
    (tmp_path / "added_tokens.json").write_text('{"<|endoftext|>": 259}')
    with pytest.raises(ModelFileError) as error:
        Tokenizer.from_folder(tmp_path, None)
    assert one_line(error, tmp_path) == "added_tokens.json: token '<|endoftext|>' has two ids, 258 and 259"


BAD_FILES = {
    "duplicate id": (WORDS | {"x y": 256}, MERGES, "vocab.json: token 'x y' has id 256, which 'ab' has too"),
    "duplicate key": ('{"a": 1, "b": 2, "a": 3}', MERGES, "vocab.json: key 'a' appears twice"),
    "negative id": (WORDS | {"x": -1}, MERGES, "vocab.json: token 'x' has id -1, not an integer >= 0"),
    "fraction": (WORDS | {"x": 1.0}, MERGES, "vocab.json: token 'x' has id 1.0, not an integer >= 0"),
    "true": (WORDS | {"x": True}, MERGES, "vocab.json: token 'x' has id True, not an integer >= 0"),
    "text": (WORDS | {"x": "1"}, MERGES, "vocab.json: token 'x' has id '1', not an integer >= 0"),
    "null": (WORDS | {"x": None}, MERGES, "vocab.json: token 'x' has id None, not an integer >= 0"),
    "list": (WORDS | {"x": [1]}, MERGES, "vocab.json: token 'x' has id [1], not an integer >= 0"),
    "huge id": (
        WORDS | {"x y": 2**70},
        MERGES,
        f"vocab.json: token 'x y' has id {2**70}, but the config's vocabulary ends at 258",
    ),
    "one too many": (
        WORDS | {"x y": 259},
        MERGES,
        "vocab.json: token 'x y' has id 259, but the config's vocabulary ends at 258",
    ),
    "empty token": (BYTES | {"": 258}, "", "vocab.json: token '' is empty"),
    "surrogate": (BYTES | {"\ud800": 258}, "", "vocab.json: token '\\ud800' is not Unicode text"),
    "missing byte": (
        {token: id for token, id in WORDS.items() if token != "Ġ"},
        MERGES,
        "vocab.json: no token for byte 0x20 ('Ġ'): a byte-level vocabulary has all 256",
    ),
    "empty vocabulary": (
        {},
        "",
        "vocab.json: no token for byte 0x21 ('!'): a byte-level vocabulary has all 256",
    ),
    "unknown part": (WORDS, "a b\nab x\n", "merges.txt: line 2: token 'abx' is not in the vocabulary"),
    "unknown left part": (WORDS, "a b\nxx c", "merges.txt: line 2: token 'xx' is not in the vocabulary"),
    "merge twice": (WORDS, MERGES + "a b\n", "merges.txt: line 4: merge 'a b' is listed twice"),
    "one part": (WORDS, "a b\nab\n", "merges.txt: line 2: ['ab'] is not two tokens"),
    "three parts": (WORDS, "a b c\n", "merges.txt: line 1: ['a', 'b', 'c'] is not two tokens"),
    "two spaces": (WORDS, "a  b\n", "merges.txt: line 1: ['a', '', 'b'] is not two tokens"),
    "no byte": (
        BYTES | {"日": 256, "日b": 257},
        "日 b\n",
        "merges.txt: line 1: '日' contains '日', which encodes no byte",
    ),
    "merges not UTF-8": (WORDS, b"a b\n\xff", "merges.txt: not UTF-8 at byte 4"),
    "vocabulary not UTF-8": (b'{"\xe6": 1}', MERGES, "vocab.json: not UTF-8 at byte 2"),
    "not JSON": ("{", MERGES, "vocab.json: not JSON: Expecting property name enclosed in double quotes: "
                 "line 1 column 2 (char 1)"),
    "no object": ("[1]", MERGES, "vocab.json: not a JSON object"),
    "long token": (
        BYTES | {"x" * 10**6: -1},
        "",
        "vocab.json: token '" + "x" * 56 + "... has id -1, not an integer >= 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("id", [2_000_000, 2**32, 2**63, 2**70])
def test_ids_are_bounded_without_a_config_too(id, tmp_path):
    with pytest.raises(ModelFileError) as error:
        Tokenizer.from_folder(folder(tmp_path, WORDS | {"x y": id}), None)
    assert one_line(error, tmp_path) == (
        f"vocab.json: token 'x y' has id {id}, which is too large (at most 1999999)"
    )


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_broken_vocabulary_is_refused_by_file_and_entry(case, tmp_path):
    vocab, merges, message = BAD_FILES[case]
    with pytest.raises(ModelFileError) as error:
        Tokenizer.from_folder(folder(tmp_path, vocab, merges), config(259))
    assert one_line(error, tmp_path) == message
    if "config" not in message:  # the others need no config to be found
        with pytest.raises(ModelFileError) as error:
            Tokenizer.from_folder(tmp_path, None)
        assert one_line(error, tmp_path) == message


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": 1' + "0" * 5000 + "}"])
def test_json_made_to_break_the_parser_is_refused(text, tmp_path):
    with pytest.raises(ModelFileError, match=r"vocab\.json: .*(not JSON|not an integer|ends at)"):
        Tokenizer.from_folder(folder(tmp_path, text), config(259))


def test_a_file_over_the_limit_is_not_read(tmp_path):
    folder(tmp_path, WORDS)
    with (tmp_path / "merges.txt").open("r+b") as file:
        file.truncate(100_000_001)
    with pytest.raises(ModelFileError) as error:
        Tokenizer.from_folder(tmp_path, None)
    assert one_line(error, tmp_path) == "merges.txt: has more than 100 MB"


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ModelNotFoundError) as error:
        Tokenizer.from_folder(tmp_path, None)
    assert one_line(error, tmp_path) == "vocab.json: no such file, and no tokenizer.json next to it"
    (tmp_path / "vocab.json").mkdir()
    with pytest.raises(FileNotFoundError) as error:
        Tokenizer.from_folder(tmp_path, None)
    assert one_line(error, tmp_path) == "merges.txt: no such file, and no tokenizer.json next to it"
    (tmp_path / "merges.txt").write_text(MERGES)
    with pytest.raises(ModelFileError) as error:
        Tokenizer.from_folder(tmp_path, None)
    assert one_line(error, tmp_path) == "vocab.json: cannot be read: Is a directory"


@pytest.mark.parametrize("pairs", [False, True])
def test_tokenizer_json_that_hugging_face_writes_gives_its_ids(pairs, tmp_path, embedded):
    tokenizers = optional("tokenizers")
    path = tmp_path / "tokenizer.json"
    theirs = hugging_face(tokenizers)
    theirs.add_special_tokens(["<|endoftext|>", "[PAD]"])
    theirs.save(str(path))
    if not pairs:  # the older spelling of a merge is one string
        content = json.loads(path.read_text())
        content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
        path.write_text(json.dumps(content))
    ours = Tokenizer.from_folder(tmp_path, config(8200))
    text = "It's a test, isn't it?\n\n  日本語 \t 123"
    assert ours.encode(text) == embedded.encode(text) == theirs.encode(text).ids
    assert ours.encode("a[PAD]", allow_special=True) == theirs.encode("a[PAD]").ids


TOKENIZER_JSON = {
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
    "model": {"type": "BPE", "vocab": WORDS, "merges": ["a b", ["ab", "c"]]},
}
BAD_TOKENIZER_JSON = {
    "model.type is 'Unigram'; only 'BPE' is supported": {"model": {"type": "Unigram"}},
    "model is not a JSON object": {"model": 3},
    "model.vocab is not a JSON object": {"model": {"type": "BPE", "merges": []}},
    "model.merges is not a list": {"model": {"type": "BPE", "vocab": WORDS}},
    "merge 1: ['a', 3] is not two tokens": {"model": {"vocab": WORDS, "merges": [["a", 3]]}},
    "merge 2: ['a'] is not two tokens": {"model": {"vocab": WORDS, "merges": ["a b", "a"]}},
    "pre_tokenizer.type is 'Metaspace'; only 'ByteLevel' is supported": {
        "pre_tokenizer": {"type": "Metaspace"}
    },
    "pre_tokenizer.add_prefix_space is True; only False is supported": {
        "pre_tokenizer": {"type": "ByteLevel"}
    },
    "normalizer is {'type': 'NFC'}; only None is supported": {"normalizer": {"type": "NFC"}},
    "added_tokens is not a list of objects": {"added_tokens": [3]},
    "added token {'id': 3} has no content": {"added_tokens": [{"id": 3}]},
    "token '<x>' has id None, not an integer >= 0": {"added_tokens": [{"content": "<x>"}]},
}


def test_a_small_tokenizer_json_works(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER_JSON))
    assert Tokenizer.from_folder(tmp_path, None).encode("abcab") == [257, 256]


@pytest.mark.parametrize("message", BAD_TOKENIZER_JSON)
def test_another_kind_of_tokenizer_json_is_refused_by_name(message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER_JSON | BAD_TOKENIZER_JSON[message]))
    with pytest.raises(ModelFileError) as error:
        Tokenizer.from_folder(tmp_path, None)
    assert one_line(error, tmp_path) == f"tokenizer.json: {message}"


def hugging_face(tokenizers):
    """The embedded vocabulary in Hugging Face's own implementation."""
    model = tokenizers.models.BPE.from_file(str(EMBEDDED / "vocab.json"), str(EMBEDDED / "merges.txt"))
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    return theirs


# --- wrong arguments ---


@pytest.mark.parametrize("text", [b"bytes", 3, None, ["a"]])
def test_only_text_is_encoded(text, embedded):
    with pytest.raises(TokenError) as error:
        embedded.encode(text)
    assert str(error.value) == f"encode() takes a str, not {type(text).__name__}"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([8192], "token id 8192 is outside the vocabulary of 8192"),
        ([-1], "token id -1 is outside the vocabulary of 8192"),
        ([2**70], f"token id {2**70} is outside the vocabulary of 8192"),
        ([1.5], "a token id must be an integer, not float"),
        (["a"], "a token id must be an integer, not str"),
        ("abc", "decode() takes token ids, not str"),
        (b"abc", "decode() takes token ids, not bytes"),
    ],
)
def test_only_ids_of_the_vocabulary_are_decoded(ids, message, embedded):
    with pytest.raises(TokenError) as error:
        embedded.decode(ids)
    assert str(error.value) == message


def test_numpy_ids_are_decoded(embedded):
    ids = embedded.encode("whatever")
    assert embedded.decode(np.array(ids, dtype=np.int32)) == "whatever"
