"""Coverage-guided fuzzing (Atheris) of everything that reads a model's files. Run by tools/fuzz.py.

The first byte selects the file that the remaining bytes are; the other files are valid. Loading must
succeed or raise one of gpt2c's errors with a message of one line. What is loaded must be readable to its
last byte, and a safetensors file that gpt2c accepts must be one that the safetensors package accepts, too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gpt2c"]):
    from gpt2c.checkpoints.checkpoint import load_checkpoint
    from gpt2c.checkpoints.readers import gguf, llmc, safetensors  # noqa: F401 (instrumented here or never)
    from gpt2c.errors import Gpt2cError

import numpy as np
import safetensors as package

CONFIG = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 3, "vocab_size": 5}
BASE = Path(tempfile.mkdtemp(prefix="gpt2c-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))

# Selected by the first byte: the file that the remaining bytes are, and the format that config.json names.
FILES = (
    ("model.safetensors", None),
    ("config.json", None),
    ("x.gguf", None),
    ("x.bin", None),
    ("model.safetensors.index.json", None),
    ("model.safetensors", "q8"),
    ("model.safetensors", "q4"),
)


def good_safetensors() -> bytes:
    seeds = Path(__file__).parent / "corpus" / "loader"
    return (seeds / "safetensors").read_bytes()[1:]


def one_input(data: bytes) -> None:
    if not data:
        return
    name, format = FILES[data[0] % len(FILES)]
    for file in BASE.iterdir():
        file.unlink()
    about = {"quantization": {"format": format, "version": 1}} if format else {}
    (BASE / "config.json").write_text(json.dumps({**CONFIG, **about}))
    if name == "model.safetensors.index.json":
        (BASE / "a.safetensors").write_bytes(GOOD)
    elif name == "config.json":
        (BASE / "model.safetensors").write_bytes(GOOD)
    (BASE / name).write_bytes(data[1:])
    try:
        with load_checkpoint(BASE / name if name.startswith("x.") else BASE) as checkpoint:
            for spec in checkpoint.specs():
                array = checkpoint.array(spec)
                assert array.shape == spec.shape
                if format and spec.is_matrix:
                    assert np.isfinite(array).all()
            checkpoint.fingerprints()
            if checkpoint.own_vocabulary:
                assert all(isinstance(token, str) for token in checkpoint.own_vocabulary.ids)
    except Gpt2cError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        if name == "model.safetensors":
            package.deserialize(data[1:])


GOOD = good_safetensors()
atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
