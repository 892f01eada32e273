"""gpt2c: GPT-2 on the CPU: plain C kernels and a small Python library.

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

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`, which is looked up when it is asked for."""
    if name == "__version__":
        return bindings.version()
    raise AttributeError(f"module 'gpt2c' has no attribute {name!r}")


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
    """Describe this installation and what it can run on this machine.

    binding: "cython", "cffi" or "auto". The keys of the result:

    version         of the C core
    binding         the binding asked for; for "auto", the one that it selects
    bindings        the bindings that are built
    isa             the default instruction set
    isas_compiled   all instruction sets that are compiled in, from slow to fast
    isas_supported  those of them that this machine can run, from slow to fast
    threads         the number of cores that this process may use

    Raises OptionError for an unknown binding, BackendUnavailable for one that is not built.
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
