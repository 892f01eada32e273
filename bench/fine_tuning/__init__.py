"""Fine-tuning the embedded model: bench/training_report.py."""
