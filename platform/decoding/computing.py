"""How a trained model computes: without gradients, in the precision of evaluation; and what it takes of the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.precision import Precision, used_precision


@contextmanager
def computing(device: torch.device, precision: Precision = "auto", *, reuse_casts: bool = True) -> Iterator[None]:
    """Within it: no gradients, and autocast as a training run's evaluation has it.

    It is not torch's inference mode, in which a memory that takes its own gradients by autograd could not learn.

    Args:
        reuse_casts: whether a weight is cast once within this context. A recorded CUDA graph must cast for itself: what
            was cast before it is gone when it is replayed.
    """
    bfloat16 = used_precision(precision, device) == "bfloat16"
    cast = torch.autocast(device.type, torch.bfloat16, cache_enabled=reuse_casts) if bfloat16 else nullcontext()
    with torch.no_grad(), cast:
        yield


def wait_for(device: torch.device) -> None:
    """Until everything launched is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class DeviceMemory:
    """Bytes in use: on a GPU what torch holds in tensors, on a CPU what the process holds."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begin()

    def begin(self) -> None:
        """Forgets the peak so far."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def now(self) -> int:
        """In use now."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        import psutil

        return int(psutil.Process().memory_info().rss)

    @property
    def peak(self) -> int | None:
        """The most since `begin`; None: a CPU's peak within a stretch is not known."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the CPU had no room left for a tensor."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def device_called(name: str) -> torch.device:
    """auto, cpu or cuda as a device; auto: a GPU if there is one.

    Raises:
        ConfigError: it is none of them, or there is no GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(Problem(f"--device: expected auto, cpu or cuda, got '{name}'"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(Problem("--device cuda: torch finds no GPU; choose cpu"))
    on_gpu = name == "cuda" or (name == "auto" and torch.cuda.is_available())
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
