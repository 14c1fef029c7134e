"""Which backend computes a memory: torch, or Triton's kernels where they can run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from titanlab.platform.errors import ConfigError, Problem, unknown_name

BACKENDS = ("auto", "torch", "triton")
CHECKED = (9, 0)
"""Compute capability of the H100 and the H200; with Triton 3.6, see docs/performance.md."""
MATRICES = 4
HIDDEN = 512
"""Hidden units of a memory of several matrices, between any two of them."""
LONGEST_CHUNK = 64
HEAD_DIMS = (16, 128)
RULE_HEAD_DIMS = (16, 128)
"""The same of the matrix rules, for keys and for values."""


def chosen_backend(backend: str, tensors: Sequence[Tensor], weights: Sequence[Tensor], chunk_size: int) -> str:
    """torch or triton for queries, keys and values [b, t, h, d] and the matrices of a memory.

    auto takes Triton for CUDA tensors that it can compute, on the GPUs that the kernels were checked on.

    Raises:
        ConfigError: for an unknown name, and for triton where it cannot run, saying why.
    """
    return _chosen(backend, tensors[0].device, lambda: _obstacle(tensors, weights, chunk_size))


def chosen_rule_backend(backend: str, rows: Sequence[Tensor]) -> str:
    """torch or triton for a matrix rule's queries, keys, values and the like [b, t, h, d], as `chosen_backend`.

    Raises:
        ConfigError: for an unknown name, and for triton where it cannot run, saying why.
    """
    return _chosen(backend, rows[0].device, lambda: _rule_obstacle(rows))


def _chosen(backend: str, device: torch.device, obstacle_here: Callable[[], str]) -> str:
    if backend not in BACKENDS:
        raise ConfigError(Problem(unknown_name("backend", backend, BACKENDS), "backend"))
    if backend == "torch" or (backend == "auto" and not _is_checked(device)):
        return "torch"
    obstacle = obstacle_here()
    if obstacle and backend == "triton":
        message = f"triton cannot run here: {obstacle}; expected torch, or auto, which chooses"
        raise ConfigError(Problem(message, "backend"))
    return "torch" if obstacle else "triton"


def _is_checked(device: torch.device) -> bool:
    """Whether the kernels' numbers were checked on such a device; Triton has compiled others of them wrongly."""
    return device.type == "cuda" and _capability(device) == CHECKED


def _obstacle(tensors: Sequence[Tensor], weights: Sequence[Tensor], chunk_size: int) -> str:
    """Why Triton's kernels cannot run, every reason; empty if they can."""
    dim, hidden = tensors[0].shape[3], max((matrix.shape[-1] for matrix in weights[:-1]), default=0)
    reasons = [_obstacle_anywhere((*tensors, *weights))]
    if len(weights) > MATRICES:
        reasons.append(f"the memory has {len(weights)} matrices and the kernels compute up to {MATRICES}")
    if any(0 in matrix.shape for matrix in weights):
        reasons.append("there are no heads, or no hidden units")
    if hidden > HIDDEN:
        reasons.append(f"the memory has {hidden} hidden units and the kernels take up to {HIDDEN}")
    if not HEAD_DIMS[0] <= dim <= HEAD_DIMS[1]:
        reasons.append(f"the head dimension is {dim} and the kernels take {HEAD_DIMS[0]} to {HEAD_DIMS[1]}")
    if chunk_size > LONGEST_CHUNK:
        reasons.append(f"chunk_size is {chunk_size} and the kernels take up to {LONGEST_CHUNK}")
    return "; ".join(filter(None, reasons))


def _rule_obstacle(rows: Sequence[Tensor]) -> str:
    """Why the kernels of the matrix rules cannot run, every reason; empty if they can."""
    least, most = RULE_HEAD_DIMS
    widths = sorted({x.shape[3] for x in rows if not least <= x.shape[3] <= most})
    wide = [f"the head dimension is {width} and the kernels take {least} to {most}" for width in widths]
    return "; ".join(filter(None, [_obstacle_anywhere(rows), *wide]))


def _obstacle_anywhere(tensors: Sequence[Tensor]) -> str:
    """Why no kernel could run on tensors of such types on this device."""
    q = tensors[0]
    if others := {str(x.dtype) for x in tensors if x.dtype not in (torch.float32, torch.bfloat16, torch.float16)}:
        return f"{' and '.join(sorted(others))} is no float32, bfloat16 or float16"
    if not _installed():
        return "Triton is not installed (pip install triton)"
    if q.is_cuda:
        major, minor = _capability(q.device)
        return _assembler_fault() if major >= 8 else f"compute capability {major}.{minor} is below 8.0"
    return "" if os.environ.get("TRITON_INTERPRET") == "1" else f"tensors are on {q.device.type}, not on a CUDA device"


def _assembler_fault() -> str:
    from titanlab.platform.triton_assembler import assembler_fault

    return assembler_fault()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
