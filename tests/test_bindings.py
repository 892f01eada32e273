"""The two bindings compute the same bits and refuse the same: foreign objects, arrays of another type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instruction_sets import ISAS

import gpt2c
from gpt2c import bindings
from gpt2c.backends.native import native_config
from gpt2c.bindings import Outputs

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9]


def answers(folder: Path, binding: str, isa: str, opts: str) -> tuple[list[np.ndarray], list[Any]]:
    """All that a model computes: logits, hidden states and the bytes of a state; greedy ids and counts."""
    with gpt2c.load(folder, isa=isa, opts=opts, threads=2, binding=binding) as model:
        with model.session() as session:
            arrays = [session.feed(IDS[:5]), session.feed_all(IDS[5:]), session.feed_hidden([7])]
            others = [session.rows, session.separate_passes, session.ids]
            others += [session.feed_greedy([8]), session.feed_greedy_all([1, 2, 3]), session.screened]
            native = session._open()
            state = np.empty(native.state_bytes(session.n_past), np.uint8)
            native.get_state(state)
        if opts != "none":  # a batch needs the switches
            batch = [completion.ids for completion in model.generate_batch([IDS, IDS[:2]], 10)]
            others.append(batch)
        return [*arrays, state], [*others, model.generate(IDS, 10, temperature=1.0, seed=3).ids]


# On the plain sets the other tests of whole models run the first binding alone: instruction_sets.py.
@pytest.mark.parametrize(
    "opts", ["none", "all", "all,gelu_table", "all,kv_f16", *(f"all,{w}" for w in gpt2c.options.WEIGHTS[1:])]
)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["tiny", "odd", "untied"])
def test_whole_models_have_the_same_bits_through_both(
    name: str, isa: str, opts: str, model_folder: Callable[[str], Path]
) -> None:
    (arrays, others), *more = (answers(model_folder(name), binding, isa, opts) for binding in bindings.NAMES)
    for arrays_there, others_there in more:
        assert others_there == others
        assert all(map(np.array_equal, arrays_there, arrays))


@pytest.fixture
def model(binding: str, model_folder: Callable[[str], Path]) -> Any:
    with gpt2c.load(model_folder("tiny"), binding=binding) as loaded:
        yield loaded


def test_arrays_of_another_type_are_refused_and_not_taken_for_bytes(model: gpt2c.Model) -> None:
    native, handle = model._handle.runtime, model._handle.loaded
    session = native.Session(handle)
    ids, logits = np.array([1, 2], np.int32), np.zeros(128, np.float32)
    matrix = native.Matrix(np.ones(16, np.float32), 0, 4, 4, 0)
    x, wide = np.ones(4, np.float32), np.ones(4, np.float64)
    calls: list[Callable[[], Any]] = [
        lambda: session.feed(ids.astype(np.int64), Outputs()),
        lambda: session.feed(ids.astype(np.int16), Outputs()),
        lambda: session.feed(ids, Outputs(last_logits=logits.astype(np.float64))),
        lambda: session.feed(ids, Outputs(next_ids=ids.astype(np.int64))),
        lambda: session.ids(np.zeros(2, np.int64)),
        lambda: session.set_state(1, np.zeros(4, np.int8)),
        lambda: session.trace(np.zeros(64, np.float32)),
        lambda: native.batch_feed([session], ids, np.ones(1, np.int32)),
        lambda: native.batch_feed([session], ids.astype(np.int64), np.ones(1, np.uintp)),
        lambda: handle.set(0, 0, 0, logits),
        lambda: handle.get(0, 0, logits),
        lambda: native.Matrix(np.ones(16), 0, 4, 4, 0),
        lambda: native.op_linear(0, wide, x, matrix, (0, 1), (0, 4)),
        lambda: native.op_linear(0, x, wide, matrix, (0, 1), (0, 4)),
        lambda: native.op_argmax(0, wide, x, 1, 4),
        lambda: native.op_gelu(0, x, x, np.zeros(65536, np.int16)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="Buffer dtype mismatch"):
            call()
    assert session.n_past() == 0 and not logits.any()


def test_none_is_no_object(model: gpt2c.Model) -> None:
    native, x = model._handle.runtime, np.ones(4, np.float32)
    session: Any = native.Session(model._handle.loaded)
    calls: list[Callable[[], Any]] = [
        lambda: native.Session(None),
        lambda: session.copy(None, 0),
        lambda: native.batch_feed([None], np.ones(1, np.int32), np.ones(1, np.uintp)),
        lambda: native.op_linear(0, x, x, None, (0, 1), (0, 4)),
        lambda: native.op_embed(0, x, None, np.zeros(1, np.int32), x),
    ]
    for call in calls:
        with pytest.raises((TypeError, AttributeError)):
            call()


def test_more_sessions_than_a_pass_takes_are_refused_and_not_left_out(model: gpt2c.Model) -> None:
    native = model._handle.runtime
    sessions = [native.Session(model._handle.loaded) for _ in range(300)]
    for n in (257, 300):
        ids, counts = np.ones(n, np.int32), np.ones(n, np.uintp)
        with pytest.raises(gpt2c.OptionError):
            native.batch_feed(sessions[:n], ids, counts, None, np.empty(n, np.int32))
    assert not any(session.n_past() for session in sessions)


def test_a_config_without_a_field_is_refused(model: gpt2c.Model) -> None:
    native: Any = model._handle.runtime
    config = native_config(model.config, model.plan, [name for name, *_ in native.isas()])
    for name in config:
        with pytest.raises(ValueError, match=f"'{name}'"):
            native.Model({key: value for key, value in config.items() if key != name})
