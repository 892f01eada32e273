"""What tests compare with or need, and may be absent: only here do they skip, and say what to install.

Packages, data and abilities of the operating system are all asked for here. What the `test` extra installs
may be absent too, except for pytest, Hypothesis and safetensors. A binding is never skipped: one that is not
built fails.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

INSTALLED_BY = {
    "torch": "gpt2c[parity]",
    "transformers": "gpt2c[parity]",
    "tokenizers": "gpt2c[test]",
    "gguf": "gpt2c[gguf]",
    "rich": "gpt2c[progress]",
    "huggingface_hub": "gpt2c[hub]",
    "numba": "gpt2c[numba]",
    "matplotlib": "gpt2c[plot]",
    "lm_eval": "gpt2c[eval]",
    "accelerate": "lm_eval[hf]",
    "setuptools": "gpt2c[dev]",
    "Cython": "gpt2c[dev]",
}
DATA = Path(os.environ.get("GPT2C_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
PUBLISHED = os.environ.get("GPT2C_GPT2_DIR")


# ---- Packages ----


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def install_hint(*packages: str) -> str:
    """Why a test is skipped without these."""
    sources = " ".join(repr(source) for source in dict.fromkeys(INSTALLED_BY[name] for name in packages))
    return f"{' and '.join(packages)} not installed: pip install {sources}"


def optional(name: str) -> Any:
    """The module of that name, of a package that not everybody has; skips without it."""
    is_new = name not in sys.modules
    module = pytest.importorskip(name, reason=install_hint(name.split(".")[0]))
    if is_new:
        forget_for_garbage_collection()
    return module


def forget_for_garbage_collection() -> None:
    """Let no later garbage collection look at what is there now: with torch imported, each takes 0.2 s.

    Garbage is collected first, and what is in use is freed as before when its last reference goes.
    """
    gc.collect()
    gc.freeze()


def needs(*packages: str) -> pytest.MarkDecorator:
    """A mark that skips a test, or one of its parameters, while any of the packages is missing."""
    missing = [package for package in packages if not is_installed(package)]
    return pytest.mark.skipif(bool(missing), reason=install_hint(*missing))


# ---- Data ----


def published_vocabulary() -> Path:
    """The folder with GPT-2's vocab.json and merges.txt; skips without it."""
    return published_data("gpt2/vocab.json").parent


def published_data(name: str) -> Path:
    """A file of the folder that GPT2C_DATA names; skips without it."""
    if not (DATA / name).exists():
        pytest.skip(f"no {DATA / name}: set GPT2C_DATA to a folder with {name} in it")
    return DATA / name


def published_weights() -> str:
    """The folder with GPT-2's weights; skips the module without it."""
    if not PUBLISHED:
        pytest.skip("set GPT2C_GPT2_DIR to a folder with the published weights", allow_module_level=True)
    return PUBLISHED


# ---- The machine, its operating system, and how Python was built ----


def readline() -> Any:
    return pytest.importorskip("readline", reason="this Python has no readline: install one built with it")


NEEDS_X86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="this test reads x86-64's instructions"
)
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork: use Linux")
NEEDS_DEV_FULL = pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="this system has no /dev/full: use Linux"
)
