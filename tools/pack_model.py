"""Write a model as a packed file, for native/examples/generate.c.

    python tools/pack_model.py [MODEL] -o FILE [--opts LIST]

MODEL is what gpt2c.load takes (default: the embedded model). Only the options `aligned`, `head_screen` and
the weight formats change the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gpt2c


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", nargs="?", help="folder, weight file or hub id (default: the embedded model)"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE")
    parser.add_argument("--opts", default="all", help="'none' for row-major weights (default: all)")
    args = parser.parse_args()
    try:
        with gpt2c.load(args.model, opts=args.opts) as model:
            model.save_packed(args.output, b"")
    except gpt2c.Gpt2cError as error:
        print(f"pack_model: error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {args.output}, {args.output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
