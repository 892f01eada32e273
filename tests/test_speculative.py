"""Guesses checked in one pass: whatever the draft, the tokens of plain generation; sooner with a good one."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2c
from gpt2c import bindings
from gpt2c.generation.sampling import GenerationSettings, process, softmax
from gpt2c.generation.speculative import DraftLength, NgramDrafter

ISAS = gpt2c.build_info()["isas_supported"]
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def loaded(model_folder: Callable[[str], Path]) -> Callable[..., gpt2c.Model]:
    """gpt2c.load of a small model, each way once."""

    @cache
    def load(name: str, **how: str) -> gpt2c.Model:
        return gpt2c.load(model_folder(name), **how)

    return load


@pytest.fixture(scope="module")
def model():
    with gpt2c.load() as loaded:
        yield loaded


def outcome(completion: gpt2c.Completion) -> tuple[object, ...]:
    """All of a completion but how long it took."""
    return (*(value for name, value in vars(completion).items() if name != "timings"),)


some_settings = st.sampled_from(
    [
        {},
        {"temperature": 0.7, "seed": 5},
        {"temperature": 1.5, "top_p": 0.9, "seed": 1, "logprobs": 2},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 3},
    ]
)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(0, 127), min_size=1, max_size=100),
    some_settings,
    st.sampled_from(["ngram", "tiny", "calm"]),
    st.sampled_from([None, 1, 2, 4, 9]),
    st.sampled_from(ISAS),
    st.sampled_from(bindings.NAMES),
    st.sampled_from(["all", "all,kv_f16", "all,bf16", "all,q8", "all,q4", "kv", "none"]),
    st.integers(0, 50),
    st.sampled_from(["error", "slide"]),
)
def test_the_result_is_that_of_plain_generation(
    loaded: Callable[..., gpt2c.Model],
    prompt: list[int],
    wanted: dict[str, float],
    draft: str,
    k: int | None,
    isa: str,
    binding: str,
    opts: str,
    n: int,
    overflow: str,
) -> None:
    model = loaded("tiny", isa=isa, binding=binding, opts=opts)
    drafter = draft if draft == "ngram" else loaded(draft)
    plain = model.generate(prompt, n, overflow=overflow, **wanted)
    with_draft = model.generate(prompt, n, overflow=overflow, draft=drafter, num_assistant_tokens=k, **wanted)
    assert outcome(with_draft) == outcome(plain)


@pytest.mark.parametrize(
    "wanted", [{}, {"temperature": 0.8, "top_k": 40, "seed": 4}, {"stop": [" the", "\n"]}]
)
def test_the_trained_model_with_each_kind_of_draft(model: gpt2c.Model, wanted: dict[str, object]) -> None:
    for text in (PROMPT, "'Holmes,' said I, 'what"):
        plain = model.generate(text, 60, **wanted)
        for draft in ("ngram", model):
            for k in (None, 3):
                found = model.generate(text, 60, draft=draft, num_assistant_tokens=k, **wanted)
                assert outcome(found) == outcome(plain)


def test_a_stream_with_a_draft_is_the_text(model: gpt2c.Model) -> None:
    stream = model.stream(PROMPT, 60, draft="ngram", num_assistant_tokens=4)
    assert "".join(stream) == stream.completion.text == model.generate(PROMPT, 60).text


@pytest.mark.parametrize("wanted", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_a_draft_that_is_always_right_takes_one_pass_for_its_guesses_and_one_token_more(
    model: gpt2c.Model, wanted: dict[str, float], k: int
) -> None:
    timings = model.generate(PROMPT, 43, draft=model, num_assistant_tokens=k, **wanted).timings
    n_rounds = -(-42 // (k + 1))  # after the prompt's pass
    assert timings.forward_passes == 1 + n_rounds
    assert timings.accepted == timings.drafted == 42 - n_rounds


def test_the_guesses_that_hold_are_those_that_a_plain_generation_would_have_made(
    loaded: Callable[..., gpt2c.Model],
) -> None:
    target, draft = loaded("tiny"), loaded("calm")
    completion = target.generate([1, 2], 60, draft=draft, num_assistant_tokens=1)
    ids = completion.prompt_ids + completion.ids
    n_right = n = 0
    at = 3  # the first token has come with the prompt
    while at < len(ids) - 1:
        guess = draft.logits(ids[:at])[-1].argmax()
        n += 1
        n_right += guess == ids[at]
        at += 1 + (guess == ids[at])
    assert (completion.timings.drafted, completion.timings.accepted) == (n, n_right)


def test_each_token_is_drawn_from_the_models_own_distribution(loaded: Callable[..., gpt2c.Model]) -> None:
    """Pearson's chi-square over pairs of tokens, with a bound that a fair sampler exceeds once in 10,000."""
    target, draft = loaded("tiny"), loaded("calm")
    wanted = {"temperature": 1.2, "top_k": 4}
    prompt, n = [1, 2, 3], 3000
    checked = GenerationSettings(**wanted)

    def probabilities(ids: list[int]) -> np.ndarray:
        return softmax(process(target.logits(ids)[-1], ids, checked))

    counts = Counter(
        tuple(target.generate(prompt, 3, draft=draft, num_assistant_tokens=2, seed=seed, **wanted).ids[:2])
        for seed in range(n)
    )
    first = probabilities(prompt)
    expected = {
        (int(a), int(b)): n * first[a] * second[b]
        for a in np.flatnonzero(first)
        for second in [probabilities([*prompt, int(a)])]
        for b in np.flatnonzero(second)
    }
    assert len(expected) == 16
    assert counts.keys() <= expected.keys()
    assert sum((counts[pair] - e) ** 2 / e for pair, e in expected.items()) < 44.3


