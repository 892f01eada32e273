"""Sessions: chunks, rewinding, refusals that change nothing, and memory that comes back."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instruction_sets import EVERY_SET, every_set

import gpt2c
from gpt2c import bindings
from gpt2c.session import ModelHandle

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]


@pytest.fixture(params=EVERY_SET, ids="-".join)
def model(request: pytest.FixtureRequest, model_folder: Callable[[str], Path]) -> Iterator[gpt2c.Model]:
    isa, binding = request.param
    with gpt2c.load(model_folder("odd"), isa=isa, binding=binding) as model:
        yield model


def test_chunks_of_any_size_give_the_bits_of_the_whole(model: gpt2c.Model) -> None:
    whole = model.logits(IDS)
    for size in range(1, len(IDS)):
        with model.session() as session:
            for begin in range(0, len(IDS), size):
                chunk = IDS[begin : begin + size]
                assert np.array_equal(session.feed(chunk), whole[begin + len(chunk) - 1])


def test_a_prompt_longer_than_the_cores_own_chunks_gives_the_same_bits() -> None:
    ids = [i * 37 % 8000 for i in range(400)]
    with gpt2c.load() as model, model.session() as session:
        whole = model.logits(ids)
        assert np.array_equal(session.feed(ids), whole[-1])
        assert session.n_past == 400
        with model.session() as one_by_one:
            last = [one_by_one.feed([i]) for i in ids]
        assert np.array_equal(np.array(last), whole)


def test_rewinding_gives_the_bits_of_never_having_been_there(model: gpt2c.Model) -> None:
    with model.session() as session:
        session.feed(IDS)
        session.rewind(4)
        assert session.n_past == 4
        after = session.feed([11, 12])
    assert np.array_equal(after, model.logits([*IDS[:4], 11, 12])[-1])


def test_the_greedy_id_is_the_lowest_of_the_largest_logits(model: gpt2c.Model) -> None:
    with model.session() as session:
        assert session.feed_greedy(IDS) == model.logits(IDS)[-1].argmax()


def test_logits_can_go_into_an_array_of_the_callers(model: gpt2c.Model) -> None:
    out = np.empty(model.config.n_vocab, np.float32)
    with model.session() as session:
        assert session.feed(IDS, out=out) is out
    assert np.array_equal(out, model.logits(IDS)[-1])
    with model.session() as session, pytest.raises(gpt2c.OptionError, match="out must be"):
        session.feed(IDS, out=np.empty(model.config.n_vocab))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "the prompt is empty: at least one token is needed"),
        ([0, 101], "token id 101 is outside the vocabulary (0 to 100)"),
        ([-1], "token id -1 is outside the vocabulary (0 to 100)"),
        ([1.5], "token ids must be integers, not float64"),
        ([True], "token ids must be integers, not bool"),
        ([[1, 2]], "token ids must be one flat list, not an array of shape (1, 2)"),
    ],
)
def test_bad_ids_are_refused_and_nothing_changes(model: gpt2c.Model, ids: list[int], message: str) -> None:
    with model.session() as session:
        session.feed(IDS)
        with pytest.raises(gpt2c.TokenError) as error:
            session.feed(ids)
        assert str(error.value) == message
        assert session.n_past == len(IDS)


def test_more_than_the_context_holds_is_refused_and_nothing_changes(model: gpt2c.Model) -> None:
    with model.session() as session:
        session.feed([1] * 127)
        with pytest.raises(
            gpt2c.ContextLengthError, match="129 tokens are more than the context of 128 holds"
        ):
            session.feed([1, 1])
        assert session.n_past == 127
        session.feed([1])
        assert session.n_past == 128


def test_rewinding_forwards_is_refused(model: gpt2c.Model) -> None:
    with model.session() as session:
        session.feed(IDS)
        for n in (-1, len(IDS) + 1):
            with pytest.raises(gpt2c.OptionError, match=f"cannot rewind to {n}: the session holds 15 tokens"):
                session.rewind(n)


def test_use_after_close_is_an_error_and_closing_twice_is_not(model: gpt2c.Model) -> None:
    session = model.session()
    session.close()
    session.close()
    with pytest.raises(gpt2c.ClosedError, match="the session is closed"):
        session.feed(IDS)
    other = model.session()
    model.close()
    model.close()
    other.feed(IDS)  # a session keeps the weights it works with
    with pytest.raises(gpt2c.ClosedError, match="the model is closed"):
        model.session()


def test_closing_frees_every_byte(binding: str, model_folder: Callable[[str], Path]) -> None:
    native = bindings.load(binding)
    gc.collect()
    before, _, _ = native.memory()
    for opts in ("none", "all", "all,gelu_table"):
        model = gpt2c.load(model_folder("tiny"), opts=opts, binding=binding)
        model.generate(IDS, max_new_tokens=3)
        with model.session() as session:
            session.feed(IDS)
        model.close()
        assert native.memory()[0] == before


def test_a_session_that_ended_leaves_its_buffers_to_the_next_one(model: gpt2c.Model) -> None:
    core = model._handle.runtime
    with model.session() as session:
        expected = session.feed(IDS)
    before = core.memory()[2]
    with model.session() as session:
        assert core.memory()[2] - before == 2  # the session and its ids, not its buffers
        np.testing.assert_array_equal(session.feed(IDS), expected)
        with model.session() as other:  # only one set of them is free, so this session allocates another
            np.testing.assert_array_equal(other.feed(IDS[::-1]), model.logits(IDS[::-1])[-1])
        session.rewind(5)
        np.testing.assert_array_equal(session.feed(IDS[5:]), expected)


def test_every_failing_allocation_is_a_clean_memory_error(
    binding: str, model_folder: Callable[[str], Path]
) -> None:
    native = bindings.load(binding)
    gc.collect()
    before, _, _ = native.memory()

    def work() -> None:
        model = gpt2c.load(model_folder("tiny"), opts="all,gelu_table", binding=binding)
        with model, model.session() as session:
            session.feed(IDS)

    n_failed = 0
    try:
        for n in range(1, 1000):
            native.memory_fail_at(n)
            try:
                work()
                break
            except MemoryError as error:
                assert isinstance(error, gpt2c.OutOfMemoryError)
                n_failed += 1
                del error
            assert native.memory()[0] == before
    finally:
        native.memory_fail_at(0)
    assert n_failed >= 8


def test_a_step_allocates_nothing_in_c(model: gpt2c.Model) -> None:
    native = model._handle.runtime
    with model.session() as session:
        session.feed(IDS)
        _, _, before = native.memory()
        for token in range(20):
            session.feed([token])
        assert native.memory()[2] == before


@every_set()
def test_fused_leaves_no_separate_gelu_or_residual_pass_and_the_same_bits(
    isa: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    four = "kv,linear,gelu,residual,aligned"
    for extra in ("", ",gelu_table"):
        with (
            gpt2c.load(model_folder("odd"), opts=four + extra, isa=isa, binding=binding) as separate,
            gpt2c.load(model_folder("odd"), opts=four + extra + ",fused", isa=isa, binding=binding) as fused,
            separate.session() as a,
            fused.session() as b,
        ):
            assert np.array_equal(a.feed(IDS), b.feed(IDS))
            assert (a.separate_passes, b.separate_passes) == (9, 0)  # of 3 layers


def test_aligned_changes_how_the_weights_lie(binding: str, model_folder: Callable[[str], Path]) -> None:
    layouts = []
    for opts in ("none", "aligned", "bf16"):
        with gpt2c.load(model_folder("odd"), opts=opts, binding=binding) as model:
            layouts.append(model._handle.opened().layout())
    assert layouts == [0, 2, 3]  # in_out, panels, panels_bf16: gpt2c_layout in include/gpt2c.h


def test_rows_without_an_output_end_after_the_last_layers_k_and_v(
    binding: str, model_folder: Callable[[str], Path]
) -> None:
    # "calm" has one layer, so what the last layer skips is not computed by another one either.
    with (
        gpt2c.load(model_folder("calm"), opts="all", binding=binding) as model,
        model.session() as session,
        model.session() as other,
    ):
        every = session.feed_all(IDS)
        assert session.rows["linear"] == session.rows["gelu"] == len(IDS)
        last = other.feed(IDS)
        assert other.rows["linear"] == other.rows["gelu"] == 1
        assert other.rows["kv"] == other.rows["layernorm"] == len(IDS)
        assert np.array_equal(last, every[-1])
        assert np.array_equal(other.feed([1]), session.feed([1]))


def test_closing_a_model_in_another_thread_never_gives_a_call_no_weights() -> None:
    """The weights are read once: a second read would find what close() left."""

    class ClosedBetweenReads(ModelHandle):
        reads = 0

        def __getattribute__(self, name: str) -> Any:
            if name != "loaded":
                return super().__getattribute__(name)
            ClosedBetweenReads.reads += 1
            return "weights" if ClosedBetweenReads.reads == 1 else None

    handle: Any = ClosedBetweenReads(None, None, None, None)  # type: ignore[arg-type]
    assert handle.opened() == "weights"
