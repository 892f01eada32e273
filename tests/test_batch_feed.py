"""Several sessions in one pass of the core: each gets the bits of a feed alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from instruction_sets import every_set

import gpt2c
from gpt2c import bindings

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5], [8, 9]]


def native_sessions(model: gpt2c.Model, n: int) -> list[bindings.NativeSession]:
    return [model._handle.runtime.Session(model._handle.loaded) for _ in range(n)]


def feed(
    model: gpt2c.Model, sessions: list[bindings.NativeSession], sequences: list[list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    logits = np.empty((len(sequences), model.config.n_vocab), np.float32)
    next_ids = np.empty(len(sequences), np.int32)
    ids = np.array([i for sequence in sequences for i in sequence], np.int32)
    counts = np.array([len(sequence) for sequence in sequences], np.uintp)
    model._handle.runtime.batch_feed(sessions, ids, counts, logits, next_ids)
    return logits, next_ids


@pytest.mark.parametrize("weights", gpt2c.options.WEIGHTS)
@every_set()
def test_ragged_prompts_and_then_single_tokens_have_the_bits_of_feeds_alone(
    isa: str, weights: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    for name, threads in (("odd", 1), ("tiny", 3)):
        with gpt2c.load(
            model_folder(name), isa=isa, weights=weights, threads=threads, binding=binding
        ) as model:
            alone = [model.session() for _ in PROMPTS]
            sessions = native_sessions(model, len(PROMPTS))
            sequences = PROMPTS
            for _ in range(12):
                logits, next_ids = feed(model, sessions, sequences)
                expected = np.array([s.feed(sequence) for s, sequence in zip(alone, sequences, strict=True)])
                assert np.array_equal(logits, expected)
                assert next_ids.tolist() == expected.argmax(-1).tolist()
                sequences = [[int(i)] for i in next_ids]
            assert [s.n_past() for s in sessions] == [len(p) + 11 for p in PROMPTS]


def test_a_batch_wider_than_a_block_of_logits(binding: str) -> None:
    with gpt2c.load(binding=binding) as model:
        sequences = [[i * 97 % 8192, i] for i in range(70)]
        logits, _ = feed(model, native_sessions(model, 70), sequences)
        assert np.array_equal(logits, np.array([model.session().feed(sequence) for sequence in sequences]))


def test_what_cannot_be_done_changes_nothing(binding: str, model_folder: Callable[[str], Path]) -> None:
    with gpt2c.load(model_folder("tiny"), binding=binding) as model:
        a, b = native_sessions(model, 2)
        feed(model, [a, b], [[1] * 60, [2]])
        with pytest.raises(gpt2c.SessionBusyError):
            feed(model, [a, a], [[1], [2]])
        with pytest.raises(gpt2c.TokenError):
            feed(model, [a, b], [[1], [128]])
        with pytest.raises(gpt2c.ContextLengthError):
            feed(model, [b, a], [[1], [2] * 69])
        with pytest.raises(gpt2c.OptionError):
            feed(model, [a, b], [[1], []])
        with gpt2c.load(model_folder("tiny"), binding=binding) as other, pytest.raises(gpt2c.OptionError):
            feed(model, [a, *native_sessions(other, 1)], [[1], [2]])
        assert (a.n_past(), b.n_past()) == (60, 1)
        feed(model, [a, b], [[1], [2]])


def test_it_needs_all_six_switches(binding: str, model_folder: Callable[[str], Path]) -> None:
    model = gpt2c.load(model_folder("tiny"), opts="kv", binding=binding)
    with model, pytest.raises(gpt2c.OptionError):
        feed(model, native_sessions(model, 2), [[1], [2]])


@pytest.mark.parametrize("which", [0, 1, 2])
def test_to_cancel_any_session_is_to_end_the_pass_of_all(which: int, binding: str) -> None:
    opts = "kv,linear,gelu,residual,layernorm,unembed"
    with gpt2c.load(opts=opts, binding=binding) as model:  # naive kernels: seconds
        sessions, ended = native_sessions(model, 3), []

        def work() -> None:
            try:
                feed(model, sessions, [[1], [2] * 127, [3] * 128])
            except gpt2c.CancelledError as error:
                ended.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while thread.is_alive():
            sessions[which].cancel()
            thread.join(0.01)
        assert len(ended) == 1
        assert [session.n_past() for session in sessions] == [0, 0, 0]
