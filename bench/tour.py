"""Write docs/tour.md from docs/tour.in.md and bench/results/ladder.json.

python bench/tour.py
"""

from __future__ import annotations

from ladder import tour

if __name__ == "__main__":
    tour.write()
