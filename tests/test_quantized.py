"""The integer formats q8 and q4 in a whole model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instruction_sets import ISAS, every_set
from kernels.kernel_oracle import int8_rounded, q8_stored
from models import PROMPTS
from numpy.typing import NDArray

import gpt2c
from gpt2c import bindings, kernels, reference
from gpt2c.checkpoints.checkpoint import load_checkpoint

FORMATS = ("q8", "q4")
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of"

Folder = Callable[[str], Path]
Doubles = NDArray[np.float64]


@pytest.mark.parametrize(("weights", "limit"), [("q8", 0.01), ("q4", 0.2)])
def test_the_trained_models_distribution_moves_little(weights: str, limit: float, binding: str) -> None:
    with gpt2c.load(binding=binding) as exact, gpt2c.load(weights=weights, binding=binding) as rounded:
        ids = exact.tokenizer.encode(TEXT)
        p, q = (log_softmax(model.logits(ids)) for model in (exact, rounded))
        divergence = (np.exp(p) * (p - q)).sum(-1)
        assert 0 < divergence.max() < limit
        ratio = {"q8": 0.275, "q4": 0.165}[weights]  # of GPT-2 small 0.27 and 0.16: less of it is wpe
        assert rounded.weight_bytes < ratio * 4 * exact.config.n_parameters


@every_set()
@pytest.mark.parametrize("weights", FORMATS)
def test_one_row_and_many_give_the_same_bits(weights: str, isa: str, binding: str) -> None:
    with gpt2c.load(weights=weights, isa=isa, binding=binding) as model, model.session() as session:
        ids = model.tokenizer.encode(TEXT)[:8]
        whole = model.logits(ids)
        steps = [session.feed([i]) for i in ids]
        np.testing.assert_array_equal(np.stack(steps), whole)


# ---- Against the oracle ----


class Stored:
    """A matrix as a format stores it. Its products round x to int8, or in the head to a sum of two int8."""

    __array_ufunc__ = None  # so that x @ this comes here

    def __init__(self, stored: Doubles, *, is_head: bool = False, rounds_x: bool = True) -> None:
        self.stored, self.is_head, self.rounds_x = stored, is_head, rounds_x

    def __rmatmul__(self, x: Doubles) -> Doubles:
        rounded = int8_rounded(x) if self.rounds_x else x
        if self.is_head and self.rounds_x:
            rounded = rounded + int8_rounded(x - rounded)
        return np.asarray(rounded @ self.stored)


class StoredEmbedding(Stored):
    """The embedding, [n_vocab, n_embd], which is the head as well."""

    def __getitem__(self, ids: list[int]) -> Doubles:
        return np.asarray(self.stored[ids])

    @property
    def T(self) -> Stored:
        return Stored(self.stored.T, is_head=True, rounds_x=self.rounds_x)


def stored(w: NDArray[np.float32], weights: str) -> Doubles:
    """[n_in, n_out] as the format stores it. q8 by its rule; q4 through the kernels, whose tests check it."""
    if weights == "q8":
        return q8_stored(w).astype(np.float64)
    none = np.zeros((w.shape[1], w.shape[0]), np.float32)
    rows = kernels.embed(np.arange(w.shape[1]), kernels.pack(w, "panels_q4"), none, isa="ref")
    return rows.T.astype(np.float64)


def oracle(folder: Path, ids: Sequence[int], weights: str, rounds_x: bool = True) -> Doubles:
    """Logits by gpt2c.reference, where matrices, and what they multiply, are rounded as the format says."""
    with load_checkpoint(folder) as checkpoint:
        config = checkpoint.config
        p: dict[str, Any] = dict(reference.parameters(checkpoint, np.float32))
        for name, array in p.items():
            if array.ndim < 2 or name == "wpe.weight":
                p[name] = array.astype(np.float64)
            elif name == "wte.weight":
                p[name] = StoredEmbedding(stored(array.T, weights).T, rounds_x=rounds_x)
            else:
                p[name] = Stored(stored(array, weights), rounds_x=rounds_x)
        return np.asarray(reference.logits(ids, p, config.n_head, config.layer_norm_epsilon))


@every_set()
@pytest.mark.parametrize("name", ["tiny", "odd", "calm"])
@pytest.mark.parametrize("weights", FORMATS)
def test_logits_are_the_oracles_with_all_operands_rounded(
    weights: str, name: str, isa: str, binding: str, model_folder: Folder
) -> None:
    """A number that float32 puts on the other side of a tie becomes another integer; that is rare."""
    folder = model_folder(name)
    with gpt2c.load(folder, weights=weights, isa=isa, binding=binding) as model:
        for ids in PROMPTS[name]:
            logits, exact = model.logits(ids), oracle(folder, ids, weights)
            assert np.abs(logits - exact).max() < 1e-3
            assert np.abs(logits - oracle(folder, ids, weights, rounds_x=False)).max() > 4e-3


# ---- The same bits ----


def pieces(folder: Path, sizes: Sequence[int], **settings: Any) -> NDArray[np.float32]:
    """Logits of every position, the prompt fed in pieces of these sizes."""
    ids = PROMPTS["odd"][2]
    with gpt2c.load(folder, **settings) as model, model.session() as session:
        ends = np.cumsum(sizes)
        assert ends[-1] == len(ids)
        fed = [session.feed_all(ids[end - n : end]) for n, end in zip(sizes, ends, strict=True)]
        return np.concatenate(fed)


@pytest.mark.parametrize("kv_f16", [False, True])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", FORMATS)
def test_threads_pieces_switches_fusing_and_bindings_change_no_bit(
    weights: str, isa: str, kv_f16: bool, model_folder: Folder
) -> None:
    folder, suffix = model_folder("odd"), ",kv_f16" if kv_f16 else ""
    plans = ["all", "aligned,kv,unembed", "aligned,kv,linear,gelu,fused"]
    plans += [] if kv_f16 else ["aligned", "aligned,fused,linear"]  # kv_f16 needs kv
    expected = pieces(folder, (13,), weights=weights, isa=isa, threads=1, opts="all" + suffix)
    for binding in bindings.NAMES:
        for opts in plans:
            for threads, sizes in ((1, (13,)), (3, (13,)), (3, (1,) * 13), (1, (5, 1, 7))):
                settings = {"isa": isa, "threads": threads, "opts": opts + suffix, "binding": binding}
                found = pieces(folder, sizes, weights=weights, **settings)
                np.testing.assert_array_equal(found, expected)


@every_set()
@pytest.mark.parametrize("weights", FORMATS)
def test_sessions_in_one_batch_have_the_bits_of_each_alone(
    weights: str, isa: str, binding: str, model_folder: Folder
) -> None:
    native = bindings.load(binding)
    sequences = [[1, 2, 3], [4], [5, 6]]
    with gpt2c.load(model_folder("tiny"), weights=weights, isa=isa, threads=3, binding=binding) as model:
        alone = [model.session() for _ in sequences]
        sessions = [native.Session(model._handle.loaded) for _ in sequences]
        for _ in range(5):
            together = np.empty((len(sequences), model.config.n_vocab), np.float32)
            ids = np.array([i for sequence in sequences for i in sequence], np.int32)
            native.batch_feed(sessions, ids, np.array([*map(len, sequences)], np.uintp), together)
            expected = [session.feed(sequence) for session, sequence in zip(alone, sequences, strict=True)]
            np.testing.assert_array_equal(together, expected)
            sequences = [[int(i)] for i in together.argmax(-1)]


# ---- Memory ----


WATCHED = """
import json, sys
import gpt2c
from gpt2c import bindings

