"""A model in training as a `Checkpoint`, so that gpt2c's writers can write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpt2c.checkpoints.checkpoint import Checkpoint
from gpt2c.checkpoints.readers import StoredTensor
from gpt2c.config import ModelConfig
from gpt2c.text.tokenizer import Vocabulary

from .model import GPT2


class _Memory:
    """A `TensorFile` whose tensors are in memory: copies of a model's weights as float32."""

    config: ModelConfig | None = None
    vocabulary: Vocabulary | None = None

    def __init__(self, model: GPT2, path: Path) -> None:
        self.path = path
        state = model.state_dict()
        self._arrays = {name: tensor.float().cpu().numpy().astype("<f4") for name, tensor in state.items()}
        self.tensors = {name: StoredTensor(name, "F32", a.shape) for name, a in self._arrays.items()}

    def view(self, name: str) -> memoryview:
        return self._arrays[name].reshape(-1).view(np.uint8).data

    def release(self, name: str) -> None:
        """Do nothing: the arrays are not read from a file."""

    def fingerprint(self) -> str:
        raise NotImplementedError("a model in training has no packed file")

    def close(self) -> None:
        """Do nothing: no file is open."""


def checkpoint_of(model: GPT2, fields: dict[str, object], vocabulary: Path) -> Checkpoint:
    """The model's current weights. fields: of its config.json; vocabulary: the folder with its files."""
    memory = _Memory(model, vocabulary / "in memory")
    return Checkpoint(model.config, fields, vocabulary, {name: (memory, name) for name in memory.tensors})
