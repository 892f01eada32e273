"""Tokens that may not come, log probabilities and seeds: as transformers means them, the same everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references import optional

import gpt2c
from gpt2c import bindings
from gpt2c.generation.sampling import (
    GenerationSettings,
    Sampler,
    apply_no_repeat_ngram,
    process,
    rule_out,
    token_logprobs,
)

ISAS = gpt2c.build_info()["isas_supported"]
PROMPT = "Once upon a time"


def normal(seed, size, scale=3.0):
    random = np.random.Generator(np.random.PCG64(seed))
    return (random.standard_normal(size) * scale).astype(np.float32)


@pytest.fixture(scope="module")
def processors():
    """transformers' logits processors."""
    optional("torch")
    return optional("transformers.generation.logits_process")


def reference(chain, logits, ids):
    """What a chain of transformers' processors makes of one row of logits."""
    import torch

    scores = torch.from_numpy(logits.copy())[None]
    for processor in chain:
        scores = processor(torch.tensor([ids]), scores)
    return scores[0].numpy()


@pytest.fixture(scope="module")
def model():
    with gpt2c.load() as loaded:
        yield loaded


# ---- Against transformers ----


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_no_repeat_ngram_is_that_of_transformers(processors, size, seed):
    logits = normal(seed, 50)
    random = np.random.Generator(np.random.PCG64(seed))
    for n in (1, 2, 5, 60):
        ids = random.integers(0, 4, n).tolist()
        theirs = reference([processors.NoRepeatNGramLogitsProcessor(size)], logits, ids)
        np.testing.assert_array_equal(apply_no_repeat_ngram(logits, ids, size), theirs)


@pytest.mark.parametrize("suppressed", [(3,), (0, 49), tuple(range(0, 50, 3)), (7, 7)])
def test_suppressed_tokens_are_those_of_transformers(processors, suppressed):
    logits = normal(1, 50)
    theirs = reference([processors.SuppressTokensLogitsProcessor(list(suppressed))], logits, [1])
    np.testing.assert_array_equal(rule_out(logits, suppressed), theirs)


@pytest.mark.parametrize("n_new", [0, 1, 4, 5, 9])
def test_the_minimum_of_new_tokens_is_that_of_transformers(processors, n_new):
    logits, ids = normal(2, 50), [1, 2, 3, *range(n_new)]
    theirs = reference([processors.MinNewTokensLengthLogitsProcessor(3, 5, 49, device="cpu")], logits, ids)
    ours = process(logits, ids, GenerationSettings(min_new_tokens=5), n_new, eos=49)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("seed", range(4))
def test_all_together_are_in_the_order_of_transformers(processors, seed):
    logits = normal(seed, 80)
    random = np.random.Generator(np.random.PCG64(seed))
    ids = random.integers(0, 6, 40).tolist()
    chain = [
        processors.RepetitionPenaltyLogitsProcessor(1.3),
        processors.NoRepeatNGramLogitsProcessor(2),
        processors.MinNewTokensLengthLogitsProcessor(30, 20, 5, device="cpu"),
        processors.SuppressTokensLogitsProcessor([9, 11]),
        processors.TemperatureLogitsWarper(0.7),
        processors.TopKLogitsWarper(20),
        processors.TopPLogitsWarper(0.9),
        processors.MinPLogitsWarper(0.02),
    ]
    wanted = GenerationSettings(
        temperature=0.7,
        top_k=20,
        top_p=0.9,
        min_p=0.02,
        repetition_penalty=1.3,
        no_repeat_ngram_size=2,
        suppress_tokens=(9, 11),
        min_new_tokens=20,
    )
    ours = process(logits, ids, wanted, n_new=10, eos=5)
    np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(reference(chain, logits, ids)))
    np.testing.assert_array_equal(ours, reference(chain, logits, ids))


@pytest.mark.parametrize(
    "wanted",
    [
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.2},
        {"suppress_tokens": [11, 13, 257]},
    ],
    ids=["ngram", "suppressed"],
)
def test_a_greedy_generation_is_that_of_transformers(processors, model, wanted):
    import torch
    import transformers

    theirs = transformers.GPT2LMHeadModel.from_pretrained(Path(gpt2c.__file__).parent / "assets")
    ours = model.generate(PROMPT, 20, **wanted)
    found = (
        theirs.float()
        .eval()
        .generate(
            torch.tensor([ours.prompt_ids]), max_new_tokens=20, do_sample=False, pad_token_id=0, **wanted
        )
    )
    assert ours.ids == found[0, len(ours.prompt_ids) :].tolist()


# ---- What each one means ----


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 4))
def test_no_sequence_of_so_many_tokens_comes_twice(ids, size):
    logits = np.zeros(5, np.float32)
    ruled_out = set(np.flatnonzero(np.isneginf(apply_no_repeat_ngram(logits, ids, size))).tolist())
    seen = {tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)}
    begun = ids[len(ids) - size + 1 :] if size > 1 else []
    assert ruled_out == {i for i in range(5) if (*begun, i) in seen}


