"""TextStream: whole characters, and never a character of a stop string."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2c.errors import OptionError
from gpt2c.generation.text_stream import TextStream


def run(chunks: list[bytes], stop: list[str]) -> tuple[list[str], bool]:
    stream = TextStream(stop)
    shown = [stream.push(chunk) for chunk in chunks]
    shown.append(stream.finish())
    return shown, stream.stopped


def cut(data: bytes, data_len: list[int]) -> list[bytes]:
    chunks = []
    for n in data_len:
        chunks.append(data[:n])
        data = data[n:]
    return [*chunks, data]


def before_stop(text: str, stop: list[str]) -> str:
    """The text before the earliest stop string, by the regular expression engine."""
    match = re.search("|".join(map(re.escape, stop)), text) if stop else None
    return text[: match.start()] if match else text


sizes = st.lists(st.integers(0, 5), max_size=40)
few_letters = st.text("ab\nñ日", max_size=40)
stops = st.lists(st.text("ab\nñ日", min_size=1, max_size=5), max_size=4)


@given(few_letters, sizes, stops)
def test_text_in_any_slices_is_the_text_before_the_first_stop_string(text, lengths, stop):
    shown, stopped = run(cut(text.encode(), lengths), stop)
    assert "".join(shown) == before_stop(text, stop)
    assert stopped == any(s in text for s in stop)


@given(st.binary(max_size=60), sizes)
def test_any_bytes_in_any_slices_decode_as_all_at_once(data, lengths):
    shown, stopped = run(cut(data, lengths), [])
    assert "".join(shown) == data.decode("utf-8", "replace")
    assert not stopped


@given(st.binary(max_size=60), sizes, st.lists(st.sampled_from(["\ufffd", "a", "\ufffdA", "\0"]), max_size=3))
def test_any_bytes_stop_where_the_decoded_text_would(data, lengths, stop):
    shown, _ = run(cut(data, lengths), stop)
    assert "".join(shown) == before_stop(data.decode("utf-8", "replace"), stop)


@given(few_letters, sizes, stops)
def test_what_is_shown_is_always_right_so_far_and_no_longer_held_than_needed(text, lengths, stop):
    stream, shown, seen, final = TextStream(stop), "", b"", before_stop(text, stop)
    for chunk in cut(text.encode(), lengths):
        shown += stream.push(chunk)
        seen += chunk
        assert final.startswith(shown)
        if not stream.stopped:  # held back: an unfinished character, and what may begin a stop string
            held = seen.decode("utf-8", "ignore")[len(shown) :]
            assert not held or any(s.startswith(held) and s != held for s in stop)


def test_a_character_split_over_tokens_comes_out_once_it_is_whole():
    assert run([b"\xe6", b"\x97", b"\xa5!"], [])[0] == ["", "", "日!", ""]


def test_an_unfinished_character_at_the_end_becomes_one_replacement_character():
    assert run([b"a\xf0\x9f\x98"], [])[0] == ["a", "\ufffd"]


def test_a_stop_string_over_three_tokens_never_shows():
    assert run([b"Hi\n", b"Us", b"er: ", b"more"], ["\nUser:"]) == (["Hi", "", "", "", ""], True)


def test_a_false_beginning_of_a_stop_string_is_given_back():
    assert run([b"Hi\nUs", b"e it"], ["\nUser:"]) == (["Hi", "\nUse it", ""], False)
    assert run([b"Hi\nUs"], ["\nUser:"]) == (["Hi", "\nUs"], False)


def test_a_stop_string_that_begins_inside_a_token_and_overlaps_itself():
    assert run([b"xaab", b"aabc"], ["aabaabc"]) == (["x", "", ""], True)
    assert run([b"aaaab"], ["aab"]) == (["aa", ""], True)


def test_the_stop_string_that_begins_first_wins_even_if_another_is_complete_before_it():
    assert run([b"xab", b"cd"], ["b", "abcd"]) == (["x", "", ""], True)
    assert run([b"xab", b"cx"], ["b", "abcd"]) == (["x", "a", ""], True)
    assert run([b"xab"], ["b", "abcd"]) == (["x", "a"], True)


def test_nothing_comes_after_the_stop():
    stream = TextStream(["."])
    assert stream.push(b"one. two") == "one"
    assert stream.stopped
    assert (stream.push(b" three"), stream.finish(), stream.finish()) == ("", "", "")


def test_one_string_is_one_stop_string():
    stream = TextStream("ab")
    assert stream.push(b"b a-ab") == "b a-"


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ([""], "a stop string must not be empty"),
        (["ok", ""], "a stop string must not be empty"),
        ("", "a stop string must not be empty"),
        ([b"x"], "a stop string must be text, not bytes"),
        ([None], "a stop string must be text, not NoneType"),
    ],
)
def test_a_stop_string_that_cannot_be_one_is_refused(stop, message):
    with pytest.raises(OptionError) as error:
        TextStream(stop)
    assert str(error.value) == message
