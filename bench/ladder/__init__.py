"""From naive C to the fastest engine, an option at a time: bench/test_ladder.py, bench/tour.py."""
