"""gpt2c beside other engines, GPT-2's 124M shape, one pair at a time: writes results/engines.*.

    $PEERS_DIR/venv/bin/python bench/engines_report.py           # 7 minutes on an idle machine
    $PEERS_DIR/venv/bin/python bench/engines_report.py --quick   # a round of the first pair; prints

bench/peers/setup.sh makes that environment, with the other engines and their models; gpt2c must be installed
in it or in PYTHONPATH. Each pair is measured by bench/peers/bench.py: both engines loaded, each in a process
of its own, and asked in turn.
"""

from __future__ import annotations

import argparse
import sys

from gpt2c._machine import usable_cores
from other_engines.pairs import PAIRS, loaded, timed
from other_engines.report import page
from shared import harness
from shared.checkout import RESULTS, ROOT


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one pair, once; prints")
    args = parser.parse_args()
    if usable_cores() < 2:
        parser.error("these figures are for two threads, and this process may use one core")
    rounds, memory_rounds = (1, 0) if args.quick else (5, 3)
    origin = harness.Origin.here(sys.argv[1:], ROOT, "python bench/engines_report.py")
    try:
        times = list(timed(PAIRS[:1] if args.quick else PAIRS, rounds))
        memory = [] if args.quick else list(loaded(memory_rounds))
    except RuntimeError as error:
        print(f"engines_report: {error}", file=sys.stderr)
        return 1
    record = {"origin": origin, "rounds": rounds, "memory_rounds": memory_rounds}
    record |= {"times": times, "memory": memory}
    if args.quick:
        print(page(record))
    else:
        harness.write_results(RESULTS, "engines", record, page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