weights, binding = sys.argv[1:]
seen = []
def look():  # live and peak bytes of the core
    seen.append(bindings.load(binding).memory()[:2])

with gpt2c.load(weights=weights, threads=1, binding=binding) as model:
    look()
    with model.session() as session:
        look()
        session.feed(list(range(40)))
        session.feed_greedy([1])
        session.feed_all([1, 2, 3])
        look()
    model.generate("It was", max_new_tokens=8)
    config, size = model.config, model.weight_bytes
    look()
    matrix = 4 * config.n_embd**2  # the smallest, as float32
print(json.dumps([seen, size, matrix, config.n_parameters]))
"""


@pytest.mark.parametrize("weights", FORMATS)
def test_no_float32_copy_of_a_matrix_is_ever_made(weights: str, binding: str) -> None:
    """Loading, running and generating in a new process, because the peak is a process's."""
    command = [sys.executable, "-c", WATCHED, weights, binding]
    seen, size, matrix, n = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    (loaded, load_peak), (with_session, _), fed, generated = seen
    assert size < 0.3 * 4 * n
    assert size <= loaded <= load_peak < size + matrix  # nor while it was loaded
    assert fed == [with_session, with_session]  # a feed allocates nothing
    session = with_session - loaded
    assert generated[1] <= loaded + session + 1024, "generating takes a session and no more"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
