"""head_screen: always the whole head's id, from few candidates, and only where nothing else is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from instruction_sets import EVERY_SET
from models import write_model

import gpt2c
from gpt2c.backends.native import native_config

TEXT = "'I am ready to ask your permission,' said the old man, and looked at the sea."


@pytest.fixture(params=[(*on, weights) for on in EVERY_SET for weights in ("f32", "bf16")], ids="-".join)
def how(request: pytest.FixtureRequest) -> dict[str, str]:
    isa, binding, weights = request.param
    return {"isa": isa, "weights": weights, "binding": binding, "opts": "kv,unembed,head_screen"}


def ids_and_largest(folder: Path | None, ids: list[int], how: dict[str, str]) -> tuple[list[int], list[int]]:
    """The screened id after each token, and the id of the largest of the whole head's logits."""
    with gpt2c.load(folder, **how) as model, model.session() as session:
        found = [session.feed_greedy([i]) for i in ids]
        largest = model.logits(ids).argmax(-1).tolist()
    return found, largest


@pytest.mark.parametrize("name", ["tiny", "odd", "calm"])
def test_random_models_get_the_whole_heads_id(
    name: str, how: dict[str, str], model_folder: Callable[[str], Path]
) -> None:
    found, largest = ids_and_largest(model_folder(name), [i * 7 % 101 for i in range(60)], how)
    assert found == largest


def test_the_trained_model_gets_the_whole_heads_id_from_few_candidates(how: dict[str, str]) -> None:
    with gpt2c.load(**how) as model, model.session() as session:
        ids = model.tokenizer.encode(TEXT)
        assert [session.feed_greedy([i]) for i in ids] == model.logits(ids).argmax(-1).tolist()
        n_ids, n_candidates = session.screened
        assert n_ids > len(ids) / 2, "most tokens should be settled by the screen"
        assert n_candidates < 200 * n_ids


def test_the_lowest_id_wins_a_tie(how: dict[str, str], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "calm")
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["wte.weight"][64:] = tensors["wte.weight"][:64]  # every logit is there twice
    safetensors.numpy.save_file(tensors, path)
    found, largest = ids_and_largest(folder, list(range(0, 128, 3)), how)
    assert found == largest
    assert max(found) < 64


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e-42, 0.0])
def test_numbers_that_prove_nothing_are_left_to_the_whole_head(
    value: float, how: dict[str, str], tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", "calm")
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["wte.weight"][100] = np.float32(value)
    safetensors.numpy.save_file(tensors, path)
    screened, whole = gpt2c.load(folder, **how), gpt2c.load(folder, **{**how, "opts": "kv,unembed"})
    with screened.session() as a, whole.session() as b:
        for i in range(20):
            assert a.feed_greedy([i]) == b.feed_greedy([i])


def test_it_is_used_only_where_nothing_else_reads_the_logits(how: dict[str, str]) -> None:
    with gpt2c.load(**how) as model, model.session() as session:
        ids = model.tokenizer.encode(TEXT)
        session.feed(ids)
        assert session.screened == (0, 0)
        model.generate(ids, 5, temperature=1.0, seed=0)
        session.feed_greedy([1])
        assert session.screened[0] <= 1


def test_without_the_option_nothing_is_screened() -> None:
    with gpt2c.load(opts="kv,unembed") as model, model.session() as session:
        session.feed_greedy([1])
        assert session.screened == (0, 0)


@pytest.mark.parametrize("row", [7, 100])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_one_entry_that_is_not_finite_costs_no_id(
    value: float, row: int, how: dict[str, str], tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", "calm")
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["wte.weight"][row, 3] = np.float32(value)
    safetensors.numpy.save_file(tensors, path)
    screened, whole = gpt2c.load(folder, **how), gpt2c.load(folder, **{**how, "opts": "kv,unembed"})
    with screened.session() as a, whole.session() as b:
        for i in [i for i in range(40) if i != row]:
            assert a.feed_greedy([i]) == b.feed_greedy([i])


def test_absurd_sizes_prove_nothing_and_cost_no_id(how: dict[str, str], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "calm")
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    for name in ("ln_f.weight", "ln_f.bias"):
        tensors[name] *= np.float32(2.0**122)
    tensors["wte.weight"] *= np.float32(2.0**-100)
    tensors["wte.weight"][::2] *= np.float32(2.0**-24)
    safetensors.numpy.save_file(tensors, path)
    screened, whole = gpt2c.load(folder, **how), gpt2c.load(folder, **{**how, "opts": "kv,unembed"})
    with screened.session() as a, whole.session() as b:
        for i in range(30):
            assert a.feed_greedy([i]) == b.feed_greedy([i])


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_the_core_refuses_it_where_x_is_rounded_to_integers(weights: str, binding: str) -> None:
    native = gpt2c.bindings.load(binding)
    with gpt2c.load(binding=binding, opts="kv,unembed,head_screen") as model:
        config = native_config(model.config, model.plan, [name for name, *_ in native.isas()])
    native.Model(config)
    with pytest.raises(gpt2c.OptionError):
        native.Model({**config, "format": gpt2c.options.WEIGHTS.index(weights)})


# The head's columns, every element of the final layer norm's output, and the largest logit's id.
LOST = {
    "a product that is lost adds nothing to the largest sum": ({5: [0.5] * 32, 7: [1.0]}, 2.0**-149, 7),
    "a scale that is subnormal is too coarse": (
        {5: [178 * 2.0**-149] * 32, 7: [100 * 2.0**-149] * 32},
        1e14,
        5,
    ),
}


@pytest.mark.parametrize(("columns", "hidden", "largest"), LOST.values(), ids=LOST.keys())
def test_what_is_lost_as_subnormal_costs_no_id(
    columns: dict[int, list[float]], hidden: float, largest: int, how: dict[str, str], tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", "calm")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    head = np.zeros_like(tensors["wte.weight"])
    for column, numbers in columns.items():
        head[column, : len(numbers)] = numbers
    tensors["lm_head.weight"] = head
    tensors["ln_f.weight"][:] = 0
    tensors["ln_f.bias"][:] = hidden
    safetensors.numpy.save_file(tensors, path)
    found, of_whole_head = ids_and_largest(folder, [1], how)
    assert found == of_whole_head
    if how["weights"] == "f32":
        assert found == [largest]
