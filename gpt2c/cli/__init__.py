"""The subcommands of `gpt2c`, one module each; main.py lists them.

Each module has HELP, add_arguments and run. gpt2c/run.py makes `run` available as `python -m gpt2c.run`.
"""
