"""Ranks: one process is a world of size 1, and code that asks these functions runs unchanged on many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and talks to people."""
    return rank() == 0


def share(items: Iterable[T]) -> Iterator[T]:
    """This rank's items: every `world_size`-th, from its own number on."""
    return islice(items, rank(), None, world_size())


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Element-wise sum over all ranks, in float64; every rank gets it."""
    if world_size() == 1:
        return [float(value) for value in values]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.tolist()


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Joins the group that torchrun describes in the environment, if it does; leaves it at the end."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Returns when every rank has called it."""
    if world_size() > 1:
        dist.barrier()
