"""Generation with the trained model and small random ones: the tokens asked for, and no others."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import text_of

import gpt2c
from gpt2c import bindings
from gpt2c.errors import ContextLengthError, ModelNotFoundError, OptionError, TokenError
from gpt2c.generation.continuation import Continuation, Stream, one_by_one
from gpt2c.generation.sampling import apply_repetition_penalty
from gpt2c.generation.settings import GenerationSettings

PROMPT = "Once upon a time"


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


@pytest.fixture(scope="module")
def loaded():
    """gpt2c.load of the trained model, each way once."""
    return cache(lambda isa, binding: gpt2c.load(isa=isa, binding=binding))


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(gpt2c.build_info()["isas_supported"]),
    st.sampled_from(bindings.NAMES),
    st.data(),
    st.text(min_size=1, max_size=8),
    st.sampled_from([{}, {"temperature": 0.8}, {"temperature": 9.0}]),
    st.integers(0, 1000),
)
def test_the_stream_is_the_text_is_the_decoded_ids(
    loaded, tokenizer, isa, binding, data, prompt, sampling, seed
):
    model = loaded(isa, binding)
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
        ("a", {"stop": 5}, OptionError, "stop must be a string or several strings, not 5"),
        ("a", {"stop": None}, OptionError, "stop must be a string or several strings, not None"),
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


# ---- A model without a vocabulary ----


def test_a_model_without_a_vocabulary_goes_from_ids_to_ids(tiny):
    completion = tiny.generate([1, 2, 3], 7)
    assert len(completion.ids) == 7
    assert completion.text == ""
    assert list(tiny.stream([1, 2, 3], 7, stop="x")) == []
    assert tiny.generate([1, 2, 3], 7, temperature=1.0, seed=1).finish_reason == "length"


def test_a_model_without_a_vocabulary_has_no_tokenizer_and_takes_no_text(tiny, model_folder):
    missing = f"{model_folder('tiny') / 'vocab.json'}: no such file, and no tokenizer.json next to it"
    for call in (lambda: tiny.tokenizer, lambda: tiny.generate("text")):
        with pytest.raises(ModelNotFoundError) as caught:
            call()
        assert str(caught.value) == missing


def test_eos_of_the_config_ends_a_generation_without_a_vocabulary(tiny):
    free = tiny.generate([1, 2, 3], 7).ids
    config = gpt2c.ModelConfig(**{**vars(tiny.config), "eos_token_id": free[2]})
    sequence = Continuation(np.array([1, 2, 3], np.int32), GenerationSettings(7), None, config)
    stream = Stream(sequence, tiny.session, one_by_one)
    assert list(stream) == []
    assert stream.completion.ids == free[: free.index(free[2]) + 1]
    assert stream.completion.finish_reason == "eos"
