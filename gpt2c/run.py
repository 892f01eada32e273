"""`python -m gpt2c.run`: what `gpt2c run` does, as a module of its own."""

from __future__ import annotations

import sys

from .cli.run import main

if __name__ == "__main__":
    sys.exit(main())
