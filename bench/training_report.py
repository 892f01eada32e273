"""Write docs/training.md: fine-tune the embedded model on Tiny Shakespeare, and measure the result.

    python bench/training_report.py            # a few minutes on two CPU cores; writes docs/training.md
    python bench/training_report.py --quick    # six steps; prints the page

Runs the commands that the page shows on tinyshakespeare/input.txt in $GPT2C_DATA, and scores the model before
and after with `gpt2c.Model.score`. The template of the page is docs/training.in.md. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from fine_tuning.measure import QUICK, TRAIN, measure
from fine_tuning.report import page
from gpt2c.errors import Gpt2cError
from shared import harness
from shared.checkout import DOCS, RESULTS, ROOT


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="six steps; prints the page, writes nothing")
    args = parser.parse_args()
    origin = harness.Origin.here(sys.argv[1:], ROOT, "python bench/training_report.py")
    with tempfile.TemporaryDirectory() as base:
        try:
            record = {"origin": origin, **measure(Path(base), QUICK if args.quick else TRAIN)}
        except Gpt2cError as error:
            print(f"training_report: {error}", file=sys.stderr)
            return 1
        if args.quick:
            print(page(record))
            return 0
        (DOCS / "training").mkdir(exist_ok=True)
        shutil.copyfile(Path(base) / "run" / "loss.png", DOCS / "training" / "tinyshakespeare.png")
    harness.write_atomic(RESULTS / "training.json", harness.as_json(record))
    harness.write_atomic(DOCS / "training.md", page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
