"""A few real steps of a run, to know what a step takes; nothing is evaluated and nothing written."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from titanlab.platform.run_config import RunConfig
from titanlab.platform.training.device import choose_device, own_random_state, seed_step
from titanlab.platform.training.step import TrainingStep

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class MeasuredStep(NamedTuple):
    """What one step took."""

    seconds: float
    peak_bytes: int
    """The most memory so far: of this process on a CPU, libraries included; reserved by torch on a GPU."""


def measured_steps(config: RunConfig, steps: int) -> Iterator[MeasuredStep]:
    """Takes the first steps of a run; the first one takes longer, as it sets things up.

    Raises:
        ConfigError: device or batch size do not fit the machine.
    """
    device = choose_device(config.train)
    _forget_peak(device)
    with own_random_state(device):
        torch.manual_seed(config.train.seed)
        model = config.model.build(config.task.vocab_size).to(device).train()
        take_step = TrainingStep(model, config.train, device)
        batches = config.task.build().train_batches(config.train.seed, config.train.batch_size)
        for step in range(1, steps + 1):
            began = time.perf_counter()
            batch = next(batches)
            seed_step(config.train.seed, step)
            if step == 1:
                take_step.prepare(batch)
            take_step(batch, config.train.learning_rate).nats.item()  # waits for the device
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            yield MeasuredStep(time.perf_counter() - began, _peak(device))


def _forget_peak(device: torch.device) -> None:
    """Counts from what is in use now, where the system can."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        try:
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed
            _RESET.write_text("5")
        except (AttributeError, OSError):
            return  # another C library, or no right to reset it: the peak of the process as a whole is told then


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource  # not on every system

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
