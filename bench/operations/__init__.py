"""Each operation of each instruction set: bench/test_kernels.py."""
