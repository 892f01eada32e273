"""GPT-2 in NumPy with linear layers in Numba, which multiply a quantized model's integers directly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..checkpoints.checkpoint import Checkpoint, TensorSpec
from . import numpy as numpy_backend
from .numba_kernels import STORED, Linear, LinearF32
from .numpy import Floats


class Backend(numpy_backend.Backend):
    """See `cached.Backend`. A model stored in q8 or q4 is computed in that format, any other in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._configure(checkpoint.config)
        self.weights = checkpoint.quantization or "f32"
        specs = list(checkpoint.specs())
        matrices = [spec for spec in specs if spec.is_matrix]
        self._p = {spec.name: checkpoint.array(spec) for spec in specs if spec not in matrices}
        self._linears = {spec.name: _linear_of(checkpoint, spec) for spec in matrices}
        self._head = self._linears.get("lm_head.weight", self._linears["wte.weight"])
        vectors = sum(array.nbytes for array in self._p.values())
        self.weight_bytes = vectors + sum(linear.weight_bytes for linear in self._linears.values())

    def _embed(self, ids: NDArray[np.int32]) -> Floats:
        return self._linears["wte.weight"].columns(ids.tolist())

    def logits(self, hidden: Floats) -> Floats:
        return self._head(hidden)

    def _linear(self, x: Floats, name: str) -> Floats:
        return self._linears[f"{name}.weight"](x) + self._p[f"{name}.bias"]


def _linear_of(checkpoint: Checkpoint, spec: TensorSpec) -> Linear:
    stored = checkpoint.quantized(spec.kind, spec.layer)
    if stored is not None:
        format, raw = stored
        n_in, n_out = spec.shape[::-1] if spec.is_transposed else spec.shape
        return STORED[format](np.array(np.frombuffer(raw, np.uint8)), n_in, n_out)
    weight = checkpoint.array(spec)
    return LinearF32(weight.T if spec.is_transposed else weight)
