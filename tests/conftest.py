"""Fixtures, and a closing report that says which outside references took part."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from models import CONFIGS, write_model
from references import DATA, PUBLISHED

from gpt2c import bindings

# No test, and no process that one starts, sees the user's own cache of packed files.
_CACHE = tempfile.TemporaryDirectory(prefix="gpt2c-cache-")
os.environ["GPT2C_CACHE"] = _CACHE.name

# A shell has its background jobs ignore Ctrl-C, and whatever they start inherits that: tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=bindings.NAMES)
def binding(request: pytest.FixtureRequest) -> str:
    """Each binding in turn. One that is not built fails the test: it is never skipped."""
    name: str = request.param
    bindings.load(name)
    return name


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function: the name of a small random model -> its folder."""
    base = tmp_path_factory.mktemp("models")
    folders = {name: write_model(base / name, name) for name in CONFIGS}
    return folders.__getitem__


@pytest.fixture(scope="session")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of GPT-2's own shape, 124,439,808 parameters."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
    try:
        from random_model import write_random_model
    finally:
        del sys.path[0]
    folder = tmp_path_factory.mktemp("gpt2-random")
    write_random_model(folder, "gpt2", seed=1, force=True)
    return folder


def pytest_collection_finish() -> None:
    """Leave what was imported and collected, torch above all, out of every later garbage collection.

    Nothing of it is freed before the end, and the tests that count bytes collect garbage first.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in a line each which outside references this run was compared with."""
    lines = [
        f"{name}: {'present' if importlib.util.find_spec(name) else 'NOT INSTALLED, not compared with'}"
        for name in ("torch", "transformers", "tokenizers", "tiktoken", "safetensors")
    ]
    lines.append(
        f"texts and the published vocabulary: {'present' if DATA.is_dir() else 'NOT THERE'} (GPT2C_DATA)"
    )
    lines.append(f"published weights: {'present' if PUBLISHED else 'NOT THERE'} (GPT2C_GPT2_DIR)")
    terminalreporter.section("outside references")
    for line in lines:
        terminalreporter.line(line)
