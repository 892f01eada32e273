"""Write docs/quantization.md: what q8 and q4 cost in accuracy and save in memory and time.

    python bench/quantization_report.py                    # both halves, on an idle machine
    python bench/quantization_report.py --only accuracy    # one half; needs the texts in $GPT2C_DATA
    python bench/quantization_report.py --only timing

Accuracy takes a few minutes, timing two. Each writes its half of bench/results/quantization.json; then the
page and its pictures are made from the whole file. If $GPT2C_GPT2_DIR has the published weights, they are
measured, too, on WikiText-2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from quantization.measure import all_accuracy, timing
from quantization.plots import draw
from quantization.report import page, slug_of
from shared import harness
from shared.checkout import DOCS, RESULTS, ROOT


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", choices=("accuracy", "timing"), help="measure only this half (default: both)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each timing (default 7)")
    parser.add_argument(
        "--windows", type=int, default=100, help="windows of the text, spread evenly (default 100; 0 for all)"
    )
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing; only rewrite the page and its pictures"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of quantization.json")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for quantization.md")
    args = parser.parse_args(argv)
    path = args.results / "quantization.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    measured = {"accuracy": lambda: all_accuracy(args.windows), "timing": lambda: timing(args.rounds)}
    words = sys.argv[1:] if argv is None else argv
    # Only once: the first half writes files, after which the checkout differs from its commit.
    origin = harness.Origin.here(words, ROOT, "python bench/quantization_report.py")
    for part in () if args.draw else measured if args.only is None else (args.only,):
        record[part] = {"origin": origin.lines(), "models": measured[part]()}
        harness.write_atomic(path, harness.as_json(record))
    draw(record, args.docs / "quantization", slug_of)
    harness.write_atomic(args.docs / "quantization.md", page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
