"""Compare gpt2c with other engines on GPT-2's 124M shape, pair by pair. Writes results/engines.*.

    $PEERS_DIR/venv/bin/python bench/engines_report.py           # 7 minutes on an idle machine
    $PEERS_DIR/venv/bin/python bench/engines_report.py --quick   # one round of the first pair; prints

bench/peers/setup.sh creates that environment, with the other engines and their models; gpt2c must be
installed in it or be in PYTHONPATH. bench/peers/bench.py measures each pair: both engines are loaded, each in
its own process, and measured alternately.
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
    parser.add_argument("--quick", action="store_true", help="one pair, one round; prints")
    args = parser.parse_args()
    if usable_cores() < 2:
        parser.error("the comparison uses two threads, but this process may use only one core")
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
