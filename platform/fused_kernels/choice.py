"""Whether the kernels of this package compute a call, or plain torch does."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from titanlab.platform.switch import Switch

TYPES = (torch.float32, torch.bfloat16, torch.float16)
CHECKED = ((9, 0),)
"""Compute capabilities of the GPUs that the kernels' numbers were checked on."""

MOST_PROGRAMS = 65_535
"""Of a grid's second axis: there the batch stands, or all tokens, of which a program takes 32 at least."""

_PLAIN = Switch("plain_torch")


def plain_torch() -> AbstractContextManager[None]:
    """Within it (in this thread), nothing is computed by these kernels: for comparisons."""
    return _PLAIN.turned()


def kernels_take(*tensors: Tensor | None) -> bool:
    """Whether they can compute with these tensors, the first [b, t, ...], on a device that they were checked on."""
    given = [x for x in tensors if x is not None]
    if torch.compiler.is_compiling() or not _runs_on(given[0].device) or _PLAIN:
        return False
    batch, tokens = given[0].shape[0], given[0].shape[:2].numel()
    if batch > MOST_PROGRAMS or tokens > 32 * MOST_PROGRAMS:
        return False
    return all(x.dtype in TYPES and x.numel() > 0 for x in given)


def _runs_on(device: torch.device) -> bool:
    if device.type == "cuda":
        return _installed() and _capability(device) in CHECKED and not _assembler_fault()
    return device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1" and _installed()


def _assembler_fault() -> str:
    from titanlab.platform.triton_assembler import assembler_fault

    return assembler_fault()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
