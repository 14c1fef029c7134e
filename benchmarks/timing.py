"""How long a call takes: CUDA events and a flushed cache on a GPU, the wall clock on a CPU."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

FEWEST, MOST = 3, 100
FLUSHED_BYTES = 1 << 28
"""More than any GPU's second-level cache: what the last call left there must not help the next one."""


class Timing(NamedTuple):
    """Of one call."""

    median_ms: float
    min_ms: float
    repeats: int
    first_s: float
    """The very first call: compilation and autotuning are in it."""
    peak_gb: float | None
    """The most that torch held during a call, its inputs included; None on a CPU."""


def time_call(call: Callable[[], Any], device: torch.device, *, seconds: float = 1.0) -> Timing:
    """Calls again and again for about so many seconds: three times at least, once if a single call takes longer.

    Args:
        call: launches the work on `device`; its result is thrown away.
        device: where it runs.
        seconds: of timed calls, about; the first call and a warm-up come before it.
    """
    first_s = _wall(call, device)
    free_memory(device)
    begin_peak(device)
    once = _wall(call, device)
    peak_gb = peak_of(device)
    repeats = 1 if once > seconds else max(FEWEST, min(MOST, round(seconds / max(once, 1e-6))))
    times = _on_gpu(call, repeats) if device.type == "cuda" else [_wall(call, device) * 1e3 for _ in range(repeats)]
    return Timing(statistics.median(times), min(times), repeats, first_s, peak_gb)


def begin_peak(device: torch.device) -> None:
    """From here on `peak_of` counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_of(device: torch.device) -> float | None:
    """GB of the most memory that was in use, or was free but for another stream that was not seen to be done with it
    (a recording sees no stream done before its end); None on a CPU."""
    return torch.cuda.memory_stats(device)["active_bytes.all.peak"] / 1e9 if device.type == "cuda" else None


def free_memory(device: torch.device) -> None:
    """Gives back what nobody refers to any more; a CPU's memory counts nowhere here."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _wall(call: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _on_gpu(call: Callable[[], Any], repeats: int) -> list[float]:
    """Milliseconds of each call. Where launching takes longer than computing, the waiting is in them."""
    cache = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in pairs:
        cache.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]
