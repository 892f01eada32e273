"""Beam search: the continuations and scores that transformers finds, and the best of all where all can be
looked at."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import math
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references import optional

import gpt2c
from gpt2c import bindings
from gpt2c.checkpoints.hub import EMBEDDED_MODEL
from gpt2c.cli import run

ISAS = gpt2c.build_info()["isas_supported"]
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def loaded(model_folder: Callable[[str], Path]) -> Callable[..., gpt2c.Model]:
    """gpt2c.load of a small model, each way once."""

    @cache
    def load(name: str, eos: int | None = None, **how: str) -> gpt2c.Model:
        model = gpt2c.load(model_folder(name), **how)
        model.config = dataclasses.replace(model.config, eos_token_id=eos)
        return model

    return load


@pytest.fixture(scope="module")
def model():
    with gpt2c.load() as loaded:
        yield loaded


# ---- Beside transformers ----


@cache
def published(folder: Path) -> Any:
    torch = optional("torch")
    transformers = optional("transformers")
    load = transformers.GPT2LMHeadModel.from_pretrained
    return load(folder, dtype=torch.float32, attn_implementation="eager").eval()


def expected(
    folder: Path, prompt: list[int], n: int, eos: int | None, num_beams: int, **wanted: Any
) -> list[tuple[list[int], float]]:
    """(ids, score) of each beam; EOS, which transformers pads with, is cut after the first one."""
    torch = optional("torch")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are so small that a second thread only waits
    found = published(folder).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=n,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        eos_token_id=eos,
        pad_token_id=eos,
        **wanted,
    )
    torch.set_num_threads(n_threads)
    continued = [[int(i) for i in sequence[len(prompt) :]] for sequence in found.sequences]
    cut = [ids[: ids.index(eos) + 1] if eos in ids else ids for ids in continued]
    return list(zip(cut, map(float, found.sequences_scores), strict=True))


def assert_same(completion: gpt2c.Completion, wanted: list[tuple[list[int], float]]) -> None:
    assert [beam.ids for beam in completion.beams] == [ids for ids, _ in wanted]
    assert np.allclose(
        [beam.score for beam in completion.beams], [score for _, score in wanted], rtol=1e-5, atol=1e-4
    )
    best = completion.beams[0]
    assert (completion.ids, completion.text, completion.finish_reason) == (
        best.ids,
        best.text,
        best.finish_reason,
    )


some_beams = st.fixed_dictionaries(
    {
        "num_beams": st.integers(2, 6),
        "length_penalty": st.sampled_from([-1.0, 0.0, 0.6, np.float32(1), 2.5]),
        "early_stopping": st.sampled_from([False, True, "never"]),
    }
)
some_rules = st.sampled_from(
    [
        {},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 5, "suppress_tokens": [1, 2, 3]},
    ]
)


# The same examples every time: somewhere there are two scores that rounding alone tells apart.
@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    st.sampled_from(["tiny", "odd", "calm", "together"]),
    st.lists(st.integers(0, 96), min_size=1, max_size=6),
    st.integers(6, 14),
    some_beams,
    some_rules,
    st.data(),
    st.sampled_from(bindings.NAMES),
)
def test_random_models_find_what_transformers_finds(
    loaded: Callable[..., gpt2c.Model],
    model_folder: Callable[[str], Path],
    name: str,
    prompt: list[int],
    n: int,
    beams: dict[str, Any],
    rules: dict[str, Any],
    data: st.DataObject,
    binding: str,
) -> None:
    optional("transformers")
    # An EOS that comes: one of the tokens that a plain generation has.
    plain = loaded(name, binding=binding).generate(prompt, n).ids
    eos = data.draw(st.sampled_from([None, *plain]))
    model = loaded(name, eos, binding=binding)
    assert_same(
        model.generate(prompt, n, **beams, **rules),
        expected(model_folder(name), prompt, n, eos, **beams, **rules),
    )


@pytest.mark.parametrize("prompt", [PROMPT, "'I am ready,' said Holmes,"])
@pytest.mark.parametrize(
    "beams",
    [{"num_beams": 2}, {"num_beams": 4, "length_penalty": 0.5}, {"num_beams": 8, "early_stopping": True}],
    ids=str,
)
def test_the_trained_model_finds_what_transformers_finds(
    model: gpt2c.Model, prompt: str, beams: dict[str, Any]
) -> None:
    found = model.generate(prompt, 40, **beams)
    eos = model.tokenizer.eos_token_id
    assert_same(found, expected(EMBEDDED_MODEL, found.prompt_ids, 40, eos, **beams))


# ---- By itself ----


@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_with_as_many_beams_as_there_are_texts_the_best_of_all_is_found(
    loaded: Callable[..., gpt2c.Model], name: str
) -> None:
    model, prompt, allowed, n = loaded(name), [5, 6], [3, 14, 15], 3
    barred = [i for i in range(model.config.n_vocab) if i not in allowed]
    texts = list(itertools.product(allowed, repeat=n))
    sums = [float(model.score([*prompt, *text]).logprobs[-n:].sum()) for text in texts]
    ranked = sorted(zip(sums, texts, strict=True), reverse=True)
    found = model.generate(prompt, n, num_beams=27, length_penalty=0.0, suppress_tokens=barred)
    assert [tuple(beam.ids) for beam in found.beams] == [text for _, text in ranked]
    assert np.allclose([beam.score for beam in found.beams], [logprob for logprob, _ in ranked])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=30),
    st.integers(2, 7),
    st.integers(0, 20),
    st.sampled_from(ISAS),
    st.sampled_from(bindings.NAMES),
    st.sampled_from(["all,kv_f16", "kv,linear", "none"]),
)
def test_plans_and_bindings_find_the_same(
    loaded: Callable[..., gpt2c.Model],
    prompt: list[int],
    num_beams: int,
    n: int,
    isa: str,
    binding: str,
    opts: str,
) -> None:
    model = loaded("odd", isa=isa, binding=binding, opts=opts)
    other = loaded("odd", isa=isa, opts="kv,kv_f16" if "kv_f16" in opts else "all")
    found, wanted = (m.generate(prompt, n, num_beams=num_beams) for m in (model, other))
    assert (found.ids, found.beams) == (wanted.ids, wanted.beams)


@pytest.mark.parametrize("backend", ["numpy"])
def test_a_backend_whose_sessions_cannot_be_copied_finds_the_same(
    backend: str, loaded: Callable[..., gpt2c.Model]
) -> None:
    found, wanted = (
        m.generate([1, 2], 12, num_beams=4) for m in (loaded("tiny", backend=backend), loaded("tiny"))
    )
    assert [beam.ids for beam in found.beams] == [beam.ids for beam in wanted.beams]


def test_one_pass_serves_all_beams_and_computes_new_tokens_alone(
    loaded: Callable[..., gpt2c.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2c.generation import beam_search

    passes: list[list[int]] = []
    feed_batch = beam_search.feed_batch

    def counted(sessions: Any, ids: Any, logits: Any) -> Any:
        passes.append([len(part) for part in ids])
        return feed_batch(sessions, ids, logits)

    monkeypatch.setattr(beam_search, "feed_batch", counted)
    completion = loaded("tiny").generate([1, 2, 3], 10, num_beams=5)
    assert passes == [[1] * 5] * 9  # after the prompt's pass
    assert completion.timings.forward_passes == 10


def test_the_greedy_text_is_one_beams(model: gpt2c.Model) -> None:
    assert model.generate(PROMPT, 20, num_beams=1).beams is None
    assert model.generate(PROMPT, 20, num_beams=1).ids == model.generate(PROMPT, 20).ids


def test_a_text_that_beams_find_is_at_least_as_probable_as_the_greedy_one(model: gpt2c.Model) -> None:
    greedy, best = model.generate(PROMPT, 25), model.generate(PROMPT, 25, num_beams=6)

    def logprob(completion: gpt2c.Completion) -> float:
        return float(model.score(completion.prompt_ids + completion.ids).logprobs[-25:].sum())

    assert logprob(best) > logprob(greedy)
    assert math.isclose(best.beams[0].score, logprob(best) / 25, rel_tol=1e-5)


def test_a_stop_string_finishes_a_beam_and_is_not_part_of_its_text(model: gpt2c.Model) -> None:
    stops = [",", "."]
    completion = model.generate(PROMPT, 40, num_beams=4, stop=stops)
    assert {beam.finish_reason for beam in completion.beams} <= {"stop", "length"}
    assert completion.finish_reason == "stop"
    for beam in completion.beams:
        text = model.tokenizer.decode(beam.ids)
        assert beam.text == min((text.split(stop)[0] for stop in stops), key=len)


def test_log_probabilities_are_the_models_own(model: gpt2c.Model) -> None:
    completion = model.generate(PROMPT, 12, num_beams=3, logprobs=2, repetition_penalty=1.2)
    scored = model.score(completion.prompt_ids + completion.ids).logprobs[-12:]
    assert np.allclose([entry.logprob for entry in completion.logprobs], scored, atol=1e-5)


def test_several_prompts_are_searched_one_after_another(model: gpt2c.Model) -> None:
    together = model.generate_batch([PROMPT, [5, 6]], 8, num_beams=3)
    assert [c.beams for c in together] == [
        model.generate(prompt, 8, num_beams=3).beams for prompt in (PROMPT, [5, 6])
    ]


def test_a_search_ends_where_the_context_does(loaded: Callable[..., gpt2c.Model]) -> None:
    completion = loaded("tiny").generate([7] * 125, 50, num_beams=3)
    assert (len(completion.ids), completion.finish_reason) == (4, "length")


def test_a_vocabulary_with_fewer_tokens_than_candidates_is_enough(
    loaded: Callable[..., gpt2c.Model],
) -> None:
    completion = loaded("tiny").generate([1], 2, num_beams=64, suppress_tokens=list(range(2, 128)))
    assert len(completion.beams) == 4  # of two tokens


def test_prompts_that_are_cached_are_gone_on_from(loaded: Callable[..., gpt2c.Model]) -> None:
    model = loaded("tiny", threads=1)
    wanted = model.generate([1, 2, 3, 4], 8, num_beams=3)
    model.cache_prompts(2)
    for _ in range(2):
        found = model.generate([1, 2, 3, 4], 8, num_beams=3)
        assert found.beams == wanted.beams
    assert found.timings.reused_tokens == 3


ALONE = "length_penalty and early_stopping need several beams, and num_beams is 1"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"temperature": 0.8}, "num_beams 4 and temperature 0.8 exclude each other"),
        ({"draft": "ngram"}, "num_beams 4 and a draft exclude each other"),
        ({"overflow": "slide"}, "num_beams 4 and overflow='slide' exclude each other"),
        ({"length_penalty": math.nan}, "length_penalty must be a number from -10.0 to 10.0, not nan"),
        ({"length_penalty": "long"}, "length_penalty must be a number from -10.0 to 10.0, not 'long'"),
        ({"early_stopping": "soon"}, "early_stopping must be False, True or 'never', not 'soon'"),
        ({"num_beams": 1, "length_penalty": 2}, ALONE),
        ({"num_beams": 1, "early_stopping": "never"}, ALONE),
        ({"early_stopping": 1}, "early_stopping must be False, True or 'never', not 1"),
        ({"num_beams": 65}, "num_beams must be an integer from 1 to 64, not 65"),
        ({"num_beams": 0}, "num_beams must be an integer from 1 to 64, not 0"),
        ({"num_beams": 2.0}, "num_beams must be an integer from 1 to 64, not 2.0"),
    ],
)
def test_what_makes_no_sense_is_refused(model: gpt2c.Model, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(gpt2c.OptionError) as caught:
        model.generate(PROMPT, **{"num_beams": 4, **wanted})
    assert str(caught.value) == message


def test_a_stream_of_beams_is_refused(model: gpt2c.Model) -> None:
    with pytest.raises(gpt2c.OptionError, match="a beam search has no text before its end"):
        model.stream(PROMPT, num_beams=2)


def test_settings_that_rule_out_every_token_are_an_error(loaded: Callable[..., gpt2c.Model]) -> None:
    with pytest.raises(gpt2c.OptionError, match="rule out every token"):
        loaded("tiny").generate([1], 3, num_beams=2, suppress_tokens=list(range(128)))


def test_all_sessions_are_freed_however_a_search_ends(
    binding: str, model_folder: Callable[[str], Path]
) -> None:
    native = bindings.load(binding)
    with gpt2c.load(model_folder("tiny"), binding=binding) as model:
        model.session().close()  # which leaves its buffers to the next one
        gc.collect()  # of other tests
        before = native.memory()[0]
        model.generate([1], 5, num_beams=4)
        assert native.memory()[0] == before
        with pytest.raises(gpt2c.OptionError):
            model.generate([1], 3, num_beams=2, suppress_tokens=list(range(128)))
        assert native.memory()[0] == before


def test_cancel_ends_a_search(binding: str) -> None:
    native = bindings.load(binding)
    with gpt2c.load(opts="kv", binding=binding) as model:
        model.session().close()  # which leaves its buffers to the next one
        gc.collect()  # of other tests
        before = native.memory()[0]
        found: list[gpt2c.Completion] = []
        thread = threading.Thread(target=lambda: found.append(model.generate(PROMPT, 300, num_beams=4)))
        thread.start()
        while thread.is_alive():
            model.cancel()
            thread.join(0.05)
        assert [(c.finish_reason, c.ids, c.beams) for c in found] == [("cancelled", [], None)]
        assert native.memory()[0] == before


# ---- On the command line ----


def test_the_command_searches_greedily_and_tells_all_beams(
    binding: str, model: gpt2c.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--prompt", PROMPT, "--max-new-tokens", "8", "--num-beams", "3", "--early-stopping", "never"]
    expected = model.generate(PROMPT, 8, num_beams=3, early_stopping="never")
    assert run.main([*argv, "--binding", binding]) == 0
    out, err = capsys.readouterr()
    assert out == f"{PROMPT}{expected.text}\n"
    assert f"3 beams with scores {expected.beams[0].score:.4f}, " in err
    assert run.main([*argv, "--binding", binding, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["beams"] == [dataclasses.asdict(beam) for beam in expected.beams]
    assert told["text"] == told["beams"][0]["text"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperature", "0.8"], "num_beams 2 and temperature 0.8 exclude each other"),
        (["--trace", "1"], "--trace and --trace-file do not work with several beams"),
        (["--early-stopping", "maybe"], "early_stopping must be False, True or 'never', not 'maybe'"),
        (
            ["--num-beams", "1", "--early-stopping", "maybe"],
            "early_stopping must be False, True or 'never', not 'maybe'",
        ),
        (["--num-beams", "1", "--length-penalty", "2"], ALONE),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--num-beams", "2", *flags]) == 2
    assert capsys.readouterr().err == f"gpt2c: error: {message}\n"
