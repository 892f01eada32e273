"""Sessions reused from call to call: the same results with less work."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2c
from gpt2c import bindings

PROMPT = [5, 4, 3, 2, 1, 0, 1, 2]


@pytest.fixture
def model(model_folder: Callable[[str], Path], binding: str):
    with gpt2c.load(model_folder("tiny"), binding=binding) as loaded:
        yield loaded


def test_it_is_off_by_default(model: gpt2c.Model) -> None:
    assert [model.generate(PROMPT, 3).timings.reused_tokens for _ in range(2)] == [0, 0]


def test_a_prompt_that_goes_on_from_an_earlier_one_computes_only_what_is_new(model: gpt2c.Model) -> None:
    model.cache_prompts(1)
    first = model.generate(PROMPT, 10)
    longer = [*PROMPT, *first.ids, 9, 9]
    second = model.generate(longer, 4)
    assert second.timings.reused_tokens == len(PROMPT) + 9  # the last new token was never fed
    again = model.generate(longer, 4)
    assert again.timings.reused_tokens == len(longer) - 1  # the last is run for its logits
    model.cache_prompts(0)
    assert model.generate(longer, 4).ids == second.ids == again.ids
    assert model.generate(longer, 4).timings.reused_tokens == 0


def test_the_one_used_longest_ago_goes(model: gpt2c.Model) -> None:
    model.cache_prompts(2)
    for first in (10, 20, 10, 30):
        model.generate([first, 1, 2, 3], 1)
    assert [model.generate([i, 1, 2, 3], 1).timings.reused_tokens for i in (20, 30)] == [0, 3]


@settings(deadline=None, max_examples=40)
@given(
    isa=st.sampled_from(gpt2c.build_info()["isas_supported"]),
    binding=st.sampled_from(bindings.NAMES),
    prompts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8),
    size=st.integers(1, 3),
    wanted=st.sampled_from([{}, {"temperature": 1.0, "seed": 1}, {"overflow": "slide"}, {"draft": "ngram"}]),
    n=st.integers(0, 9),
)
def test_results_are_those_without_it(
    model_folder: Callable[[str], Path],
    isa: str,
    binding: str,
    prompts: list[list[int]],
    size: int,
    wanted: dict[str, object],
    n: int,
) -> None:
    with gpt2c.load(model_folder("tiny"), isa=isa, binding=binding) as model:
        expected = [model.generate(prompt, n, **wanted).ids for prompt in prompts]
        model.cache_prompts(size)
        assert [model.generate(prompt, n, **wanted).ids for prompt in prompts] == expected


def test_it_holds_so_many_sessions_and_gives_them_back(model: gpt2c.Model, binding: str) -> None:
    native = bindings.load(binding)
    gc.collect()
    before = native.memory()[0]
    with model.session():
        of_one = native.memory()[0] - before
    model.cache_prompts(3)
    for i in range(6):
        model.generate([i, 1], 2)
        # A session that ended leaves its buffers to the next one.
        assert min(i + 1, 3) <= (native.memory()[0] - before) / of_one < min(i + 2, 4)
    with model.stream([7, 1], 50) as stream:
        next(stream, None)
    model.cache_prompts(1)
    assert native.memory()[0] < before + of_one
    model.generate([1], 2)
    model.close()
    gc.collect()
    assert native.memory()[0] < before + of_one


def test_a_cancel_of_the_past_does_not_end_what_goes_on_from_there(model: gpt2c.Model) -> None:
    model.cache_prompts(1)
    first = model.generate(PROMPT, 3)
    model.cancel()  # nothing runs
    second = model.generate([*PROMPT, *first.ids], 3)
    assert (second.finish_reason, second.timings.reused_tokens) == ("length", len(PROMPT) + 2)


def test_a_backend_that_copies_no_session_continues_there_too(model_folder: Callable[[str], Path]) -> None:
    with gpt2c.load(model_folder("tiny"), backend="numpy") as model:
        longer, other = [*PROMPT, 7, 7, 7], [*PROMPT, 9]
        expected = model.generate(other, 5).ids
        model.cache_prompts(2)
        model.generate(longer, 5)
        found = model.generate(other, 5)
    assert (found.ids, found.timings.reused_tokens) == (expected, len(PROMPT))


def test_many_threads_may_share_it(model: gpt2c.Model) -> None:
    prompts = [[i % 3, 1, 2, i % 5] for i in range(12)]
    expected = [model.generate(prompt, 8).ids for prompt in prompts]
    model.cache_prompts(2)
    found: dict[int, list[int]] = {}

    def work(i: int) -> None:
        for _ in range(3):
            found[i] = model.generate(prompts[i], 8).ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(12)] == expected


@pytest.mark.parametrize("n", [-1, 1.5, "2"])
def test_what_is_no_number_of_prompts_is_refused(model: gpt2c.Model, n: object) -> None:
    line = f"the number of cached prompts must be an integer >= 0, not {n!r}"
    with pytest.raises(gpt2c.OptionError, match=line):
        model.cache_prompts(n)
