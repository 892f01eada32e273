"""Goldens recorded from transformers by tools/record_goldens.py: they hold without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from instruction_sets import every_set

import gpt2c
from gpt2c.checkpoints.hub import EMBEDDED_MODEL

GOLDENS = json.loads((Path(__file__).parent / "golden" / "transformers.json").read_text())
NAMES = [name for name in GOLDENS if name != "made_by"]


@every_set()
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(
    name: str, isa: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    folder = EMBEDDED_MODEL if name == "embedded" else model_folder(name)
    with gpt2c.load(folder, isa=isa, binding=binding) as model:
        for golden in GOLDENS[name]:
            found = model.logits(golden["prompt_ids"])[:, :: golden["vocabulary_step"]]
            assert np.abs(found - golden["logits"]).max() < 1e-4


@every_set()
@pytest.mark.parametrize("name", NAMES)
def test_greedy_continuations_are_those_of_transformers(
    name: str, isa: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    folder = EMBEDDED_MODEL if name == "embedded" else model_folder(name)
    with gpt2c.load(folder, isa=isa, binding=binding) as model:
        for golden in GOLDENS[name]:
            assert model.generate(golden["prompt_ids"], max_new_tokens=100).ids == golden["greedy_ids"]
