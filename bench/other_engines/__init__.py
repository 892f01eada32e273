"""gpt2c and other engines, pair by pair: bench/engines_report.py."""
