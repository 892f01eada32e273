"""kv_f16: K and V are stored in half precision, and nothing else changes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instruction_sets import ISAS, every_set
from models import CONFIGS, PROMPTS
from test_reference import oracle, prompt_and_steps

import gpt2c
from gpt2c import bindings
from gpt2c.backends.native import native_config
from gpt2c.options import SWITCHES

OTHERS = SWITCHES[1:]
SUBSETS = list(chain.from_iterable(combinations(OTHERS, n) for n in range(len(OTHERS) + 1)))

Folder = Callable[[str], Path]


def pieces(folder: Path, sizes: tuple[int, ...], **settings: Any) -> np.ndarray:
    """Logits of every position, the prompt fed in pieces of these sizes."""
    ids = PROMPTS["odd"][2]
    assert sum(sizes) == len(ids)
    settings = {"opts": "all,kv_f16", **settings}
    with gpt2c.load(folder, **settings) as model, model.session() as session:
        ends = np.cumsum(sizes)
        return np.concatenate(
            [session.feed_all(ids[end - n : end]) for n, end in zip(sizes, ends, strict=True)]
        )


# ---- What it computes ----


@every_set()
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_logits_are_the_oracles_with_k_and_v_rounded(
    name: str, isa: str, binding: str, model_folder: Folder
) -> None:
    folder = model_folder(name)
    with gpt2c.load(folder, opts="all,kv_f16", isa=isa, binding=binding) as model:
        for ids in PROMPTS[name]:
            logits = model.logits(ids)
            assert np.abs(logits - oracle(folder, ids, kv_f16=True)).max() < 1e-4
            assert np.abs(logits - oracle(folder, ids)).max() > 5e-4, "nothing was rounded"


@every_set()
def test_all_subsets_of_the_other_switches_give_the_same_bits(
    isa: str, binding: str, model_folder: Folder
) -> None:
    assert len(SUBSETS) == 32
    folder = model_folder("odd")
    expected = prompt_and_steps(folder, ("kv", "kv_f16"), isa, binding)
    for subset in SUBSETS:
        found = prompt_and_steps(folder, (*subset, "kv", "kv_f16"), isa, binding)
        assert all(map(np.array_equal, found, expected)), subset


@every_set()
def test_a_prompt_in_pieces_has_the_bits_of_the_whole(isa: str, binding: str, model_folder: Folder) -> None:
    folder = model_folder("odd")
    whole = pieces(folder, (13,), isa=isa, binding=binding)
    for sizes in ((1,) * 13, (12, 1), (1, 12), (5, 1, 7)):
        np.testing.assert_array_equal(pieces(folder, sizes, isa=isa, binding=binding), whole)


@pytest.mark.parametrize("isa", ISAS)
def test_threads_fusing_and_bindings_change_no_bit(isa: str, model_folder: Folder) -> None:
    folder = model_folder("odd")
    expected = pieces(folder, (13,), isa=isa, threads=1, binding=bindings.NAMES[0])
    for binding in bindings.NAMES:
        for opts in ("all,kv_f16", "aligned,kv,kv_f16"):
            for threads in (1, 3):
                found = pieces(folder, (13,), opts=opts, isa=isa, threads=threads, binding=binding)
                np.testing.assert_array_equal(found, expected)


def test_what_was_rewound_and_fed_again_has_the_same_bits(binding: str, model_folder: Folder) -> None:
    folder = model_folder("tiny")
    with gpt2c.load(folder, opts="all,kv_f16", binding=binding) as model, model.session() as session:
        expected = session.feed([1, 2, 3, 4, 5])
        session.rewind(2)
        session.feed([99, 98])
        session.rewind(2)
        np.testing.assert_array_equal(session.feed([3, 4, 5]), expected)


def test_sessions_in_one_batch_have_the_bits_of_each_alone(binding: str, model_folder: Folder) -> None:
    native = bindings.load(binding)
    prompts = [[1, 2, 3], [4], [5, 6]]
    with gpt2c.load(model_folder("tiny"), opts="all,kv_f16", threads=3, binding=binding) as model:
        alone = [model.session() for _ in prompts]
        sessions = [native.Session(model._handle.loaded) for _ in prompts]
        sequences = prompts
        for _ in range(5):
            together = np.empty((len(sequences), model.config.n_vocab), np.float32)
            ids = np.array([i for sequence in sequences for i in sequence], np.int32)
            counts = np.array([len(sequence) for sequence in sequences], np.uintp)
            native.batch_feed(sessions, ids, counts, together)
            expected = [session.feed(sequence) for session, sequence in zip(alone, sequences, strict=True)]
            np.testing.assert_array_equal(together, expected)
            sequences = [[int(i)] for i in together.argmax(-1)]


# ---- What it takes ----


@pytest.mark.parametrize("name", CONFIGS)
def test_a_session_is_smaller_by_half_of_k_and_v(name: str, binding: str, model_folder: Folder) -> None:
    native = bindings.load(binding)

    def session_bytes(opts: str) -> int:
        with gpt2c.load(model_folder(name), opts=opts, binding=binding) as model:
            gc.collect()
            before = native.memory()[0]
            with model.session():
                return native.memory()[0] - before

    c = CONFIGS[name]
    head_dim = c["n_embd"] // c["n_head"]
    padded = -(-head_dim // 16) * 16
    k_and_v = 2 * c["n_layer"] * c["n_positions"] * c["n_head"] * padded * 4
    assert session_bytes("all") - session_bytes("all,kv_f16") == k_and_v // 2


def test_packed_files_do_not_know_of_it(binding: str, model_folder: Folder, tmp_path: Path) -> None:
    for opts in ("all", "all,kv_f16"):
        with gpt2c.load(model_folder("tiny"), opts=opts, binding=binding) as model:
            model.save_packed(tmp_path / opts, b"key")
    assert (tmp_path / "all").read_bytes() == (tmp_path / "all,kv_f16").read_bytes()


# ---- What it needs ----


def test_the_core_refuses_it_without_the_kv_switch(binding: str, model_folder: Folder) -> None:
    native = bindings.load(binding)
    with gpt2c.load(model_folder("tiny"), opts="kv_f16", isa="ref", binding=binding) as model:
        config = native_config(model.config, model.plan, ["ref"])
    native.Model(config)
    for wrong in ({"switches": 0}, {"switches": 62}, {"kv_f16": 2}, {"kv_f16": -1}):
        with pytest.raises(gpt2c.OptionError, match="an argument is missing or outside its range"):
            native.Model({**config, **wrong})
