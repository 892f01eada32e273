"""Quantization: writing models whose matrices are stored in 8 or 4 bits."""
