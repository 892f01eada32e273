"""Entry point of `python -m gpt2c`, which does the same as the command `gpt2c`."""

import sys

from .cli.main import main

sys.exit(main())
