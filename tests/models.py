"""Small random models that tests and tools/record_goldens.py share: the same weights everywhere.

Weights are larger than a fresh GPT-2's, and biases and norms far from 0 and 1, so that dropping or
misplacing any of them shows in the logits. "calm" has one layer, whose projections are small compared with
the embeddings, as in a trained model: a worst case can be followed through it by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from gpt2c.checkpoints.checkpoint import tensor_specs
from gpt2c.config import read_config

CONFIGS: dict[str, dict[str, object]] = {
    "tiny": {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 128, "vocab_size": 128},
    "odd": {"n_layer": 3, "n_head": 5, "n_embd": 20, "n_positions": 128, "vocab_size": 101, "n_inner": 37},
    "calm": {"n_layer": 1, "n_head": 4, "n_embd": 32, "n_positions": 128, "vocab_size": 128},
}

# What relatives of GPT-2 have otherwise, one thing each and then all together; heads of 7 numbers.
_RELATIVE = {"n_layer": 3, "n_head": 3, "n_embd": 21, "n_positions": 128, "vocab_size": 97}
VARIANTS: dict[str, dict[str, object]] = {
    "gelu_pytorch_tanh": {"activation_function": "gelu_pytorch_tanh"},
    "gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "n_inner": {"n_inner": 50},
    "untied": {"tie_word_embeddings": False},
    "unscaled": {"scale_attn_weights": False},
    "by_layer": {"scale_attn_by_inverse_layer_idx": True},
    "epsilon": {"layer_norm_epsilon": 0.1},
    "long": {"n_positions": 4096},
    "together": {
        "activation_function": "gelu",
        "tie_word_embeddings": False,
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "layer_norm_epsilon": 1e-6,
        "n_inner": 33,
    },
}
CONFIGS.update({name: {**_RELATIVE, **fields} for name, fields in VARIANTS.items()})
STD = {"calm": (1.0, 0.05)}  # embeddings, all else

PROMPTS = {
    "tiny": [[1], [5, 4, 3, 2, 1], list(range(0, 128, 9))],
    "odd": [[100], [7, 7, 7], list(range(99, 0, -8))],
    "calm": [[1], [5, 4, 3, 2, 1], list(range(0, 128, 9))],
    **{name: [[3, 1, 4, 1, 5, 9, 2, 6]] for name in VARIANTS},
}


def write_model(folder: Path, name: str) -> Path:
    """Write the model of that name into a new folder; returns the folder."""
    folder.mkdir(parents=True)
    fields = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "bos_token_id": None,
        "eos_token_id": None,
        **CONFIGS[name],
    }
    (folder / "config.json").write_text(json.dumps(fields))
    random = np.random.Generator(np.random.PCG64(list(CONFIGS).index(name)))
    tensors = {}
    for spec in tensor_specs(read_config(folder / "config.json")):
        std = STD.get(name, (0.25, 0.25))[0 if spec.kind in ("wte", "wpe") else 1]
        values = random.standard_normal(spec.shape, np.float32) * np.float32(std)
        if spec.kind.startswith("ln_") and spec.kind.endswith("weight"):
            values += 1
        tensors[spec.name] = values
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder
