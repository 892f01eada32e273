"""Batches and drafts: bench/test_generation.py, bench/draft_report.py."""
