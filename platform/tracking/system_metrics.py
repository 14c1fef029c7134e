"""What a trial takes of its machine, by the prefix under which MLflow draws such metrics over time."""

from __future__ import annotations

import sys
import time

import psutil

PREFIX = "system/"
MEGABYTE = 1 << 20


class SystemMeter:
    """Measures this process; cheap enough for every batch of metrics, and seldom enough to fill no database.

    Args:
        pause: seconds that two measurements are apart.
    """

    def __init__(self, pause: float = 10.0) -> None:
        self.pause = pause
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first one says nothing: it has no time before it
        self._last = -pause

    def read(self) -> dict[str, float]:
        """Memory in MB and load in percent of one core; nothing if the last measurement is too fresh."""
        now = time.monotonic()
        if now - self._last < self.pause:
            return {}
        self._last = now
        return {
            f"{PREFIX}process_memory_megabytes": self._process.memory_info().rss / MEGABYTE,
            f"{PREFIX}process_cpu_percentage": self._process.cpu_percent(),
            f"{PREFIX}machine_memory_percentage": psutil.virtual_memory().percent,
            **_gpu(),
        }


def _gpu() -> dict[str, float]:
    """Of the process's GPU, if it uses one; asking must neither import torch nor start CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        f"{PREFIX}gpu_memory_megabytes": torch.cuda.memory_reserved() / MEGABYTE,
        f"{PREFIX}gpu_memory_peak_megabytes": torch.cuda.max_memory_allocated() / MEGABYTE,
    }
