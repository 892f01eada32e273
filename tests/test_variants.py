"""Relatives of GPT-2: each difference alone and all together, as transformers and the oracle compute them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from instruction_sets import ISAS, every_plan, every_set
from models import VARIANTS
from references import optional
from test_reference import oracle

import gpt2c
from gpt2c import bindings
from gpt2c.backends.native import native_config
from gpt2c.checkpoints.checkpoint import load_checkpoint

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 96, 0, 40]


@every_plan(["none", "all", "all,kv_f16", "all,bf16", "aligned", "kv,linear"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_the_oracles_logits(
    name: str, opts: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    folder = model_folder(name)
    expected = oracle(folder, IDS, bf16="bf16" in opts, kv_f16="kv_f16" in opts)
    with gpt2c.load(folder, opts=opts, isa="auto", binding=binding) as model:
        # Set avx512_bf16 rounds x to bfloat16 too.
        tolerance = 0.5 if "bf16" in opts and model.plan.isa == "avx512_bf16" else 2e-4
        assert np.abs(model.logits(IDS) - expected).max() < tolerance


@cache
def of_transformers(folder: Path, ids: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """How many parameters its model has, and its logits."""
    torch = optional("torch")
    transformers = optional("transformers")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0].numpy()
    return sum(p.numel() for p in theirs.parameters()), logits


@every_set()
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_the_logits_of_transformers(
    name: str, isa: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    folder = model_folder(name)
    ids = tuple(IDS) if name != "long" else tuple(7 * i % 97 for i in range(2500))
    n_parameters, expected = of_transformers(folder, ids)
    with gpt2c.load(folder, isa=isa, binding=binding) as model:
        assert model.config.n_parameters == n_parameters
        assert np.abs(model.logits(ids) - expected).max() < 2e-4


@pytest.mark.parametrize("name", ["gelu", "relu", "together"])
def test_chunks_threads_switches_and_fusing_change_no_bit(
    name: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    folder = model_folder(name)
    for isa in ISAS:
        found = []
        for opts in ("none", "kv,linear,gelu,residual", "all", "all,threads=3"):
            # `all` replaces nothing that the set decides: every plan here runs the same kernels.
            with gpt2c.load(folder, opts=opts, isa=isa, binding=binding) as model, model.session() as s:
                steps = [s.feed(IDS[:4]), *(s.feed([i]) for i in IDS[4:])]
                assert np.array_equal(steps[-1], model.logits(IDS)[-1])
                found.append(steps)
        assert all(np.array_equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", ["untied", "together"])
def test_a_greedy_id_is_screened_for_in_a_head_of_its_own(
    name: str, binding: str, model_folder: Callable[[str], Path]
) -> None:
    with gpt2c.load(model_folder(name), binding=binding) as model, model.session() as session:
        expected = model.logits(IDS)[-1].argmax()
        assert session.feed_greedy(IDS) == expected


def test_a_packed_file_knows_the_variant(
    binding: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.packed"
    native = bindings.load(binding)
    isas = [name for name, _, _ in native.isas()]
    for name in VARIANTS:
        with gpt2c.load(model_folder(name), opts="aligned", binding=binding) as model:
            model.save_packed(path, b"k")
            fields = native_config(model.config, model.plan, isas)
        told = native.packed_info(bytes(path))
        variant = ("activation", "untied", "unscaled_scores", "scores_by_layer")
        assert {key: told[key] for key in variant} == {key: fields[key] for key in variant}
        native.Model.open_packed(bytes(path), b"k", fields)
        for key in variant:
            with pytest.raises(gpt2c.ModelFileError):
                native.Model.open_packed(bytes(path), b"k", {**fields, key: 1 - min(fields[key], 1)})


def test_the_gelu_table_is_of_its_own_activation(binding: str, model_folder: Callable[[str], Path]) -> None:
    with pytest.raises(gpt2c.OptionError) as caught:
        gpt2c.load(model_folder("relu"), opts="all,gelu_table", binding=binding)
    assert str(caught.value) == "option 'gelu_table' needs GELU in its tanh form; this model has 'relu'"
    with gpt2c.load(model_folder("gelu_pytorch_tanh"), opts="all,gelu_table", binding=binding):
        pass


def test_the_core_refuses_a_head_that_is_tied_and_a_variant_that_there_is_not(
    binding: str, model_folder: Callable[[str], Path]
) -> None:
    native = bindings.load(binding)
    isas = [name for name, _, _ in native.isas()]
    for name in ("odd", "untied"):
        with gpt2c.load(model_folder(name), binding=binding) as model:
            fields = native_config(model.config, model.plan, isas)
        head = np.zeros(4 * model.config.n_vocab * model.config.n_embd, np.uint8)
        if name == "odd":
            with pytest.raises(gpt2c.OptionError):
                native.Model(fields).set(16, 0, 0, head)
        else:
            native.Model(fields).set(16, 0, 0, head)
    for wrong in (
        {"activation": 3},
        {"activation": -1},
        {"untied": 2},
        {"unscaled_scores": -1},
        {"scores_by_layer": 2},
        {"activation": 1, "gelu_table": 1},
    ):
        with pytest.raises(gpt2c.OptionError):
            native.Model({**fields, **wrong})


def test_an_untied_head_that_is_missing_is_named(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    fields = json.loads((model_folder("tiny") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "tie_word_embeddings": False}))
    (tmp_path / "model.safetensors").symlink_to(model_folder("tiny") / "model.safetensors")
    with pytest.raises(gpt2c.ModelFileError, match=r"tensor 'lm_head\.weight' is missing"):
        load_checkpoint(tmp_path)
