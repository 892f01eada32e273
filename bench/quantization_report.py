"""Write docs/quantization.md: what q8 and q4 cost in accuracy and save in memory and time.

    python bench/quantization_report.py                    # both halves, on an idle machine
    python bench/quantization_report.py --only accuracy    # one of them; needs the texts of $GPT2C_DATA
    python bench/quantization_report.py --only timing

Accuracy takes a few minutes, timing two. Each writes its half of bench/results/quantization.json, then the
page and its pictures are made from the whole file.
With the published weights in $GPT2C_GPT2_DIR it measures them, too, on WikiText-2.
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
    parser.add_argument("--only", choices=("accuracy", "timing"), help="measure this half (default: both)")
    parser.add_argument("--rounds", type=int, default=7, help="of each timing (default 7)")
    parser.add_argument(
        "--windows", type=int, default=100, help="of the text, spread evenly (default 100; 0 is all)"
    )
    parser.add_argument("--draw", action="store_true", help="measure nothing: write the page anew")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where quantization.json is")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where quantization.md goes")
    args = parser.parse_args(argv)
    path = args.results / "quantization.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    measured = {"accuracy": lambda: all_accuracy(args.windows), "timing": lambda: timing(args.rounds)}
    words = sys.argv[1:] if argv is None else argv
    # Once: what the first half writes makes the checkout differ from its commit.
    origin = harness.Origin.here(words, ROOT, "python bench/quantization_report.py")
    for part in () if args.draw else measured if args.only is None else (args.only,):
        record[part] = {"origin": origin.lines(), "models": measured[part]()}
        harness.write_atomic(path, harness.as_json(record))
    draw(record, args.docs / "quantization", slug_of)
    harness.write_atomic(args.docs / "quantization.md", page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
