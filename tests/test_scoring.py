"""Scores and hidden states: transformers' numbers, each token scored once, whatever the plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from instruction_sets import every_set
from models import write_model
from references import optional

import gpt2c
from gpt2c.generation.scoring import windows

TEXT = "It was a dark night, and the old man looked at the sea \u2013 for hours."


@pytest.fixture(scope="module")
def model():
    with gpt2c.load() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def their_model() -> Callable[[Path], object]:
    """A function: a folder -> transformers' model of it."""
    optional("torch")
    transformers = optional("transformers")
    return lambda folder: transformers.GPT2LMHeadModel.from_pretrained(folder).float().eval()


def their_logprobs(theirs: object, ids: list[int], n_ctx: int, stride: int) -> np.ndarray:
    """As in transformers' guide to the perplexity of fixed-length models, each log probability."""
    import torch

    found = []
    end_before = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + n_ctx, len(ids))
        n_scored = end - end_before
        window = torch.tensor([ids[begin:end]])
        with torch.no_grad():
            logprobs = theirs(window).logits.double().log_softmax(-1)[0]
        of_tokens = logprobs[:-1].gather(-1, window[0, 1:, None])[:, 0]
        found.append(of_tokens[-n_scored:] if begin else of_tokens)
        end_before = end
        if end == len(ids):
            break
    return torch.cat(found).numpy()


EMBEDDED = Path(gpt2c.__file__).parent / "assets"


@pytest.fixture(scope="module")
def long_ids() -> list[int]:
    """More tokens than the context holds."""
    with gpt2c.load() as model:
        return model.generate(TEXT, 580, temperature=1.0, seed=0, overflow="slide").ids


@pytest.mark.parametrize("stride", [None, 400])
def test_a_text_longer_than_the_context_has_transformers_scores(
    model: gpt2c.Model, long_ids: list[int], their_model: Callable[[Path], object], stride: int | None
) -> None:
    ids = long_ids
    score = model.score(ids, stride)
    expected = their_logprobs(their_model(EMBEDDED), ids, 512, stride or 256)
    assert score.logprobs.shape == (579,)
    np.testing.assert_allclose(score.logprobs, expected, rtol=0, atol=2e-4)
    assert score.nll == pytest.approx(-expected.mean(), abs=1e-5)
    assert score.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["tiny", "odd", "calm"])
def test_random_models_score_and_embed_as_transformers_does(
    name: str, model_folder: Callable[[str], Path], their_model: Callable[[Path], object], binding: str
) -> None:
    import torch

    theirs = their_model(model_folder(name))
    ids = [i * 7 % 101 for i in range(300)]
    with gpt2c.load(model_folder(name), binding=binding) as model:
        expected = their_logprobs(theirs, ids, 128, 64)
        np.testing.assert_allclose(model.score(ids).logprobs, expected, rtol=0, atol=2e-3)
        with torch.no_grad():
            hidden = theirs.transformer(torch.tensor([ids[:100]])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(model.embed(ids[:100]), hidden, rtol=0, atol=2e-3)


@every_set()
def test_scores_and_hidden_states_have_the_same_bits_whatever_the_plan(
    isa: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    ids = [i * 7 % 101 for i in range(200)]
    found = []
    for opts in ("all", "kv,unembed,aligned", "aligned"):
        with gpt2c.load(model_folder("odd"), isa=isa, opts=opts, binding=binding) as model:
            found.append((model.score(ids, stride=30).logprobs, model.embed(ids[:50])))
            logits = model.logits(ids[:50])
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        exact = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        picked = exact[np.arange(49), ids[1:50]]
        np.testing.assert_allclose(found[-1][0][:49], picked, rtol=0, atol=1e-5)
    for logprobs, hidden in found[1:]:
        assert np.array_equal(logprobs, found[0][0])
        assert np.array_equal(hidden, found[0][1])


def test_the_sums_are_those_of_the_log_probabilities(model: gpt2c.Model) -> None:
    score = model.score(TEXT)
    ids = model.tokenizer.encode(TEXT)
    assert score.logprobs.dtype == np.float64
    assert score.logprobs.shape == (len(ids) - 1,)
    assert score.nll == pytest.approx(-score.logprobs.mean())
    n_bytes = len(TEXT.encode()) - len(model.tokenizer.token_bytes(ids[0]))
    assert score.bits_per_byte == pytest.approx(-score.logprobs.sum() / math.log(2) / n_bytes)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_damaged_give_no_score(value: float, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "tiny")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["ln_f.bias"][3] = value
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    line = "the model's logits are not finite: its weights must be damaged"
    with gpt2c.load(folder) as damaged, pytest.raises(gpt2c.Gpt2cError, match=line):
        damaged.score([1, 2, 3])


def test_greedy_tokens_have_the_log_probabilities_that_generate_gives(model: gpt2c.Model) -> None:
    completion = model.generate(TEXT, 20, logprobs=1)
    score = model.score([*completion.prompt_ids, *completion.ids])
    given_ = [found.logprob for found in completion.logprobs]
    np.testing.assert_allclose(score.logprobs[-20:], given_, rtol=0, atol=1e-6)


@given(st.integers(2, 500), st.integers(2, 90), st.data())
def test_each_token_but_the_first_is_scored_once_with_context_enough(
    n: int, n_ctx: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, n_ctx - 1))
    scored = []
    for begin, end, first in windows(n, n_ctx, stride):
        assert end - begin <= n_ctx
        assert first > begin
        assert first == 1 or first - begin >= n_ctx - stride
        scored += range(first, end)
    assert scored == list(range(1, n))


def test_a_model_without_a_vocabulary_has_no_bits_per_byte(model_folder: Callable[[str], Path]) -> None:
    with gpt2c.load(model_folder("tiny")) as model:
        assert model.score([1, 2, 3]).bits_per_byte is None


@pytest.mark.parametrize(
    ("given_", "error", "line"),
    [
        (("",), gpt2c.TokenError, "the prompt is empty: at least one token is needed"),
        (
            ([5],),
            gpt2c.TokenError,
            "at least two tokens are needed: the first has no tokens before it to score it by",
        ),
        (([5, 8192],), gpt2c.TokenError, "token id 8192 is outside the vocabulary (0 to 8191)"),
        (("a text", 0), gpt2c.OptionError, "stride must be an integer from 1 to 511, not 0"),
        (("a text", 512), gpt2c.OptionError, "stride must be an integer from 1 to 511, not 512"),
        (("a text", 1.5), gpt2c.OptionError, "stride must be an integer from 1 to 511, not 1.5"),
    ],
)
def test_what_cannot_be_scored_is_named(
    model: gpt2c.Model, given_: tuple[object, ...], error: type[Exception], line: str
) -> None:
    with pytest.raises(error) as caught:
        model.score(*given_)
    assert str(caught.value) == line


def test_hidden_states_of_more_than_the_context_are_refused(model: gpt2c.Model) -> None:
    with pytest.raises(gpt2c.ContextLengthError, match="513 tokens are more than the context of 512 holds"):
        model.embed([1] * 513)
