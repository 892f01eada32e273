"""Compare the logits of all backends on a random model of GPT-2's own shape, 124,439,808 parameters.

    python tools/check_compare.py

Each backend runs in its own process, as `--compare` runs it. Every backend whose packages are installed must
run, and the logits of those that keep float32 weights must be within 1e-3 of the first one's. Takes half a
minute, 1 GB of disk while it runs, and up to 2 GB of memory.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from random_model import write_random_model

from gpt2c import backends
from gpt2c.backends import Choices
from gpt2c.cli.comparison import Silence, compare
from gpt2c.options import WEIGHTS

LIMIT = 1e-3
NEEDED = {"native", "numpy", "c_naive", "c_kv2"}  # whose packages are always installed
ROUNDING = {name for name, options in backends.PRESETS.items() if set(options) & set(WEIGHTS)}


def main() -> int:
    with tempfile.TemporaryDirectory() as base:
        os.environ["GPT2C_CACHE"] = str(Path(base) / "cache")  # not the user's
        folder = Path(base) / "gpt2"
        write_random_model(folder, "gpt2", seed=1)
        done = compare(str(folder), "The sea", 1, Choices(), Silence())
    for row in done.rows:
        within = done.logit_differences.get(row.backend)
        print(f"{row.backend:8} {row.reason if within is None else f'logits within {within:.1e}'}")
    ran = {row.backend for row in done.rows if row.status == "ok"}
    wrong = [f"{name} did not run" for name in sorted(NEEDED - ran)]
    wrong += [f"{row.backend} failed: {row.reason}" for row in done.rows if row.status == "failed"]
    wrong += [
        f"{name}'s logits are {done.logit_differences[name]:.2g} from those of {done.reference}"
        for name in sorted(ran - ROUNDING)
        if not done.logit_differences[name] < LIMIT
    ]
    for line in wrong:
        print(f"check_compare: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
