"""The checkout that a benchmark runs in: its folders, and what benchmarks use of tools/ and tests/kernels.

Importing this module makes both of those folders importable.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
DOCS = ROOT / "docs"

sys.path += [str(ROOT / "tools"), str(ROOT / "tests" / "kernels")]

import kernel_oracle  # noqa: E402
import native_build  # noqa: E402
import random_model  # noqa: E402

__all__ = ["DOCS", "RESULTS", "ROOT", "kernel_oracle", "native_build", "random_model"]
