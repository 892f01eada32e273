"""Generation: whole characters, no stop string, the right end, and a model that survives every way out."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2c
from gpt2c import bindings
from gpt2c.errors import (
    ClosedError,
    ContextLengthError,
    ModelNotFoundError,
    OptionError,
    SessionBusyError,
    TokenError,
)
from gpt2c.generation import Stream, check_settings
from gpt2c.sampling import apply_repetition_penalty

PROMPT = "Once upon a time"
NO_HANG = 60  # seconds; far beyond what any of these takes


@pytest.fixture(scope="module")
def model():
    with gpt2c.load() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.tokenizer


@pytest.fixture
def tiny(model_folder):
    """A model with a context of 128 and no vocabulary."""
    with gpt2c.load(model_folder("tiny")) as loaded:
        yield loaded


@pytest.fixture
def slow(binding):
    """The embedded model with every optimization off: a long prompt takes seconds."""
    with gpt2c.load(opts="none", binding=binding) as loaded:
        yield loaded


LONG_PROMPT = np.arange(500, dtype=np.int32)


def before_stop(text, stop):
    """The text before the earliest stop string, by the regular expression engine."""
    match = re.search("|".join(map(re.escape, stop)), text) if stop else None
    return text[: match.start()] if match else text


def text_of(tokenizer, ids, stop=()):
    """What the text of a completion with these ids has to be."""
    without_eos = ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
    return before_stop(tokenizer.decode(without_eos), stop)


# ---- Any tokens at all: a session that says what it is told to say ----


class Script:
    """Stands in for a session: its model's next tokens are the given ones."""

    def __init__(self, ids):
        self.ids = list(ids)
        self.fed = []
        self.closed = False
        self.cancelled = False

    def feed_greedy(self, ids):
        self.fed.append(ids.tolist())
        return self.ids[len(self.fed) - 1]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.closed = True


def play(model, ids, stop=(), n=None):
    """The pieces, the completion and the session of a generation whose new tokens are `ids`."""
    script = Script(ids)
    wanted = check_settings(len(ids) if n is None else n, 0.0, 0, 1.0, 0.0, 1.0, None, stop)
    stream = Stream(lambda: script, model.tokenizer, np.array([1, 2, 3], np.int32), wanted, model.config)
    pieces = list(stream)
    assert script.closed
    return pieces, stream.completion, script


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


def test_a_stop_string_hidden_behind_the_beginning_of_a_longer_one_still_counts_at_the_end(model, id_of_byte):
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


# ---- The real model ----


@settings(deadline=None, max_examples=15)
@given(
    st.data(),
    st.text(min_size=1, max_size=8),
    st.sampled_from([{}, {"temperature": 0.8}, {"temperature": 9.0}]),
    st.integers(0, 1000),
)
def test_the_stream_is_the_text_is_the_decoded_ids(model, tokenizer, data, prompt, sampling, seed):
    whole = model.generate(prompt, 8, seed=seed, **sampling)
    assert whole.prompt_ids == tokenizer.encode(prompt)
    assert whole.text == text_of(tokenizer, whole.ids)
    begin = data.draw(st.integers(0, max(len(whole.text) - 1, 0)))
    stop = whole.text[begin : begin + data.draw(st.integers(1, 4))] or "x"

    stream = model.stream(prompt, 8, seed=seed, stop=stop, **sampling)
    assert stream.completion is None
    joined = "".join(stream)

    assert joined == stream.completion.text == text_of(tokenizer, whole.ids, [stop])
    assert stop not in joined
    assert stream.completion.ids == whole.ids[: len(stream.completion.ids)]
    assert (stream.completion.finish_reason == "stop") == (stop in whole.text)


def test_the_default_is_greedy_and_repeats_itself(model):
    first, second = model.generate(PROMPT, 8), model.generate(PROMPT, 8, temperature=0, seed=5)
    assert first.ids == second.ids
    with model.session() as session:
        fed = session.feed(first.prompt_ids)
        for id in first.ids:
            assert id == fed.argmax()
            fed = session.feed([id])


def test_a_seed_repeats_the_text_and_none_does_not(model):
    def text(seed):
        return model.generate(PROMPT, 12, temperature=2.0, seed=seed).text

    assert text(3) == text(3)
    assert text(3) != text(4)
    assert text(None) != text(None)


