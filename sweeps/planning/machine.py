"""What this machine has for trials."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def machine_cpus() -> int:
    """Cores this process may use: its affinity, within the container's share."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, round(int(quota) / int(period))))


def machine_gpus() -> int:
    """GPUs that torch sees."""
    return torch.cuda.device_count()
