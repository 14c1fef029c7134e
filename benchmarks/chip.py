"""The chip that a benchmark runs on: its name, its software, and what it reaches at most, measured in the same run."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from titanlab.benchmarks.timing import time_call
from titanlab.platform.redaction import redacted

PACKAGES = ("titanlab", "torch", "triton", "titans-pytorch", "fla-core", "flash-attn", "flash-attn-4", "liger-kernel")
GIGA, TERA = 1e9, 1e12


class Chip(NamedTuple):
    """Where it runs."""

    name: str
    kind: str
    """cuda | cpu."""
    capability: str
    """Compute capability of a GPU; of a CPU how many threads torch uses."""
    memory_gb: float | None

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})"


class Ceilings(NamedTuple):
    """The most that plain PyTorch reached in this run; a share of it is said beside each figure."""

    matrix_tflops: float
    """A large matrix product."""
    matrix_dtype: str
    copy_gb_per_s: float
    """A large copy, bytes read and bytes written."""

    def __str__(self) -> str:
        matrix = f"matrix products {self.matrix_tflops:,.3g} TFLOP/s in {self.matrix_dtype}"
        return f"{matrix}, copies {self.copy_gb_per_s:,.0f} GB/s"


def best_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def chip_of(device: torch.device) -> Chip:
    """What a device is."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return Chip(found.name, "cuda", f"compute capability {found.major}.{found.minor}", found.total_memory / GIGA)
    threads = torch.get_num_threads()
    return Chip(_processor(), "cpu", f"{threads} thread{'s' if threads > 1 else ''}", None)


def versions() -> dict[str, str]:
    """Of Python, CUDA, and of those packages that are installed here and matter to speed."""
    found = {"python": platform.python_version(), "cuda": torch.version.cuda or "none"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def measure_ceilings(device: torch.device, *, seconds: float = 0.5) -> Ceilings:
    """Multiplies and copies large tensors: bfloat16 on a GPU, float32 on a CPU.

    Args:
        seconds: spent on each, about.
    """
    on_gpu = device.type == "cuda"
    dtype, width, copied = (torch.bfloat16, 8192, 1 << 29) if on_gpu else (torch.float32, 768, 1 << 24)
    a, b = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    product = time_call(lambda: a @ b, device, seconds=seconds)
    source = torch.zeros(copied, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = time_call(lambda: target.copy_(source), device, seconds=seconds)
    tflops = 2 * width**3 / (product.min_ms / 1e3) / TERA
    return Ceilings(tflops, str(dtype).removeprefix("torch."), 2 * copied / (copy.min_ms / 1e3) / GIGA)


def facts_of(device: torch.device, settings: Mapping[str, Any], ceilings: Ceilings | None = None) -> dict[str, Any]:
    """What makes a table readable in a year: command, date, chip, versions, settings, and the chip's ceilings."""
    return {
        "command": redacted(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "chip": chip_of(device)._asdict(),
        "versions": versions(),
        "settings": dict(settings),
        "ceilings": None if ceilings is None else ceilings._asdict(),
    }


def _processor() -> str:
    """The CPU's name."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
