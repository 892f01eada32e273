"""The subcommands of `gpt2c`, a module each: HELP, add_arguments(parser) and run(args).

`run` itself is gpt2c/run.py, which is a command of its own, too.
"""
