"""Whatever tokens come: whole characters, no stop string, and the right end."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import before_stop, play

import gpt2c


@pytest.fixture(scope="module")
def model():
    with gpt2c.load() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.tokenizer


@pytest.fixture(scope="module")
def id_of_byte(tokenizer):
    """byte -> the token of that byte alone: any UTF-8 can be spelled so that characters are split."""
    single = {}
    for id in range(tokenizer.n_vocab):
        data = tokenizer.token_bytes(id)
        if len(data) == 1:
            single[data[0]] = id
    assert len(single) == 256
    return single


EOS = 8191
some_text = st.text("ab ñé日本😀\u0301\n", max_size=12)
some_tokens = st.lists(
    st.one_of(
        some_text,  # spelled byte by byte
        st.binary(max_size=3),  # and bytes that are not UTF-8
        st.integers(0, EOS - 1),
        st.just(EOS),
    ),
    max_size=12,
)


def spell(parts, id_of_byte):
    ids = []
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        ids += [id_of_byte[byte] for byte in data] if isinstance(data, bytes) else [data]
    return ids


@settings(deadline=None, max_examples=300)
@given(st.data(), some_tokens)
def test_any_tokens_stream_as_their_text_up_to_eos_or_a_stop_string(
    model, tokenizer, id_of_byte, data, parts
):
    ids = spell(parts, id_of_byte)
    until_eos = ids[: ids.index(EOS)] if EOS in ids else ids
    text = tokenizer.decode(until_eos)
    places = st.integers(0, len(text))
    part_of_text = st.tuples(places, places).map(lambda p: text[min(p) : max(p)]).filter(bool)
    some_stop = st.one_of(st.text("ab ñ日\ufffd", min_size=1, max_size=3), *([part_of_text] if text else []))
    stop = data.draw(st.lists(some_stop, max_size=3))

    pieces, completion, script = play(model, ids, stop)

    assert completion.text == "".join(pieces) == before_stop(text, stop)
    assert all(pieces)
    assert completion.ids == ids[: len(completion.ids)]
    assert completion.prompt_ids == [1, 2, 3]
    if any(s in text for s in stop):
        assert completion.finish_reason == "stop"
    elif EOS in ids:
        assert completion.finish_reason == "eos"
        assert completion.ids == [*until_eos, EOS]
    else:
        assert completion.finish_reason == "length"
        assert completion.ids == ids
    assert completion.timings.forward_passes == len(script.fed) == len(completion.ids)
    assert script.fed == [[1, 2, 3], *([id] for id in completion.ids[:-1])][: len(script.fed)]


@given(some_text)
def test_no_character_is_ever_split_over_pieces(model, id_of_byte, text):
    pieces, completion, _ = play(model, spell([text], id_of_byte))
    assert "".join(pieces) == text
    assert len(pieces) == len(text)  # each comes as soon as its last byte is there
    assert completion.text == text


def test_a_character_cut_off_by_the_end_becomes_the_replacement_character(model, id_of_byte):
    ids = spell(["a😀"], id_of_byte)
    for n in (2, 3, 4):
        _, completion, _ = play(model, ids[:n])
        assert completion.text == "a\ufffd" == model.tokenizer.decode(completion.ids)


def test_a_stop_string_that_begins_inside_a_token_and_ends_inside_another_does_not_leak(model, tokenizer):
    the, captain, rest = tokenizer.encode(" the")[0], tokenizer.encode(" captain"), tokenizer.encode(" was")
    assert tokenizer.token_bytes(the) == b" the"
    pieces, completion, _ = play(model, [the, *captain, *rest], stop=["e cap"])
    assert "".join(pieces) == completion.text == " th"
    assert completion.finish_reason == "stop"
    assert len(completion.ids) < 1 + len(captain) + len(rest)


def test_the_beginning_of_a_stop_string_is_shown_once_it_cannot_become_one(model, id_of_byte):
    pieces, completion, _ = play(model, spell(["abac"], id_of_byte), stop=["abad"])
    assert pieces == ["aba" + "c"]
    assert completion.finish_reason == "length"
    pieces, _, _ = play(model, spell(["aba"], id_of_byte), stop=["abad"])
    assert "".join(pieces) == "aba"


def test_a_stop_string_hidden_by_the_beginning_of_a_longer_one_still_counts_at_the_end(model, id_of_byte):
    for end in ([], [EOS]):
        _, completion, _ = play(model, [*spell(["xab"], id_of_byte), *end], stop=["abc", "b"])
        assert completion.text == "xa"
        assert completion.finish_reason == "stop"


def test_eos_is_in_the_ids_and_not_in_the_text_and_nothing_comes_after_it(model, id_of_byte):
    ids = [id_of_byte[ord("a")], EOS, id_of_byte[ord("b")]]
    pieces, completion, _ = play(model, ids)
    assert pieces == ["a"]
    assert completion.ids == ids[:2]
    assert completion.finish_reason == "eos"
    _, completion, _ = play(model, [EOS])
    assert (completion.text, completion.ids, completion.finish_reason) == ("", [EOS], "eos")
