"""Sampling: what transformers' logits processors mean, and a fair, repeatable choice among what is left."""

from __future__ import annotations

import math
import types
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import optional

from gpt2c.errors import Gpt2cError, OptionError
from gpt2c.generation.sampling import (
    GenerationSettings,
    Sampler,
    apply_min_p,
    apply_repetition_penalty,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    process,
    softmax,
)


def normal(seed, size, scale=3.0):
    random = np.random.Generator(np.random.PCG64(seed))
    return (random.standard_normal(size) * scale).astype(np.float32)


LOGITS = {
    "ordinary": normal(0, 1000),
    "flat": normal(1, 500, scale=0.01),
    "peaked": normal(2, 500, scale=30.0),
    "two tokens": np.array([0.25, -1.5], np.float32),
    "far apart": np.array([1e4, -1e4, 9999.0, 0.0, -3e4, 3.0], np.float32),
    "many ties": np.round(normal(3, 1000)),
    "all equal": np.full(300, -2.5, np.float32),
    "all zero but one": np.array([0.0, 0, 0, 5, 0, 0], np.float32),
}
TIED = {"many ties", "all equal", "all zero but one"}
each_logits = pytest.mark.parametrize("name", LOGITS)


# ---- Against transformers ----


@pytest.fixture(scope="module")
def processors():
    """transformers' logits processors."""
    optional("torch")
    return optional("transformers.generation.logits_process")


def reference(processors: types.ModuleType, chain, logits, ids=(0,)):
    """What a chain of (processor's name, parameter) makes of one row of logits."""
    import torch

    scores = torch.from_numpy(logits.copy())[None]
    for name, value in chain:
        scores = getattr(processors, name)(value)(torch.tensor([ids]), scores)
    return scores[0].numpy()


def assert_keeps_the_same(ours, theirs):
    """The same tokens are ruled out, and the others have the same logits."""
    np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(theirs))
    np.testing.assert_array_equal(ours, theirs)


@each_logits
@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.2, 7.0])
def test_the_repetition_penalty_is_that_of_transformers(processors, name, penalty):
    logits = LOGITS[name]
    ids = [0, len(logits) - 1, 1, 0, 1, 0]
    theirs = reference(processors, [("RepetitionPenaltyLogitsProcessor", penalty)], logits, ids)
    np.testing.assert_array_equal(apply_repetition_penalty(logits, ids, penalty), theirs)


@each_logits
@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 3.7])
def test_temperature_is_that_of_transformers(processors, name, temperature):
    theirs = reference(processors, [("TemperatureLogitsWarper", temperature)], LOGITS[name])
    np.testing.assert_array_equal(apply_temperature(LOGITS[name], temperature), theirs)


@each_logits
@pytest.mark.parametrize("k", [1, 2, 5, 40, 100_000])
def test_top_k_is_that_of_transformers_ties_included(processors, name, k):
    theirs = reference(processors, [("TopKLogitsWarper", k)], LOGITS[name])
    assert_keeps_the_same(apply_top_k(LOGITS[name], k), theirs)


@each_logits
@pytest.mark.parametrize("p", [1e-6, 0.047, 0.31, 0.77, 0.953, 0.999])
def test_top_p_is_that_of_transformers(processors, name, p):
    ours = apply_top_p(LOGITS[name], p)
    theirs = reference(processors, [("TopPLogitsWarper", p)], LOGITS[name])
    if name in TIED:  # which of several equal tokens go is the sort's choice: as many must go
        ours, theirs = np.sort(ours), np.sort(theirs)
    assert_keeps_the_same(ours, theirs)


@each_logits
@pytest.mark.parametrize("p", [1e-6, 0.05, 0.3, 0.9, 1.0])
def test_min_p_is_that_of_transformers(processors, name, p):
    theirs = reference(processors, [("MinPLogitsWarper", p)], LOGITS[name])
    assert_keeps_the_same(apply_min_p(LOGITS[name], p), theirs)


