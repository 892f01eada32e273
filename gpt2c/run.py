"""Entry point of `python -m gpt2c.run`, which does the same as `gpt2c run`."""

from __future__ import annotations

import sys

from .cli.run import main

if __name__ == "__main__":
    sys.exit(main())