def test_the_repetition_penalty_counts_the_prompt_and_the_new_tokens(model):
    completion = model.generate(PROMPT, 8, repetition_penalty=1.7)
    assert completion.ids != model.generate(PROMPT, 8).ids
    so_far = list(completion.prompt_ids)
    with model.session() as session:
        logits = session.feed(so_far)
        for id in completion.ids:
            assert id == apply_repetition_penalty(logits, so_far, 1.7).argmax()
            so_far.append(id)
            logits = session.feed([id])


def test_text_and_its_ids_are_the_same_prompt(model, tokenizer):
    ids = tokenizer.encode(PROMPT)
    expected = model.generate(PROMPT, 5)
    for prompt in (ids, tuple(ids), np.array(ids), np.array(ids, np.uint8 if max(ids) < 256 else np.uint16)):
        again = model.generate(prompt, 5)
        assert (again.ids, again.prompt_ids, again.text) == (expected.ids, ids, expected.text)


def test_no_new_tokens_is_an_empty_completion_without_a_pass(model):
    stream = model.stream(PROMPT, 0)
    assert list(stream) == []
    completion = stream.completion
    assert (completion.text, completion.ids, completion.finish_reason) == ("", [], "length")
    assert completion.timings == gpt2c.Timings(0.0, 0.0, 0.0, 0)


def test_one_new_token_takes_one_pass(model):
    completion = model.generate(PROMPT, 1)
    assert len(completion.ids) == completion.timings.forward_passes == 1
    assert completion.finish_reason == "length"
    assert completion.timings.ms_per_token == 0.0


def test_the_timings_are_those_of_the_passes(model):
    for settings_ in ({}, {"temperature": 1.0, "seed": 0}):
        completion = model.generate(PROMPT, 6, **settings_)
        timings = completion.timings
        assert timings.forward_passes == len(completion.ids) == 6
        assert 0 < timings.prefill_ms <= timings.ttft_ms
        assert timings.ms_per_token > 0


# ---- The context ----


def test_a_prompt_that_fills_the_context_gives_one_token(tiny):
    n_ctx = tiny.config.n_ctx
    completion = tiny.generate([1] * n_ctx, 50)
    assert len(completion.ids) == 1
    assert completion.finish_reason == "length"


def test_reaching_the_context_ends_with_length(tiny):
    n_ctx = tiny.config.n_ctx
    completion = tiny.generate([1] * (n_ctx - 4), 10**30)
    assert len(completion.ids) == 5  # the last one is never fed
    assert completion.finish_reason == "length"
    assert completion.ids[0] == tiny.generate([1] * (n_ctx - 4), 1).ids[0]


@pytest.mark.parametrize("n", [0, 5])
def test_a_prompt_longer_than_the_context_is_refused_before_any_work(tiny, monkeypatch, n):
    monkeypatch.setattr(type(tiny), "session", lambda self: pytest.fail("a session was made"))
    with pytest.raises(ContextLengthError) as caught:
        tiny.stream([1] * (tiny.config.n_ctx + 1), n)
    assert str(caught.value) == "the prompt has 129 tokens, the model's context holds 128"


# ---- What is refused, before any work ----


