"""What tests compare with, or need, that may be absent. A skip says what to install or to set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

EXTRAS = {
    "torch": "parity",
    "transformers": "parity",
    "tokenizers": "test",
    "gguf": "gguf",
    "huggingface_hub": "hub",
    "numba": "numba",
    "lm_eval": "eval",
    "setuptools": "dev",
    "Cython": "dev",
}
DATA = Path(os.environ.get("GPT2C_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
PUBLISHED = os.environ.get("GPT2C_GPT2_DIR")


def install_hint(*packages: str) -> str:
    """Why a test is skipped without these."""
    extras = ",".join(dict.fromkeys(EXTRAS[name] for name in packages))
    return f"{' and '.join(packages)} not installed: pip install 'gpt2c[{extras}]'"


def optional(name: str) -> Any:
    """A module of a package that only tests or an extra need; skips without it."""
    return pytest.importorskip(name, reason=install_hint(name.split(".")[0]))


def published_vocabulary() -> Path:
    """The folder with GPT-2's vocab.json and merges.txt; skips without it."""
    folder = DATA / "gpt2"
    if not (folder / "vocab.json").exists():
        pytest.skip(f"no {folder / 'vocab.json'}: set GPT2C_DATA to a folder with gpt2/vocab.json in it")
    return folder


def published_weights() -> str:
    """The folder with GPT-2's weights; skips the module without it."""
    if not PUBLISHED:
        pytest.skip("set GPT2C_GPT2_DIR to a folder with the published weights", allow_module_level=True)
    return PUBLISHED
