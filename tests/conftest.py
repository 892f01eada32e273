"""Fixtures, and a closing report that says which outside references took part."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import quick
from models import CONFIGS, write_model
from references import DATA, PUBLISHED, forget_for_garbage_collection, is_installed

from gpt2c import bindings

# No test, and no process that one starts, sees the user's own cache of packed files.
_CACHE = tempfile.TemporaryDirectory(prefix="gpt2c-cache-")
os.environ["GPT2C_CACHE"] = _CACHE.name

# Threads of torch that spin at a barrier slow down everything else. Torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    quick.mark(items)


def pytest_collection_finish() -> None:
    forget_for_garbage_collection()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What a quick run took, and in a line each which outside references this run was compared with."""
    if "quick" in config.getoption("markexpr"):
        terminalreporter.section("quick")
        for line in quick.report(terminalreporter.stats):
            terminalreporter.line(line)
    lines = [
        f"{name}: {'present' if is_installed(name) else 'NOT INSTALLED, not compared with'}"
        for name in ("torch", "transformers", "tokenizers", "tiktoken", "safetensors")
    ]
    lines.append(
        f"texts and the published vocabulary: {'present' if DATA.is_dir() else 'NOT THERE'} (GPT2C_DATA)"
    )
    lines.append(f"published weights: {'present' if PUBLISHED else 'NOT THERE'} (GPT2C_GPT2_DIR)")
    terminalreporter.section("outside references")
    for line in lines:
        terminalreporter.line(line)
