"""Writers of models: a folder in Hugging Face layout, or a GGUF file.

A writer takes a `Checkpoint` and writes one tensor after the other, so a whole model is never in memory.
"""

from __future__ import annotations

from collections.abc import Callable

from .dtypes import DTYPES, encode
from .gguf import write_gguf
from .huggingface import write_folder

__all__ = ["DTYPES", "Progress", "encode", "write_folder", "write_gguf"]

Progress = Callable[[int, int], None]
"""Called with the number of bytes written so far and the total number of bytes."""
