"""Models written to disk: a folder in Hugging Face layout, or a GGUF file.

A writer takes a `Checkpoint`, walks its tensors one by one, and so never holds a model whole.
"""

from __future__ import annotations

from collections.abc import Callable

from .dtypes import DTYPES, encode
from .gguf import write_gguf
from .huggingface import write_folder

__all__ = ["DTYPES", "Progress", "encode", "write_folder", "write_gguf"]

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and the bytes there will be."""