@pytest.mark.parametrize(
    ("prompt", "given", "error", "line"),
    [
        ("", {}, TokenError, "the prompt is empty: at least one token is needed"),
        ([], {}, TokenError, "the prompt is empty: at least one token is needed"),
        ([8192], {}, TokenError, "token id 8192 is outside the vocabulary (0 to 8191)"),
        ([-1], {}, TokenError, "token id -1 is outside the vocabulary (0 to 8191)"),
        ([2**70], {}, TokenError, "token ids must be integers, not object"),
        ([1.0], {}, TokenError, "token ids must be integers, not float64"),
        ([True], {}, TokenError, "token ids must be integers, not bool"),
        ([[1]], {}, TokenError, "token ids must be one flat list, not an array of shape (1, 1)"),
        ("a", {"max_new_tokens": -1}, OptionError, "max_new_tokens must be an integer >= 0, not -1"),
        ("a", {"max_new_tokens": 1.5}, OptionError, "max_new_tokens must be an integer >= 0, not 1.5"),
        ("a", {"max_new_tokens": None}, OptionError, "max_new_tokens must be an integer >= 0, not None"),
        ("a", {"temperature": -1}, OptionError, "temperature must be >= 0, not -1"),
        ("a", {"stop": ""}, OptionError, "a stop string must not be empty"),
        ("a", {"stop": ["x", ""]}, OptionError, "a stop string must not be empty"),
        ("a", {"stop": [1]}, OptionError, "a stop string must be text, not int"),
        ("a", {"stop": b"x"}, OptionError, "a stop string must be text, not int"),
        ("a", {"stop": 5}, OptionError, "stop must be a string or several, not 5"),
        ("a", {"stop": None}, OptionError, "stop must be a string or several, not None"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(model, monkeypatch, prompt, given, error, line):
    monkeypatch.setattr(type(model), "session", lambda self: pytest.fail("a session was made"))
    with pytest.raises(error) as caught:
        model.stream(prompt, **given)
    assert str(caught.value) == line


def test_a_stop_string_may_come_alone_or_from_any_iterable(model):
    texts = {model.generate(PROMPT, 6, stop=stop).text for stop in ("a", ["a"], ("a",), iter("a"), {"a"})}
    assert len(texts) == 1


# ---- Ways out ----


def test_closing_the_stream_stops_it_at_once_and_frees_its_session(binding):
    native = bindings.load(binding)
    with gpt2c.load(binding=binding) as model:
        expected = model.generate(PROMPT, 5)
        before = native.memory()[0]
        with model.stream(PROMPT, 400) as stream:
            next(stream)
            assert native.memory()[0] > before
        assert native.memory()[0] == before
        assert list(stream) == []
        assert stream.completion is None
        stream.close()
        for _ in model.stream(PROMPT, 400):
            break  # a stream that is merely dropped gives its memory back too
        assert native.memory()[0] == before
        assert model.generate(PROMPT, 5).ids == expected.ids


def test_a_stream_that_was_never_begun_can_be_closed(model):
    stream = model.stream(PROMPT)
    stream.close()
    assert list(stream) == []


def run_and_cancel(model, work, ready):
    """Run work() in a thread, cancel from this one once `ready` is set; the thread has ended then."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(NO_HANG)
    deadline = time.monotonic() + NO_HANG
    while thread.is_alive() and time.monotonic() < deadline:
        model.cancel()
        thread.join(0.01)
    assert not thread.is_alive()


def test_cancel_from_another_thread_ends_a_long_prompt_with_an_empty_completion(slow):
    ready, results = threading.Event(), []

    def work():
        ready.set()
        results.append(slow.generate(LONG_PROMPT, 5))

    run_and_cancel(slow, work, ready)
    [completion] = results
    assert (completion.text, completion.ids, completion.finish_reason) == ("", [], "cancelled")
    assert completion.timings.forward_passes == 0
    assert slow.generate([1, 2, 3], 1).finish_reason == "length"


def test_cancel_keeps_the_text_so_far(slow):
    ready, streams, pieces = threading.Event(), [], []

    def work():
        streams.append(slow.stream(PROMPT, 400))
        for piece in streams[0]:
            pieces.append(piece)
            if len(pieces) == 3:
                ready.set()

    run_and_cancel(slow, work, ready)
    completion = streams[0].completion
    assert completion.finish_reason == "cancelled"
    assert 3 <= len(completion.ids) < 400
    assert completion.text == "".join(pieces) == text_of(slow.tokenizer, completion.ids)


def test_cancel_between_two_tokens_is_noticed_too(model):
    stream = model.stream(PROMPT, 20)
    first = next(stream)
    model.cancel()
    assert list(stream) == []
    assert stream.completion.finish_reason == "cancelled"
    assert stream.completion.text == first


def test_cancel_when_nothing_runs_does_nothing(model):
    expected = model.generate(PROMPT, 3).ids
    model.cancel()
    assert model.generate(PROMPT, 3).ids == expected


@pytest.fixture
def ctrl_c_soon():
    """Ctrl-C, a moment after it is asked for; not at all if the test is over by then."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    yield timer
    timer.cancel()
    timer.join()


def test_ctrl_c_ends_a_long_prompt_and_the_session_is_as_before(slow, ctrl_c_soon):
    with slow.session() as session:
        expected = session.feed([5, 6, 7]).copy()
        session.rewind(2)
        began = time.thread_time()  # the processor's time: another process's work does not count
        ctrl_c_soon.start()
        with pytest.raises(KeyboardInterrupt):
            session.feed(LONG_PROMPT)
        assert time.thread_time() - began < 0.3 + 1
        assert session.n_past == 2
        np.testing.assert_array_equal(session.feed([7]), expected)


def test_ctrl_c_ends_a_generation_and_the_model_stays_usable(slow, ctrl_c_soon):
    expected = slow.generate([1, 2, 3], 2).ids
    ctrl_c_soon.start()
    with pytest.raises(KeyboardInterrupt):
        slow.generate(LONG_PROMPT, 5)
    assert slow.generate([1, 2, 3], 2).ids == expected


def test_a_generation_imports_nothing_once_it_has_begun(tmp_path):
    """A Ctrl-C that comes while an extension module is imported can be lost."""
    code = (
        "import sys, gpt2c\n"
        "stream = gpt2c.load().stream('The sea', 3, temperature=1.0, top_k=5, top_p=0.9, seed=0)\n"
        "before = set(sys.modules)\n"
        "list(stream)\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(gpt2c.__file__).resolve().parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=NO_HANG,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


# ---- Threads ----


def test_a_second_thread_in_one_session_is_refused_and_the_first_is_not_disturbed(slow):
    with slow.session() as session:
        session.feed([1])
        errors = []

        def work():
            try:
                session.feed(LONG_PROMPT)
            except gpt2c.CancelledError as error:
                errors.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        with pytest.raises(SessionBusyError):
            while thread.is_alive():
                session.rewind(1)  # does nothing until the other thread is inside
        with pytest.raises(SessionBusyError):
            session.feed([2])
        while thread.is_alive():
            session.cancel()
            thread.join(0.01)
        assert len(errors) == 1
        assert session.n_past == 1


def test_many_threads_on_one_model_get_the_answers_that_each_would_get_alone(binding):
    with gpt2c.load(binding=binding) as model:
        prompts = [f"{word} was" for word in ("He", "She", "It", "There", "What", "The ship")]
        expected = [model.generate(prompt, 6) for prompt in prompts]
        found = [None] * len(prompts)

        def work(i):
            found[i] = [model.generate(prompts[i], 6) for _ in range(2)]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(NO_HANG)
        for alone, together in zip(expected, found, strict=True):
            assert [(c.text, c.ids) for c in together] == [(alone.text, alone.ids)] * 2


# ---- After close ----


def test_a_closed_model_says_so(binding):
    model = gpt2c.load(binding=binding)
    begun = model.stream(PROMPT, 5)
    first = next(begun)
    session = model.session()
    session.feed([1])
    not_begun = model.stream(PROMPT, 5)
    model.close()
    model.close()
    calls = [
        lambda: model.generate(PROMPT),
        lambda: model.generate([1], 0),
        lambda: next(not_begun),
        lambda: model.logits([1]),
        lambda: model.session(),
        lambda: model.weight_bytes,
    ]
    for call in calls:
        with pytest.raises(ClosedError) as caught:
            call()
        assert str(caught.value) == "the model is closed"
    # What runs already runs to its end.
    assert first + "".join(begun) == begun.completion.text
    assert session.feed([2]).shape == (model.config.n_vocab,)
    session.close()
    session.close()
    for call in (lambda: session.feed([1]), lambda: session.n_past, lambda: session.rewind(0)):
        with pytest.raises(ClosedError) as caught:
            call()
        assert str(caught.value) == "the session is closed"
    session.cancel()


# ---- A model without a vocabulary ----


def test_a_model_without_a_vocabulary_goes_from_ids_to_ids(tiny):
    completion = tiny.generate([1, 2, 3], 7)
    assert len(completion.ids) == 7
    assert completion.text == ""
    assert list(tiny.stream([1, 2, 3], 7, stop="x")) == []
    assert tiny.generate([1, 2, 3], 7, temperature=1.0, seed=1).finish_reason == "length"


def test_a_model_without_a_vocabulary_has_no_tokenizer_and_takes_no_text(tiny, model_folder):
    missing = f"{model_folder('tiny') / 'vocab.json'}: no such file, nor a tokenizer.json beside it"
    for call in (lambda: tiny.tokenizer, lambda: tiny.generate("text")):
        with pytest.raises(ModelNotFoundError) as caught:
            call()
        assert str(caught.value) == missing


def test_eos_of_the_config_ends_a_generation_without_a_vocabulary(tiny):
    free = tiny.generate([1, 2, 3], 7).ids
    wanted = check_settings(7, 0.0, 0, 1.0, 0.0, 1.0, None, ())
    config = gpt2c.ModelConfig(**{**vars(tiny.config), "eos_token_id": free[2]})
    stream = Stream(tiny.session, None, np.array([1, 2, 3], np.int32), wanted, config)
    assert list(stream) == []
    assert stream.completion.ids == free[: free.index(free[2]) + 1]
    assert stream.completion.finish_reason == "eos"
