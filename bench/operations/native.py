"""The compiled core with loops.c, which calls kernels in loops."""

from __future__ import annotations

from shared import native_library
from shared.native_library import Library

SIGNATURES = {
    "matrices_new": "p pnnin",
    "matrices_free": "- p",
    "packed_x_bytes": "n nn",
    "linear": "- ippppn n",
    "attention_new": "p ipnnnnn",
    "attention_free": "- p",
    "attention": "- pp n",
    "layernorm": "- ippppnnf n",
    "gelu": "- ippn n",
    "gelu_table": "- ippnp n",
    "softmax": "- ippnn n",
    "add": "- ipppn n",
    "argmax": "- ippn n",
}
"""Signatures of the functions of loops.c, written as in native_library.LIMITS."""


def build() -> Library:
    """Compile it, which takes some seconds. BuildFailed: with the compiler's message."""
    return native_library.build("bench/operations/loops.c", SIGNATURES)
