"""The C core against transformers: the same weights give the same logits and the same greedy text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instruction_sets import every_plan
from models import PROMPTS
from references import optional

import gpt2c
from gpt2c.checkpoints.hub import EMBEDDED_MODEL

torch = optional("torch")
transformers = optional("transformers")

EACH_ALONE = [option.name for option in gpt2c.OPTIONS]
# Others round on purpose: see test_gelu_table.py, and test_reference.py for weight formats.
ROUNDING = ("gelu_table", "bf16", "q8", "q4", "kv_f16")
EXACT = [name for name in ["none", "all", *EACH_ALONE] if name not in ROUNDING]


@cache
def published_code(folder: Path) -> Any:
    load = transformers.GPT2LMHeadModel.from_pretrained
    return load(folder, dtype=torch.float32, attn_implementation="eager").eval()


def expected_logits(folder: Path, ids: list[int]) -> np.ndarray:
    return _expected_logits(folder, tuple(ids))


@cache
def _expected_logits(folder: Path, ids: tuple[int, ...]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(published_code(folder)(torch.tensor([ids])).logits[0])


@every_plan(EXACT)
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_logits_of_random_models(
    name: str, opts: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    folder = model_folder(name)
    with gpt2c.load(folder, opts=opts, binding=binding) as model:
        for ids in PROMPTS[name]:
            assert np.abs(model.logits(ids) - expected_logits(folder, ids)).max() < 1e-4


@every_plan(EXACT)
def test_logits_of_the_embedded_model(opts: str, binding: str) -> None:
    ids = list(range(0, 8192, 271))
    with gpt2c.load(opts=opts, binding=binding) as model:
        assert np.abs(model.logits(ids) - expected_logits(EMBEDDED_MODEL, ids)).max() < 1e-4


@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_greedy_ids_of_random_models(name: str, binding: str, model_folder: Callable[[str], Path]) -> None:
    folder = model_folder(name)
    with gpt2c.load(folder, binding=binding) as model:
        for ids in PROMPTS[name]:
            assert model.generate(ids, max_new_tokens=100).ids == greedy(folder, ids)


def greedy(folder: Path, ids: list[int]) -> list[int]:
    return _greedy(folder, tuple(ids))


@cache
def _greedy(folder: Path, ids: tuple[int, ...]) -> list[int]:
    out = published_code(folder).generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=100,
        do_sample=False,
        pad_token_id=0,
    )
    return [int(i) for i in out[0, len(ids) :]]


@pytest.mark.parametrize(
    "prompt", ["Once upon a time", "'I am ready,' said Holmes,", "The old man of the sea"]
)
def test_greedy_text_of_the_embedded_model(prompt: str, binding: str) -> None:
    with gpt2c.load(binding=binding) as model:
        completion = model.generate(prompt, max_new_tokens=100)
        assert completion.ids == greedy(EMBEDDED_MODEL, completion.prompt_ids)


@every_plan(["none", "all"])
def test_logits_of_the_full_124m_shape(opts: str, binding: str, full_size: Path) -> None:
    ids = [50256, 0, 31373, 995, 198, 50255, 15496, 11]
    with gpt2c.load(full_size, opts=opts, binding=binding) as model:
        assert np.abs(model.logits(ids) - expected_logits(full_size, ids)).max() < 1e-3
