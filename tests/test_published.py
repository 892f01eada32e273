"""The published GPT-2 (124M): continuations and logits that others have printed.

Needs its weights in the folder $GPT2C_GPT2_DIR. The figures are quoted from the README or the tests of the
project named with each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from references import published_weights

import gpt2c

FOLDER = published_weights()

# prompt, continuation, where it is printed
CONTINUATIONS = [
    (
        "Alan Turing theorized that computers would one day become",
        " the most powerful machines on the planet.\n\nThe computer is a machine that can perform complex "
        "calculations, and it can perform these calculations in a way that is very similar to the human "
        "brain.",
        "picoGPT, README",
    ),
    (
        "Alan Turing theorized that computers would one day become very powerful, but even he could not "
        "imagine",
        ' how they would be able to do so.\n\n"I think the most important thing is',
        "fastGPT, README",
    ),
    (
        "Hello, my name is",
        " John. I'm a writer, and I'm a writer. I'm",
        "transformers, test_modeling_utils.py",
    ),
    (
        "The capital of France is",
        " the capital of the French Republic, and the capital of the French Republic is the capital of the "
        "French",
        "a public file",
    ),
    (
        "Once upon a time",
        ", the world was a place of great beauty and great danger. The world was a place of great",
        "a public file",
    ),
]


@pytest.fixture(scope="module")
def model() -> Iterator[gpt2c.Model]:
    with gpt2c.load(FOLDER) as model:
        yield model


@pytest.mark.parametrize(("prompt", "continuation", "source"), CONTINUATIONS)
def test_greedy_continuations(model: gpt2c.Model, prompt: str, continuation: str, source: str) -> None:
    n_new = len(model.tokenizer.encode(continuation))
    assert model.generate(prompt, max_new_tokens=n_new).text == continuation


def test_greedy_ids_of_the_dog(model: gpt2c.Model) -> None:
    """transformers, tests/models/gpt2/test_modeling_gpt2.py."""
    ids = [373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13, 198, 198, 464, 3290]
    assert model.generate([464, 3290], max_new_tokens=18).ids == ids


def test_first_logits_after_hello(model: gpt2c.Model) -> None:
    """Lokad/Onnx, GraphExecutionGpt2Tests."""
    logits = model.logits([15496, 11, 314, 716])
    expected = [-35.2362, -35.3266, -38.9754, -39.3907, -37.6532, -38.6724, -36.0249, -36.4842]
    assert np.abs(logits[0, :8] - expected).max() < 1e-3
    assert logits[0].argmax() == 11
    assert abs(logits.mean(dtype=np.float64) - -111.89471436) < 1e-3


def test_most_probable_token_at_each_position_of_the_eiffel_tower(model: gpt2c.Model) -> None:
    """nnsight, documentation."""
    logits = model.logits(model.tokenizer.encode("The Eiffel Tower is in the city of"))
    assert logits.argmax(-1).tolist() == [198, 12, 417, 8765, 318, 257, 262, 3504, 7372, 6342]


def test_mean_loss_of_hello_world(model: gpt2c.Model) -> None:
    """TransformerLens, tests/acceptance/test_hooked_transformer.py."""
    ids = [50256, 15496, 995, 0]
    logits = model.logits(ids).astype(np.float64)[:-1]
    log_sum = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    loss = (log_sum - logits[np.arange(3), ids[1:]]).mean()
    assert abs(loss - 5.331855773925781) < 4e-5
