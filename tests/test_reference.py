"""Every option against reference.py, the NumPy oracle in float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from instruction_sets import every_plan, every_set
from models import PROMPTS

import gpt2c
from gpt2c import reference
from gpt2c.checkpoints.checkpoint import load_checkpoint
from gpt2c.options import SWITCHES
from gpt2c.reference import attention


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float64 that are float32 -> rounded to bfloat16, ties to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def attention_f16(q: np.ndarray, k: np.ndarray, v: np.ndarray, divisor: float = 0) -> np.ndarray:
    """reference.attention of K and V as kv_f16 stores them."""
    halves = (x.astype(np.float16).astype(np.float64) for x in (k, v))
    return attention(q, *halves, divisor)


def oracle(
    folder: Path, ids: list[int], table: bool = False, bf16: bool = False, kv_f16: bool = False
) -> np.ndarray:
    attend = attention_f16 if kv_f16 else attention
    with load_checkpoint(folder) as checkpoint, mock.patch.object(reference, "attention", attend):
        config = checkpoint.config
        act = reference.gelu_table if table else reference.ACTIVATIONS[config.activation_function]
        p = reference.parameters(checkpoint)
        if bf16:
            matrices = ("wte.weight", "lm_head.weight", "c_attn.weight", "c_proj.weight", "c_fc.weight")
            p = {name: to_bf16(x) if name.endswith(matrices) else x for name, x in p.items()}
        divisors = reference.divisors(config)
        return reference.logits(ids, p, config.n_head, config.layer_norm_epsilon, act, divisors)


# The integer formats round too much to be compared so: see test_quantized.py.
EACH_ALONE = [option.name for option in gpt2c.OPTIONS if option.name not in ("q8", "q4")]


@every_plan(["none", "all", *EACH_ALONE])
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_every_option_gives_the_oracles_logits(
    name: str, opts: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    folder = model_folder(name)
    table, bf16, kv_f16 = (opts == option for option in ("gelu_table", "bf16", "kv_f16"))
    with gpt2c.load(folder, opts=opts, binding=binding) as model:
        for ids in PROMPTS[name]:
            # A value that float32 rounds across an fp16 boundary looks up the neighbouring entry.
            tolerance = 2e-2 if table else 1e-4
            assert np.abs(model.logits(ids) - oracle(folder, ids, table, bf16, kv_f16)).max() < tolerance


@every_set()
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_every_instruction_set_gives_the_oracles_logits(
    name: str, isa: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    folder = model_folder(name)
    with gpt2c.load(folder, isa=isa, binding=binding) as model:
        for ids in PROMPTS[name]:
            assert np.abs(model.logits(ids) - oracle(folder, ids)).max() < 1e-4


SUBSETS = list(chain.from_iterable(combinations(SWITCHES, n) for n in range(len(SWITCHES) + 1)))


def prompt_and_steps(folder: Path, opts: tuple[str, ...], isa: str, binding: str) -> list[np.ndarray]:
    """Logits after a prompt of 7 and after each of 20 greedy tokens."""
    with gpt2c.load(folder, opts=opts, isa=isa, binding=binding) as model, model.session() as session:
        logits = [session.feed([3, 1, 4, 1, 5, 9, 2])]
        for _ in range(20):
            logits.append(session.feed([int(logits[-1].argmax())]))
        return logits


@every_set()
@pytest.mark.parametrize("table", [(), ("gelu_table",)], ids=["formula", "table"])
def test_all_64_subsets_of_the_switches_give_the_bits_of_none(
    table: tuple[str, ...], isa: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    assert len(SUBSETS) == 64
    folder = model_folder("odd")
    expected = prompt_and_steps(folder, table, isa, binding)
    for subset in SUBSETS:
        found = prompt_and_steps(folder, subset + table, isa, binding)
        assert all(map(np.array_equal, found, expected)), subset


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda subset: ",".join(subset) or "none")
def test_a_switch_that_is_on_computes_only_the_new_row(
    subset: tuple[str, ...], binding: str, model_folder: Callable[[str], Path]
) -> None:
    with gpt2c.load(model_folder("tiny"), opts=subset, binding=binding) as model, model.session() as session:
        session.feed([1, 2, 3, 4])
        assert session.rows == {s: 1 if s == "unembed" and s in subset else 4 for s in SWITCHES}
        session.feed([5])
        assert session.rows == {s: 1 if s in subset else 5 for s in SWITCHES}