@pytest.mark.parametrize("name", [name for name in LOGITS if name not in TIED])
@pytest.mark.parametrize(
    ("penalty", "temperature", "k", "p", "min_p"),
    [
        (1.3, 0.7, 50, 0.93, 0.02),
        (0.8, 2.5, 200, 0.6, 0.001),
        (1.0, 0.8, 40, 1.0, 0.0),
        (4.0, 1.0, 0, 0.9, 0.0),
    ],
)
def test_all_together_are_transformers_processors_in_its_order(
    processors, name, penalty, temperature, k, p, min_p
):
    ids = [0, 1, 1, len(LOGITS[name]) // 2]
    chain = [
        ("RepetitionPenaltyLogitsProcessor", penalty),
        ("TemperatureLogitsWarper", temperature),
        *([("TopKLogitsWarper", k)] if k else []),
        *([("TopPLogitsWarper", p)] if p < 1 else []),
        ("MinPLogitsWarper", min_p),
    ]
    theirs = reference(processors, chain, LOGITS[name], ids)
    wanted = GenerationSettings(
        temperature=temperature, top_k=k, top_p=p, min_p=min_p, repetition_penalty=penalty
    )
    assert_keeps_the_same(process(LOGITS[name], ids, wanted), theirs)


# ---- What each one means ----

few_logits = st.lists(
    st.one_of(st.floats(-50, 50, width=32), st.integers(-3, 3).map(float)), min_size=1, max_size=30
).map(lambda values: np.array(values, np.float32))


def kept(logits):
    return ~np.isneginf(logits)


@given(few_logits, st.integers(1, 40))
def test_top_k_keeps_the_k_largest_and_their_equals(logits, k):
    out = apply_top_k(logits, k)
    smallest = np.sort(logits)[::-1][min(k, logits.size) - 1]
    np.testing.assert_array_equal(kept(out), logits >= smallest)
    np.testing.assert_array_equal(out[kept(out)], logits[kept(out)])


@given(few_logits, st.floats(1e-6, 1, exclude_max=True))
def test_top_p_keeps_the_fewest_that_reach_p(logits, p):
    out = apply_top_p(logits, p)
    probabilities = softmax(logits)
    mine = probabilities[kept(out)]
    assert mine.sum() >= p - 1e-9
    assert mine.size == 1 or mine.sum() - mine.min() < p + 1e-9
    if not kept(out).all():
        assert probabilities[~kept(out)].max() <= mine.min()
    np.testing.assert_array_equal(out[kept(out)], logits[kept(out)])


@given(few_logits, st.floats(0, 1))
def test_min_p_keeps_what_is_probable_enough(logits, p):
    probabilities = softmax(logits)
    out = apply_min_p(logits, p)
    np.testing.assert_array_equal(kept(out), probabilities >= p * probabilities.max())
    assert kept(out)[logits.argmax()]


def test_the_repetition_penalty_counts_a_token_once_and_touches_no_other():
    logits = np.array([2, -2, 2, -2, 0], np.float32)
    out = apply_repetition_penalty(logits, [0, 1, 0, 1, 4], 2.0)
    assert out.tolist() == [1, -4, 2, -2, 0]
    assert logits.tolist() == [2, -2, 2, -2, 0]


def test_what_is_off_changes_nothing():
    logits = LOGITS["ordinary"]
    np.testing.assert_array_equal(process(logits, [1, 2], GenerationSettings(temperature=1.0)), logits)
    np.testing.assert_array_equal(process(logits, [1, 2], GenerationSettings()), logits)


def test_at_temperature_0_the_penalty_still_counts_and_the_lowest_id_wins_a_tie():
    sampler = Sampler(GenerationSettings(repetition_penalty=2.0))
    logits = np.array([1, 3, 2.5, 2.5, 2.5], np.float32)
    assert [sampler.choose(logits, ids) for ids in ([0], [1], [1, 2])] == [1, 2, 3]


# ---- The choice ----


def test_a_choice_is_the_first_token_at_which_the_running_sum_exceeds_the_random_number():
    logits = LOGITS["ordinary"]
    sampler = Sampler(GenerationSettings(temperature=1.0, seed=123))
    random = np.random.Generator(np.random.PCG64(123))
    exact = [math.exp(float(x) - float(logits.max())) for x in logits]
    total = math.fsum(exact)
    for _ in range(50):
        u, running, expected = random.random(), 0.0, -1
        while running <= u:
            expected += 1
            running += exact[expected] / total
        assert sampler.choose(logits, [0]) == expected


def test_the_smallest_and_the_largest_random_number_choose_a_token_that_is_not_ruled_out():
    sampler = Sampler(GenerationSettings(temperature=1.0, top_k=2))
    for u, expected in [(0.0, 1), (0.5, 2), (np.nextafter(0.5, 0), 1), (np.nextafter(1.0, 0), 2)]:
        sampler._random = types.SimpleNamespace(random=lambda u=u: u)
        assert sampler.choose(np.array([-1, 3, 3, -1], np.float32), [0]) == expected


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "wanted",
    [
        GenerationSettings(temperature=1.0),
        GenerationSettings(temperature=0.5),
        GenerationSettings(temperature=2.0, top_k=4),
        GenerationSettings(temperature=1.0, top_p=0.8),
        GenerationSettings(temperature=1.0, min_p=0.2, repetition_penalty=1.5),
    ],
    ids=["plain", "cold", "top_k", "top_p", "min_p"],
)
def test_tokens_come_as_often_as_their_probability_says(seed, wanted):
    """Pearson's chi-square, with a bound that a fair sampler exceeds once in 100,000 seeds."""
    logits = np.array([1.0, 0.2, -1.0, 2.0, 0.7, 1.5], np.float32)
    ids, n = [3, 0], 6000
    probabilities = softmax(process(logits, ids, wanted))
    sampler = Sampler(GenerationSettings(**{**vars(wanted), "seed": seed}))
    counts = np.bincount([sampler.choose(logits, ids) for _ in range(n)], minlength=logits.size)
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = n * probabilities[possible]
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 32