def test_a_model_that_guesses_by_sampling_is_right_as_often_as_the_distributions_agree(
    model: gpt2c.Model,
) -> None:
    """It takes the same random numbers: the model as its own draft is always right."""
    timings = model.generate(PROMPT, 40, temperature=1.5, seed=9, draft=model, num_assistant_tokens=5).timings
    assert timings.drafted == timings.accepted > 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 39))
def test_ngrams_are_those_of_the_last_time_that_these_tokens_came(ids: list[int], n: int, seen: int) -> None:
    drafter = NgramDrafter(longest=3)
    drafter.follow(ids[: min(seen + 1, len(ids))])
    drafter.follow(ids)
    expected: list[int] = []
    for size in (3, 2, 1):
        ends = [e for e in range(size, len(ids)) if size <= len(ids) and ids[e - size : e] == ids[-size:]]
        if ends and not expected:
            expected = ids[ends[-1] : ends[-1] + n]
    assert drafter.guess(n) == expected


# ---- How many to guess ----


def simulate(
    length: DraftLength,
    n_tokens: int,
    *,
    right: float,
    guess_s: float,
    check_s: float,
    seed: int = 0,
    pass_s: Callable[[int], float] = lambda n: 1.0,
) -> float:
    """Seconds for that many tokens, where a plain pass takes pass_s(n) and all else that many of those."""
    dice = random.Random(seed)
    seconds, n = 0.0, 0
    while n < n_tokens:
        k, now = length.next(), pass_s(n)
        if k == 0:
            seconds, n = seconds + now, n + 1
            length.saw_plain(now)
            continue
        n_right = 0
        while n_right < k and dice.random() < right:
            n_right += 1
        guess, check = now * k * guess_s, now * check_s * (1 + 0.03 * k)
        length.saw_round(k, n_right, guess, check)
        seconds, n = seconds + guess + check, n + n_right + 1
    return seconds * n_tokens / n


@pytest.mark.parametrize("seed", range(5))
def test_a_good_draft_is_used_nearly_as_well_as_with_the_best_fixed_number(seed: int) -> None:
    how = {"right": 0.8, "guess_s": 0.1, "check_s": 1.1, "seed": seed}
    fixed = min(simulate(DraftLength(k), 400, **how) for k in range(1, 9))
    adaptive = simulate(DraftLength(), 400, **how)
    assert adaptive < 400 / 1.5
    assert adaptive < 1.15 * fixed


