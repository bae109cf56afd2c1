"""How many threads of a CPU one operator may take."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["default_threads"]

CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """Threads of one operator: all cores this process may use but one, which polls, plans and publishes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota_cores()) - 1)


def _quota_cores() -> int:
    """Whole cores that the container's CPU quota pays for (cgroup v2); a large number where there is none."""
    try:
        quota, period = CGROUP_CPU_MAX.read_text().split()
        return int(quota) // int(period)
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return 1 << 16
