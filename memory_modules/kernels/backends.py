"""Which backend computes a memory of one matrix: torch, or Triton's kernels where they can run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from titanlab.platform.errors import unknown_name

BACKENDS = ("auto", "torch", "triton")
CHECKED = (9, 0)
"""Compute capability of the H100; with Triton 3.6, see docs/performance.md."""
LONGEST_CHUNK = 64
HEAD_DIMS = (16, 64)
"""Wider heads make Triton 3.6 read beyond shared memory on an H100."""


def chosen_backend(backend: str, tensors: Sequence[Tensor], weights: Sequence[Tensor], chunk_size: int) -> str:
    """torch or triton for queries, keys and values [b, t, h, d] and the matrices of a memory.

    auto takes Triton for CUDA tensors that it can compute, on the GPUs that the kernels were checked on.

    Raises:
        ValueError: for an unknown name, and for triton where it cannot run, saying why.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: {unknown_name('backend', backend, BACKENDS)}")
    if backend == "torch" or (backend == "auto" and not _is_checked(tensors[0].device)):
        return "torch"
    obstacle = _obstacle(tensors, weights, chunk_size)
    if obstacle and backend == "triton":
        raise ValueError(f"backend: triton cannot run here: {obstacle}; expected torch, or auto, which chooses")
    return "torch" if obstacle else "triton"


def _is_checked(device: torch.device) -> bool:
    """Whether the kernels' numbers were checked on such a device; Triton has compiled others of them wrongly."""
    return device.type == "cuda" and _capability(device) == CHECKED


def _obstacle(tensors: Sequence[Tensor], weights: Sequence[Tensor], chunk_size: int) -> str:
    """Why Triton's kernels cannot run; empty if they can."""
    q, dim = tensors[0], tensors[0].shape[3]
    if len(weights) != 1:
        return f"the memory has {len(weights)} matrices and the kernels compute 1"
    if not HEAD_DIMS[0] <= dim <= HEAD_DIMS[1]:
        return f"the head dimension is {dim} and the kernels take {HEAD_DIMS[0]} to {HEAD_DIMS[1]}"
    if chunk_size > LONGEST_CHUNK:
        return f"chunk_size is {chunk_size} and the kernels take up to {LONGEST_CHUNK}"
    if any(x.dtype not in (torch.float32, torch.bfloat16, torch.float16) for x in (*tensors, *weights)):
        return f"{q.dtype} is no float32, bfloat16 or float16"
    if not _installed():
        return "Triton is not installed (pip install triton)"
    if q.is_cuda:
        major, minor = _capability(q.device)
        return "" if major >= 8 else f"compute capability {major}.{minor} is below 8.0"
    return "" if os.environ.get("TRITON_INTERPRET") == "1" else f"tensors are on {q.device.type}, not on a CUDA device"


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
