"""The integer formats q8 and q4 in a whole model."""

from __future__ import annotations

import numpy as np
import pytest

import gpt2c

ISAS = gpt2c.build_info()["isas_supported"]
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of"


@pytest.mark.parametrize(("weights", "most"), [("q8", 0.01), ("q4", 0.2)])
def test_the_trained_models_distribution_moves_little(weights: str, most: float, binding: str) -> None:
    with gpt2c.load(binding=binding) as exact, gpt2c.load(weights=weights, binding=binding) as rounded:
        ids = exact.tokenizer.encode(TEXT)
        p, q = (log_softmax(model.logits(ids)) for model in (exact, rounded))
        divergence = (np.exp(p) * (p - q)).sum(-1)
        assert 0 < divergence.max() < most
        ratio = {"q8": 0.275, "q4": 0.165}[weights]  # of GPT-2 small 0.27 and 0.16: less of it is wpe
        assert rounded.weight_bytes < ratio * 4 * exact.config.n_parameters


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_one_row_and_many_give_the_same_bits(weights: str, isa: str, binding: str) -> None:
    with gpt2c.load(weights=weights, isa=isa, binding=binding) as model, model.session() as session:
        ids = model.tokenizer.encode(TEXT)
        whole = model.logits(ids)
        steps = [session.feed([i]) for i in ids]
        np.testing.assert_array_equal(np.stack(steps), whole)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
