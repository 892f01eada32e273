"""gpt2c: GPT-2 on the CPU, in plain C kernels behind a small Python library.

import gpt2c
with gpt2c.load() as model:
    print(model.generate("Once upon a time", max_new_tokens=40).text)
"""

from __future__ import annotations

from typing import Any

from . import bindings, errors, kernels
from ._machine import usable_cores
from .config import ModelConfig
from .errors import *  # noqa: F403
from .generation.continuation import Beam, Completion, Stream, Timings
from .generation.sampling import TokenLogprobs
from .generation.scoring import Score
from .model import Model, load
from .options import OPTIONS, Plan
from .session import Session
from .trace import Trace

__version__ = bindings.version()

__all__ = [
    "OPTIONS",
    "Beam",
    "Completion",
    "Model",
    "ModelConfig",
    "Plan",
    "Score",
    "Session",
    "Stream",
    "Timings",
    "TokenLogprobs",
    "Trace",
    "build_info",
    "kernels",
    "load",
    *errors.__all__,
]


def build_info(binding: str = "auto") -> dict[str, Any]:
    """What this installation is, and what it can do on this machine.

    version; binding: the one that "auto" means here; bindings: those that are built; isa: the default
    instruction set; isas_compiled and isas_supported: from slow to fast; threads: as many as this process
    may use cores.
    """
    chosen = bindings.select(binding)
    isas = chosen.isas()
    supported = [name for name, _, ok in isas if ok]
    return {
        "version": chosen.version(),
        "binding": chosen.name,
        "bindings": bindings.available(),
        "isa": supported[-1],
        "isas_compiled": [name for name, compiled, _ in isas if compiled],
        "isas_supported": supported,
        "threads": usable_cores(),
    }
