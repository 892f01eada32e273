"""What studies share: harness, checkout, greedy runs, compiled C, the machine's limits."""
