"""New Python processes, for what a process prints from its start to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gpt2c

INSTALLED = Path(gpt2c.__file__).resolve().parent.parent  # the package that this process tests
NO_HANG = 120  # seconds; far beyond what any of these takes
RUN = ["-m", "gpt2c.run", "--max-new-tokens", "3"]


def python(*argv, path, cwd, **environment):
    """Runs Python, which imports from `path` first."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GPT2C_", "HF_"))}
    return subprocess.run(
        [sys.executable, *argv],
        env={**clean, "PYTHONPATH": str(path), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=NO_HANG,
    )
