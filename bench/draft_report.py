"""What a trained draft gains on the embedded model: accepted guesses and tokens per second.

    python bench/draft_report.py DRAFT              # under a minute; writes results/embedded_draft.*
    python bench/draft_report.py DRAFT --quick      # prints

DRAFT is the folder of a model with the same vocabulary, such as WORK/draft/model of tools/make_assets.py.
Measures greedy decoding and the default sampling of `gpt2c run`, with each weight format for both models.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import gpt2c
from generation.trained_draft import FORMATS, SAMPLED, measure, page
from gpt2c.errors import Gpt2cError
from shared import harness
from shared.checkout import RESULTS, ROOT


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("draft", metavar="DRAFT", help="folder of the draft")
    parser.add_argument("--model", help="a model to use instead of the embedded one")
    parser.add_argument("--quick", action="store_true", help="16 new tokens, one round; prints")
    args = parser.parse_args()
    n_new, rounds = (16, 1) if args.quick else (96, 5)
    words = [Path(args.draft).name, *sys.argv[2:]]
    origin = harness.Origin.here(words, ROOT, "python bench/draft_report.py")
    cases = []
    try:
        for weights in FORMATS:
            loaded = partial(gpt2c.load, weights=weights)
            with loaded(args.model) as model, loaded(args.draft) as draft:
                sizes = model.config.n_parameters, draft.config.n_parameters
                for name, how in (("greedy", {}), ("sampled", SAMPLED)):
                    found = measure(model, draft, how, n_new, rounds)
                    cases.append({"weights": weights, "how": name, **found})
    except Gpt2cError as error:
        print(f"draft_report: {error}", file=sys.stderr)
        return 1
    record = {"origin": origin, "n_new": n_new, "n_parameters": sizes[0], "n_draft_parameters": sizes[1]}
    record["cases"] = cases
    if args.quick:
        print(page(record))
    else:
        harness.write_results(RESULTS, "embedded_draft", record, page(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
