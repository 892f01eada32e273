"""The C core as a backend: options become a plan, a checkpoint becomes weights laid out for the kernels."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from .. import bindings, options
from .._machine import usable_cores
from ..bindings import Binding, LoadedModel, NativeModel, Runtime
from ..checkpoints.checkpoint import Checkpoint, TensorSpec
from ..config import ModelConfig
from ..errors import ModelFileError, OptionError
from . import packed_cache
from .choices import Choices, Loader

# From the names of activations in a config to those of gpt2c_activation in include/gpt2c.h.
_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu_erf", "relu": "relu"}


def loader(choices: Choices) -> Loader:
    """Resolve the options, and return the function that opens checkpoints. Errors as in `gpt2c.load`."""
    binding = bindings.select(choices.binding)
    isas = [(name, supported) for name, _, supported in binding.isas()]
    resolve = partial(
        options.resolve,
        choices.opts,
        isa=choices.isa,
        threads=choices.threads,
        weights=choices.weights,
        isas=isas,
        cores=usable_cores(),
    )
    resolve()  # a wrong option is reported before any file is read

    def open_checkpoint(checkpoint: Checkpoint) -> tuple[options.Plan, Runtime, LoadedModel]:
        plan = resolve(stored=checkpoint.quantization or "f32")
        config = native_config(checkpoint.config, plan, [name for name, _ in isas])
        native = packed_cache.load_or_build(
            binding, config, checkpoint, plan, lambda: _build(binding, config, checkpoint, plan)
        )
        return plan, binding, native

    return open_checkpoint


def native_config(config: ModelConfig, plan: options.Plan, isas: list[str]) -> dict[str, Any]:
    """The gpt2c_model_config (include/gpt2c.h) of a model's shape and a plan.

    isas: names of instruction sets; `isa` becomes the index of plan.isa in it. OptionError: an option that
    does not apply to this model.
    """
    if "gelu_table" in plan and config.activation_function != "gelu_new":
        raise OptionError(
            f"option 'gelu_table' needs GELU in its tanh form; this model has {config.activation_function!r}"
        )
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": config.n_inner,
        "n_ctx": config.n_ctx,
        "n_vocab": config.n_vocab,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "isa": isas.index(plan.isa),
        "switches": plan.switches,
        "format": options.WEIGHTS.index(plan.weights),
        "n_threads": plan.threads,
        **{option.name: int(option.name in plan) for option in options.OPTIONS if option.is_field},
        "activation": bindings.enum("activation")[_ACTIVATIONS[config.activation_function]],
        "untied": int(not config.tie_word_embeddings),
        "unscaled_scores": int(not config.scale_attn_weights),
        "scores_by_layer": int(config.scale_attn_by_inverse_layer_idx),
    }


def _build(
    binding: Binding, config: dict[str, Any], checkpoint: Checkpoint, plan: options.Plan
) -> NativeModel:
    """A frozen model with a checkpoint's weights; config: `native_config` of the checkpoint and the plan."""
    native = binding.Model(config)
    dtypes = bindings.enum("dtype")

    def set_tensor(spec: TensorSpec) -> None:
        stored = checkpoint.quantized(spec.kind, spec.layer)
        if stored and stored[0] == plan.weights:
            dtype, raw = dtypes["stored"], stored[1]
        else:
            name, raw = checkpoint.tensor(spec.kind, spec.layer)
            dtype = dtypes[name.lower()]
        try:
            native.set(spec.kind_index, max(spec.layer, 0), dtype, np.frombuffer(raw, np.uint8))
        except ModelFileError as error:
            raise ModelFileError(f"tensor {spec.name!r}: {error}") from None
        checkpoint.release(spec.kind, spec.layer)

    # The largest first, so that no thread converts the embedding alone at the end.
    by_size = sorted(checkpoint.specs(), key=lambda spec: math.prod(spec.shape), reverse=True)
    with ThreadPoolExecutor(plan.threads) as pool:
        for _ in pool.map(set_tensor, by_size):
            pass
    native.freeze()
    return native


def identity_of(config: ModelConfig, plan: options.Plan, loaded: NativeModel) -> dict[str, Any]:
    """Everything that a session's state depends on: shape, plan and a checksum of all weights."""
    settings = native_config(config, plan, [plan.isa])
    for name in ("n_threads", "fused"):  # these change no bit
        del settings[name]
    shown = {"isa": plan.isa, "format": plan.weights}  # names stay valid when numbers change
    return {**settings, **shown, "weights": f"{loaded.checksum():016x}", "order": sys.byteorder}
