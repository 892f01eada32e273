"""Load and run the largest GPT-2 with random weights, and record the peak of the memory that this takes.

    python tools/check_large.py                                     gpt2-xl, 1.5 B parameters
    python tools/check_large.py --shape gpt2 --weights bf16         a smaller model, in one format

The model is written to a temporary folder (13 GB for gpt2-xl, its cache included). For each weight format,
one process loads it and generates, which packs the weights into the cache; a second process maps the packed
file. The peak is the maximum resident memory of the process, mapped pages included. It must be at most LIMITS
times the size of the weights. The table is written to bench/results/large.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from random_model import SHAPES, write_random_model

from gpt2c.cli.terminal import bar_of_bytes
from gpt2c.options import WEIGHTS

RESULT = Path(__file__).resolve().parent.parent / "bench" / "results" / "large.md"
LIMITS = {"f32": 1.2}  # times the size of the weights in memory
OTHER_LIMIT = 1.5  # of the formats that are not in LIMITS

CODE = """
import json, sys
import gpt2c
from gpt2c.cli.comparison_worker import peak_memory
with gpt2c.load(sys.argv[1], weights=sys.argv[2]) as model:
    done = model.generate([1, 2, 3, 4, 5], 4)
    print(json.dumps({
        "ids": done.ids,
        "weights": model.weight_bytes,
        "parameters": model.config.n_parameters,
        "peak": peak_memory(),
    }))
"""


def run(folder: Path, weights: str, cache: Path) -> dict[str, float]:
    """Load and generate in a new process; returns the values that CODE prints."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), weights],
        env={**os.environ, "GPT2C_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{weights}: {done.stderr.strip()[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-xl")
    parser.add_argument("--weights", choices=WEIGHTS, nargs="+", default=list(WEIGHTS))
    args = parser.parse_args()
    rows, good = [], True
    with tempfile.TemporaryDirectory() as base:
        folder, cache = Path(base) / args.shape, Path(base) / "cache"
        write_random_model(folder, args.shape, seed=1, progress=bar_of_bytes())
        for weights in args.weights:
            first, second = (run(folder, weights, cache) for _ in range(2))
            for name, result in (("packed", first), ("mapped", second)):
                times = result["peak"] / result["weights"]
                good &= times <= LIMITS.get(weights, OTHER_LIMIT) and result["ids"] == first["ids"]
                gigabytes = f"{result['weights'] / 1e9:.2f} GB | {result['peak'] / 1e9:.2f} GB"
                rows.append(f"| {weights} | {name} | {gigabytes} | {times:.2f} |")
                print(rows[-1], flush=True)
            for file in cache.iterdir():
                file.unlink()
    n_millions = first["parameters"] / 1e6
    lines = [
        "# Memory of a large model",
        "",
        "This page records the peak memory of a process that loads a large model and generates 4 tokens.",
        f"`python tools/check_large.py --shape {args.shape} --weights {' '.join(args.weights)}` wrote it.",
        f"The model has {n_millions:.0f} M random parameters, stored in float32. In the rows `packed`,",
        "the load converts the floats to the format and stores the result in the cache. In the rows",
        "`mapped`, it finds the result there.",
        "",
        "| weights | load | weights in memory | peak of the process | peak / weights |",
        "|---|---|---|---|---|",
        *rows,
    ]
    RESULT.write_text("\n".join(lines) + "\n")
    print("within the limits" if good else "BEYOND the limits")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
