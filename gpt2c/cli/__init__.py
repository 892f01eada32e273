"""The subcommands of `gpt2c`, listed in main.py: a module each, with HELP, add_arguments and run.

gpt2c/run.py makes `run` a command of its own.
"""
