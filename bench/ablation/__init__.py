"""The six incremental switches and the GELU table: bench/test_ablation.py."""
