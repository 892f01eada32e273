"""Many prompts at once: each gets what it would get alone, and what they share is computed once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2c
from gpt2c import bindings
from gpt2c.generation import batch as batch_generation

ISAS = gpt2c.build_info()["isas_supported"]
TEXTS = ["Once upon a time", "Once upon a midnight", "The sea", "He", "Once", "'Holmes,' said I, 'what"]

# Few different tokens, so that prompts have beginnings in common.
some_prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=7)
some_settings = st.sampled_from(
    [
        {},
        {"temperature": 0.9, "seed": 5},
        {"temperature": 1.5, "top_k": 20, "seed": 1, "logprobs": 3},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    ]
)


@pytest.fixture(scope="module")
def loaded(model_folder: Callable[[str], Path]) -> Callable[..., gpt2c.Model]:
    """gpt2c.load of a small model, each way once."""

    @cache
    def load(name: str, **how: str) -> gpt2c.Model:
        return gpt2c.load(model_folder(name), **how)

    return load


def outcome(completion: gpt2c.Completion) -> tuple[object, ...]:
    """All of a completion but how long it took."""
    return (*(value for name, value in vars(completion).items() if name != "timings"),)


@settings(deadline=None, max_examples=60)
@given(
    some_prompts,
    some_settings,
    st.sampled_from(ISAS),
    st.sampled_from(bindings.NAMES),
    st.sampled_from(
        ["all", "all,kv_f16", "all,bf16", "all,q8", "all,q4", "kv,linear,gelu,residual,layernorm,unembed"]
    ),
    st.integers(1, 5),
    st.integers(0, 12),
)
def test_each_continuation_is_the_one_of_its_prompt_alone(
    loaded: Callable[..., gpt2c.Model],
    prompts: list[list[int]],
    wanted: dict[str, float],
    isa: str,
    binding: str,
    opts: str,
    batch_size: int,
    n: int,
) -> None:
    model = loaded("odd", isa=isa, binding=binding, opts=opts)
    model.batch_size = batch_size
    together = model.generate_batch(prompts, n, **wanted)
    assert [outcome(c) for c in together] == [outcome(model.generate(p, n, **wanted)) for p in prompts]


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=200), min_size=2, max_size=5),
    st.sampled_from([{}, {"temperature": 0.9, "seed": 5}]),
    st.sampled_from(bindings.NAMES),
)
def test_long_prompts_and_contexts_that_slide_are_no_exception(
    loaded: Callable[..., gpt2c.Model], prompts: list[list[int]], wanted: dict[str, float], binding: str
) -> None:
    model = loaded("tiny", binding=binding)
    together = model.generate_batch(prompts, 40, overflow="slide", **wanted)
    alone = [model.generate(p, 40, overflow="slide", **wanted) for p in prompts]
    assert [outcome(c) for c in together] == [outcome(c) for c in alone]


def test_the_trained_model_continues_texts_up_to_their_own_ends(binding: str) -> None:
    with gpt2c.load(binding=binding) as model:
        for wanted in ({}, {"temperature": 0.8, "top_k": 40, "seed": 0}, {"stop": [".", ","]}):
            together = model.generate_batch(TEXTS, 30, **wanted)
            assert [outcome(c) for c in together] == [outcome(model.generate(t, 30, **wanted)) for t in TEXTS]
        assert {c.finish_reason for c in together} >= {"stop"}


def test_one_pass_serves_all_prompts() -> None:
    with gpt2c.load() as model:
        prompts = [[i] for i in range(8)]
        for completion in model.generate_batch(prompts, 20):
            timings = completion.timings
            assert (timings.forward_passes, timings.prompts_per_pass) == (20, 8.0)
            assert 0 < timings.prefill_ms <= timings.ttft_ms
        model.batch_size = 3
        passes = [
            c.timings.forward_passes / c.timings.prompts_per_pass for c in model.generate_batch(prompts, 20)
        ]
        assert sum(passes) == pytest.approx(60)  # of 3, 3 and 2


def test_the_place_of_a_finished_continuation_is_taken_at_once(
    loaded: Callable[..., gpt2c.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, widths = loaded("tiny"), []
    feed_batch = batch_generation.feed_batch

    def counted(sessions, ids, logits=None):
        widths.append(len(ids))
        return feed_batch(sessions, ids, logits)

    monkeypatch.setattr(batch_generation, "feed_batch", counted)
    model.batch_size = 4
    # Contexts that fill after 1 to 9 tokens, so that each continuation ends at another time.
    model.generate_batch([[i] * (128 - i) for i in range(9)] + [[20 + i] * 100 for i in range(9)], 20)
    assert max(widths) == 4
    assert np.mean(widths) > 3.5


def trie_size(prompts: list[list[int]]) -> int:
    return len({tuple(prompt[:n]) for prompt in prompts for n in range(1, len(prompt) + 1)})


@settings(deadline=None, max_examples=40)
@given(some_prompts, st.integers(1, 4))
def test_what_prompts_have_in_common_is_computed_once(
    loaded: Callable[..., gpt2c.Model], prompts: list[list[int]], batch_size: int
) -> None:
    model = loaded("tiny")
    model.batch_size = batch_size
    completions = model.generate_batch(prompts, 1)
    n_computed = sum(len(c.prompt_ids) - c.timings.reused_tokens for c in completions)
    # Of a prompt that is another's beginning, the last token is run again: its logits are wanted.
    n_again = len(prompts) - len(
        {tuple(p) for p in prompts if not any(q[: len(p)] == p and q != p for q in prompts)}
    )
    assert trie_size(prompts) <= n_computed <= trie_size(prompts) + n_again


def test_tokens_reused_are_not_fed(
    loaded: Callable[..., gpt2c.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, n_fed = loaded("tiny"), []
    feed_batch, feed = batch_generation.feed_batch, gpt2c.Session._feed
    monkeypatch.setattr(
        batch_generation,
        "feed_batch",
        lambda sessions, ids, logits=None: (
            n_fed.append(sum(map(len, ids))) or feed_batch(sessions, ids, logits)
        ),
    )
    monkeypatch.setattr(
        gpt2c.Session, "_feed", lambda self, ids, *a, **k: n_fed.append(len(ids)) or feed(self, ids, *a, **k)
    )
    model.batch_size = 32
    shared = list(range(60))
    model.generate_batch([[*shared, i] for i in range(20)], 1)
    assert sum(n_fed) == 60 + 20


@pytest.mark.parametrize("opts", ["none", "kv", "kv,linear,gelu,residual,layernorm,simd"])
def test_a_plan_without_all_six_switches_continues_one_after_another(
    opts: str, binding: str, loaded: Callable[..., gpt2c.Model]
) -> None:
    model = loaded("odd", opts=opts, binding=binding)
    prompts = [[1, 2], [1, 2, 3], [5]]
    together = model.generate_batch(prompts, 4, temperature=1.0, seed=2)
    assert [outcome(c) for c in together] == [
        outcome(model.generate(p, 4, temperature=1.0, seed=2)) for p in prompts
    ]
    assert {(c.timings.prompts_per_pass, c.timings.reused_tokens) for c in together} == {(1.0, 0)}


def test_a_draft_is_followed_one_prompt_after_another(loaded: Callable[..., gpt2c.Model]) -> None:
    model = loaded("tiny")
    together = model.generate_batch([[1], [2, 1]], 10, draft=model, num_assistant_tokens=3)
    assert [c.ids for c in together] == [model.generate(p, 10).ids for p in ([1], [2, 1])]
    assert all(c.timings.accepted > 0 for c in together)


def test_no_prompts_give_no_completions_and_no_new_tokens_no_pass(loaded: Callable[..., gpt2c.Model]) -> None:
    model = loaded("tiny")
    assert model.generate_batch([]) == []
    assert [c.timings.forward_passes for c in model.generate_batch([[1], [2]], 0)] == [0, 0]


def test_what_makes_no_sense_is_refused_before_any_work(
    loaded: Callable[..., gpt2c.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("tiny")
    monkeypatch.setattr(type(model), "session", lambda self: pytest.fail("a session was made"))
    with pytest.raises(gpt2c.TokenError, match="takes several prompts, not one text"):
        model.generate_batch("Once")
    with pytest.raises(gpt2c.TokenError, match="the prompt is empty"):
        model.generate_batch([[1], []])
    with pytest.raises(gpt2c.ContextLengthError, match="the prompt has 129 tokens"):
        model.generate_batch([[1], [1] * 129])
    with pytest.raises(gpt2c.OptionError, match="temperature must be >= 0"):
        model.generate_batch([[1]], temperature=-1)


def test_cancel_ends_all_and_keeps_what_there_is(binding: str) -> None:
    with gpt2c.load(binding=binding) as model:
        found: list[gpt2c.Completion] = []
        native = bindings.load(binding)
        model.session().close()  # which leaves its buffers to the next one
        gc.collect()  # of other tests
        before = native.memory()[0]
        thread = threading.Thread(target=lambda: found.extend(model.generate_batch([[1], [2], [3]], 500)))
        thread.start()
        while thread.is_alive():
            model.cancel()
            thread.join(0.05)
        assert {c.finish_reason for c in found} == {"cancelled"}
        assert all(len(c.ids) < 500 for c in found)
        assert native.memory()[0] == before


def test_cancel_ends_those_too_that_wait_for_their_turn(
    loaded: Callable[..., gpt2c.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feed_greedy = loaded("tiny"), gpt2c.Session.feed_greedy

    def feed_and_cancel(session: gpt2c.Session, ids: list[int]) -> int:
        next_id = feed_greedy(session, ids)
        model.cancel()
        return next_id

    monkeypatch.setattr(gpt2c.Session, "feed_greedy", feed_and_cancel)
    found = model.generate_batch([[1], [2], [3]], 9, draft="ngram")  # one after another
    assert [(c.finish_reason, len(c.ids)) for c in found] == [("cancelled", n) for n in (1, 0, 0)]


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None, "8"])
def test_a_batch_has_a_whole_number_of_prompts(loaded: Callable[..., gpt2c.Model], size: object) -> None:
    model = loaded("tiny")
    before = model.batch_size
    with pytest.raises(gpt2c.OptionError, match=f"batch_size must be an integer >= 1, not {size!r}"):
        model.batch_size = size
    assert model.batch_size == before


def test_many_batches_at_once_do_not_disturb_each_other(binding: str) -> None:
    with gpt2c.load(binding=binding) as model:
        expected = [model.generate(text, 10).ids for text in TEXTS]
        found: dict[int, list[list[int]]] = {}

        def work(i: int) -> None:
            found[i] = [c.ids for c in model.generate_batch(TEXTS, 10)]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == dict.fromkeys(range(4), expected)
