"""Where a run computes and in which precision, and random numbers that depend on the step alone."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec

import torch

from titanlab.platform.distributed import rank, world_size
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.precision import used_precision
from titanlab.platform.run_config import TrainConfig


def choose_device(config: TrainConfig) -> torch.device:
    """The device of this process: under torchrun, each rank takes the GPU of its local number.

    Raises:
        ConfigError: a GPU is asked for and there is none for this rank.
    """
    count = torch.cuda.device_count()
    if config.device == "cpu" or (config.device == "auto" and count == 0):
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        found = (
            "torch finds no GPU" if count == 0 else f"rank {index} of this host needs a GPU of its own, it has {count}"
        )
        raise ConfigError(Problem(f"{found}; choose cpu, or start fewer ranks", "train.device"))
    return torch.device("cuda", index)


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """The context in which the model computes: bfloat16 autocast, or nothing for float32."""
    bfloat16 = used_precision(config.precision, device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()


def fuses_kernels(config: TrainConfig, device: torch.device) -> bool:
    """Whether torch.compile is to fuse what it can.

    Raises:
        ConfigError: it is asked for and cannot work here.
    """
    missing = _missing_compiler(device) if config.compile else ""
    if missing:
        raise ConfigError(Problem(f"torch.compile needs {missing}; install it, or choose false", "train.compile"))
    return config.compile


def _missing_compiler(device: torch.device) -> str:
    """What torch.compile needs and does not find."""
    if device.type == "cuda" and find_spec("triton") is None:
        return "Triton on a GPU (pip install triton)"
    named = os.environ.get("CXX") or os.environ.get("CC")
    return "" if named or any(map(shutil.which, ("c++", "g++", "clang++", "gcc", "cc"))) else "a C++ compiler (g++)"


def check_recordable(device: torch.device) -> None:
    """Refuses `cuda_graph` where there is no graph to record.

    Raises:
        ConfigError: without a GPU, or with several ranks.
    """
    if device.type == "cuda" and world_size() == 1:
        return
    found = f"{world_size()} ranks train together" if world_size() > 1 else f"this run is on {device.type}"
    raise ConfigError(Problem(f"needs one process with one CUDA device, and {found}; leave it off", "train.cuda_graph"))


def check_wavefront(device: torch.device) -> None:
    """Refuses `wavefront` where ranks would add up gradients that come from several streams, which was not tried.

    Raises:
        ConfigError: with several ranks, each on a GPU.
    """
    if device.type == "cuda" and world_size() > 1:
        message = f"needs one process, and {world_size()} ranks train together; choose 0"
        raise ConfigError(Problem(message, "train.wavefront"))


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside leaves torch's global random state as it was."""
    with torch.random.fork_rng([device.index] if device.type == "cuda" else []):
        yield


def seed_step(seed: int, step: int) -> None:
    """Seeds torch from (seed, step, rank): a resumed run draws what it would have drawn, with no state to save."""
    text = f"{seed}/{step}/{rank()}".encode()
    torch.manual_seed(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))