def test_suppressed_tokens_never_come_and_eos_not_before_its_time(model):
    free = model.generate(PROMPT, 60, temperature=1.0, seed=1)
    banned = sorted(set(free.ids))[:10]
    for settings_ in ({"temperature": 1.0, "seed": 1}, {}):
        completion = model.generate(PROMPT, 60, suppress_tokens=banned, **settings_)
        assert not set(completion.ids) & set(banned)
    eos = model.tokenizer.eos_token_id
    everything_else = [i for i in range(model.config.n_vocab) if i not in (eos, 5)]
    completion = model.generate(PROMPT, 9, suppress_tokens=everything_else, min_new_tokens=4)
    assert completion.ids[:4] == [5, 5, 5, 5]
    soon = model.generate(PROMPT, 9, suppress_tokens=[*everything_else, 5])
    assert (soon.ids, soon.finish_reason) == ([eos], "eos")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("more", [{}, {"temperature": 1.0, "top_p": 0.9}, {"temperature": 1.0, "min_p": 0.1}])
def test_settings_that_leave_no_token_are_an_error(model, more):
    with pytest.raises(gpt2c.OptionError, match="the settings rule out every token of the vocabulary"):
        model.generate(PROMPT, 9, suppress_tokens=range(model.config.n_vocab), **more)


@pytest.mark.parametrize(
    ("given_", "error", "line"),
    [
        (
            {"no_repeat_ngram_size": -1},
            gpt2c.OptionError,
            "no_repeat_ngram_size must be an integer >= 0 (0: off), not -1",
        ),
        ({"min_new_tokens": 1.5}, gpt2c.OptionError, "min_new_tokens must be an integer >= 0, not 1.5"),
        ({"suppress_tokens": 5}, gpt2c.OptionError, "suppress_tokens must be token ids, not 5"),
        (
            {"suppress_tokens": ["a"]},
            gpt2c.OptionError,
            "a suppressed token must be an integer >= 0, not 'a'",
        ),
        (
            {"suppress_tokens": [8192]},
            gpt2c.TokenError,
            "token id 8192 is outside the vocabulary (0 to 8191)",
        ),
        ({"logprobs": -1}, gpt2c.OptionError, "logprobs must be an integer >= 0, not -1"),
    ],
)
def test_what_is_out_of_range_is_named_before_any_work(model, monkeypatch, given_, error, line):
    monkeypatch.setattr(type(model), "session", lambda self: pytest.fail("a session was made"))
    with pytest.raises(error) as caught:
        model.generate(PROMPT, **given_)
    assert str(caught.value) == line


# ---- Log probabilities ----


@pytest.mark.parametrize("wanted", [{}, {"temperature": 1.5, "seed": 3}, {"repetition_penalty": 2.0}])
def test_log_probabilities_are_the_models_own(model, wanted):
    completion = model.generate(PROMPT, 12, logprobs=3, **wanted)
    assert completion.ids == model.generate(PROMPT, 12, **wanted).ids
    ids = completion.prompt_ids + completion.ids
    logits = model.logits(ids)[len(completion.prompt_ids) - 1 : -1].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    expected -= logits.max(-1, keepdims=True)
    for found, id, row in zip(completion.logprobs, completion.ids, expected, strict=True):
        assert found.logprob == pytest.approx(row[id], abs=1e-9)
        assert list(found.top) == np.argsort(-row, kind="stable")[:3].tolist()
        assert list(found.top.values()) == pytest.approx(np.sort(row)[::-1][:3].tolist(), abs=1e-9)


def test_without_being_asked_for_there_are_none_and_0_gives_the_tokens_own(model):
    assert model.generate(PROMPT, 3).logprobs is None
    assert [found.top for found in model.generate(PROMPT, 3, logprobs=0).logprobs] == [{}, {}, {}]


def test_of_equal_tokens_the_lower_ids_are_the_top_ones():
    found = token_logprobs(np.array([0, 1, 1, 1, 0], np.float32), 3, 2)
    assert list(found.top) == [1, 2]
    assert len(token_logprobs(np.zeros(3, np.float32), 0, 10).top) == 3


# ---- Seeds ----


def test_a_seed_gives_the_same_ids_with_either_binding_and_any_number_of_threads(
    model_folder: Callable[[str], Path],
):
    for isa in ISAS:
        found = set()
        for binding, threads in itertools.product(bindings.NAMES, (1, 2, 5)):
            with gpt2c.load(model_folder("tiny"), isa=isa, binding=binding, threads=threads) as model:
                ids = model.generate([1, 2, 3], 30, temperature=1.3, top_p=0.9, seed=11).ids
                found.add(tuple(ids))
        assert len(found) == 1


def test_a_fork_takes_the_same_random_numbers_and_does_not_disturb():
    sampler, twin = (Sampler(GenerationSettings(temperature=1.0, seed=5)) for _ in range(2))
    logits = normal(4, 300)
    fork = sampler.fork()
    forked = [fork.choose(logits, [0]) for _ in range(20)]
    assert forked == [sampler.choose(logits, [0]) for _ in range(20)]
    assert forked == [twin.choose(logits, [0]) for _ in range(20)]
