"""What q8 and q4 cost and save: bench/quantization_report.py."""