@settings(deadline=None)
@given(st.floats(0, 0.3), st.floats(0.2, 1.0), st.floats(1.0, 1.6), st.integers(0, 9))
def test_a_draft_that_is_no_good_costs_next_to_nothing(
    right: float, guess_s: float, check_s: float, seed: int
) -> None:
    how = {"right": right, "guess_s": guess_s, "check_s": check_s, "seed": seed}
    assert simulate(DraftLength(cost=guess_s), 200, **how) < 200 / 0.96


@given(st.floats(0.8, 2.0), st.integers(0, 9))
def test_a_draft_as_large_as_the_model_is_not_even_tried_in_a_short_text(guess_s: float, seed: int) -> None:
    length = DraftLength(cost=guess_s, prefill_s=1.0)
    assert simulate(length, 50, right=0.0, guess_s=guess_s, check_s=1.3, seed=seed) == 50


def test_trials_of_a_bad_draft_are_soon_rare() -> None:
    length, trials = DraftLength(cost=0.1), []
    for n in range(1500):
        if length.next():
            length.saw_round(2, 0, 0.2, 1.3)
            trials.append(n)
        else:
            length.saw_plain(1.0)
    assert trials[:3] == [1, 2, 3]  # until 1.5 passes are lost
    assert np.all(np.abs(np.diff(trials[3:]) - 50) <= 1)  # half a pass each


@pytest.mark.parametrize("n", [30, 60, 90])
def test_a_machine_that_becomes_faster_is_not_mistaken_for_a_good_draft(n: int) -> None:
    how = {"right": 0.0, "guess_s": 0.1, "check_s": 1.3}
    plain = n * 2.0 + (200 - n)
    found = simulate(DraftLength(cost=0.1), 200, pass_s=lambda at: 2.0 if at < n else 1.0, **how)
    assert found < plain / 0.96


def test_a_draft_that_becomes_good_is_found_out() -> None:
    length = DraftLength()
    simulate(length, 100, right=0.0, guess_s=0.05, check_s=1.1)
    assert simulate(length, 600, right=0.9, guess_s=0.05, check_s=1.1) < 600 / 1.3


# ---- Refusals, and memory ----


def test_a_closed_draft_is_refused_before_any_work(
    model: gpt2c.Model, model_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpt2c.load() as draft:
        pass
    monkeypatch.setattr(gpt2c.Model, "session", lambda self: pytest.fail("a session was made"))
    with pytest.raises(gpt2c.ClosedError, match="the model is closed"):
        model.generate([1], 3, draft=draft)


def test_what_cannot_be_a_draft_is_refused_before_any_work(
    model: gpt2c.Model, loaded: Callable[..., gpt2c.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = loaded("tiny")
    monkeypatch.setattr(gpt2c.Model, "session", lambda self: pytest.fail("a session was made"))
    for draft, line in [
        ("bigram", "draft must be None, 'ngram' or a loaded model, not 'bigram'"),
        (3, "draft must be None, 'ngram' or a loaded model, not 3"),
        (small, "the draft model has another vocabulary, so its ids mean other tokens"),
    ]:
        with pytest.raises(gpt2c.OptionError) as caught:
            model.generate(PROMPT, draft=draft)
        assert str(caught.value) == line
    for k in (0, 65, 1.5, True):
        with pytest.raises(gpt2c.OptionError, match="num_assistant_tokens must be an integer from 1 to 64"):
            model.generate(PROMPT, draft="ngram", num_assistant_tokens=k)


def test_the_drafts_session_is_freed_however_the_generation_ends(binding: str) -> None:
    native = bindings.load(binding)
    with gpt2c.load(binding=binding) as model:
        model.session().close()  # which leaves its buffers to the next one
        gc.collect()  # of other tests
        before = native.memory()[0]
        model.generate(PROMPT, 20, draft=model)
        assert native.memory()[0] == before
        with model.stream(PROMPT, 100, draft=model, num_assistant_tokens=2) as stream:
            for _ in range(5):
                next(stream)
            assert native.memory()[0] > before
        assert native.memory()[0] == before
        stream = model.stream(PROMPT, 100, draft=model, num_assistant_tokens=2)
        next(stream)
        model.cancel()
        assert list(stream) == []
        assert stream.completion.finish_reason == "cancelled"
        assert native.memory()[0] == before
