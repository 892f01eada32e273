"""The number of CPU cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> int:
    """Return how many cores this process may use: at least 1.

    This is the smaller of the process's CPU affinity and the container's CPU quota, rounded up.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(cores, quota) if quota is not None else cores)


def _cgroup_quota(root: Path) -> int | None:
    """Return the control group's CPU quota in cores, rounded up, or None if there is no limit."""
    for read in (_quota_v2, _quota_v1):
        try:
            quota, period = read(root)
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            return -(-quota // period)
    return None


def _quota_v2(root: Path) -> tuple[int, int]:
    quota, period = (root / "cpu.max").read_text().split()
    return int(quota), int(period)  # "max" raises ValueError, which means no limit


def _quota_v1(root: Path) -> tuple[int, int]:
    quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()
    return int(quota), int((root / "cpu" / "cpu.cfs_period_us").read_text())