def draw(seed, n=40):
    sampler = Sampler(GenerationSettings(temperature=1.0, seed=seed))
    return [sampler.choose(LOGITS["flat"], [0]) for _ in range(n)]


def test_the_same_seed_gives_the_same_ids_and_another_seed_others():
    assert draw(7) == draw(7) == draw(np.int64(7))
    assert draw(7) != draw(8)
    assert draw(2**200) == draw(2**200)


def test_without_a_seed_every_sampler_is_another():
    assert draw(None) != draw(None)


def test_choosing_leaves_the_logits_as_they_were():
    logits = LOGITS["ordinary"].copy()
    Sampler(
        GenerationSettings(temperature=0.5, top_k=5, top_p=0.5, min_p=0.1, repetition_penalty=1.5, seed=0)
    ).choose(logits, [1, 2])
    np.testing.assert_array_equal(logits, LOGITS["ordinary"])


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-12])
@pytest.mark.parametrize("name", [name for name in LOGITS if name not in TIED])
def test_a_temperature_next_to_0_is_greedy_and_never_overflows(name, temperature):
    sampler = Sampler(
        GenerationSettings(temperature=temperature, repetition_penalty=1e-300, top_p=0.9, min_p=0.1, seed=0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best = apply_repetition_penalty(LOGITS[name], [0], 1e-300).argmax()
        assert {sampler.choose(LOGITS[name], [0]) for _ in range(20)} == {best}


@pytest.mark.parametrize("temperature", [1e40, 1e300, 10**400])
def test_an_enormous_temperature_makes_all_tokens_equally_probable(temperature):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = GenerationSettings(temperature=temperature, repetition_penalty=1e300)
        np.testing.assert_allclose(softmax(process(LOGITS["far apart"], [0], wanted)), 1 / 6, rtol=1e-6)


@settings(deadline=None)
@given(
    few_logits,
    st.floats(0, exclude_min=True, allow_infinity=False),
    st.integers(0, 50),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1),
    st.floats(0, exclude_min=True, allow_infinity=False),
)
def test_whatever_the_settings_there_is_a_token_and_it_is_not_ruled_out(logits, t, k, p, min_p, penalty):
    wanted = GenerationSettings(
        temperature=t, top_k=k, top_p=p, min_p=min_p, repetition_penalty=penalty, seed=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = Sampler(wanted).choose(logits, [0])
        assert kept(process(logits, [0], wanted))[chosen]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_an_error_and_not_a_token(bad):
    logits = LOGITS["ordinary"].copy()
    logits[17] = bad
    for temperature in (0.0, 1.0):
        with pytest.raises(Gpt2cError) as caught:
            Sampler(GenerationSettings(temperature=temperature, repetition_penalty=2.0)).choose(logits, [0])
        assert str(caught.value) == ("the model's logits are not finite: its weights must be damaged")


# ---- Settings ----


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("temperature", -0.1, "temperature must be >= 0, not -0.1"),
        ("temperature", math.nan, "temperature must be >= 0, not nan"),
        ("temperature", math.inf, "temperature must be >= 0, not inf"),
        ("temperature", "warm", "temperature must be >= 0, not 'warm'"),
        ("temperature", None, "temperature must be >= 0, not None"),
        ("temperature", True, "temperature must be >= 0, not True"),
        ("top_k", -3, "top_k must be an integer >= 0 (0: off), not -3"),
        ("top_k", 1.5, "top_k must be an integer >= 0 (0: off), not 1.5"),
        ("top_k", None, "top_k must be an integer >= 0 (0: off), not None"),
        ("top_k", True, "top_k must be an integer >= 0 (0: off), not True"),
        ("top_p", 0, "top_p must be in (0, 1], not 0"),
        ("top_p", 2.0, "top_p must be in (0, 1], not 2.0"),
        ("top_p", math.nan, "top_p must be in (0, 1], not nan"),
        ("min_p", -0.5, "min_p must be in [0, 1], not -0.5"),
        ("min_p", 1.1, "min_p must be in [0, 1], not 1.1"),
        ("min_p", math.nan, "min_p must be in [0, 1], not nan"),
        ("repetition_penalty", 0.0, "repetition_penalty must be > 0 (1: off), not 0.0"),
        ("repetition_penalty", -1, "repetition_penalty must be > 0 (1: off), not -1"),
        ("repetition_penalty", math.inf, "repetition_penalty must be > 0 (1: off), not inf"),
        ("seed", -1, "seed must be an integer >= 0, not -1"),
        ("seed", 1.0, "seed must be an integer >= 0, not 1.0"),
        ("seed", "x", "seed must be an integer >= 0, not 'x'"),
    ],
)
def test_a_setting_out_of_its_range_is_named(name, value, line):
    with pytest.raises(OptionError) as caught:
        GenerationSettings(**{name: value})
    assert str(caught.value) == line


def test_numpy_numbers_are_numbers():
    wanted = GenerationSettings(
        temperature=np.float32(0.5),
        top_k=np.int32(3),
        top_p=np.float64(0.5),
        min_p=np.float16(0.5),
        repetition_penalty=np.int64(2),
        seed=np.uint64(5),
    )
    assert Sampler(wanted).choose(LOGITS["ordinary"], [0]) == Sampler(
        GenerationSettings(temperature=0.5, top_k=3, top_p=0.5, min_p=0.5, repetition_penalty=2.0, seed=5)
    ).choose(LOGITS["ordinary"], [0])
