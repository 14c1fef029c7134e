"""Which small computations torch.compile fuses into one kernel: norms, activations, gates; off by default.

Between two matrix products a layer reads and writes its activations once for every norm, activation and sum; fused, it
does so once. Only pure functions of tensors are compiled, so layers of equal shapes share what is compiled, matrix
products and kernels of memories stay as they are, and nothing about a model or its weights' names changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

import torch

from titanlab.platform.switch import Switch

P = ParamSpec("P")
R = TypeVar("R")

BACKEND = "inductor"
SHAPES = 64
"""Shapes that one function is compiled for, before it is left as it is; torch allows 8."""

_FUSING = Switch("fusing")


def fused(on: bool = True) -> AbstractContextManager[None]:
    """Within it (in this thread), what is `fusible` is compiled."""
    return _FUSING.turned(on)


def fusing() -> bool:
    """Whether it is on."""
    return bool(_FUSING)


def fusible(function: Callable[P, R]) -> Callable[P, R]:
    """Marks a pure function of tensors, shapes known, that one kernel can compute."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # within a function that is being compiled it is a part of that one
        if torch.compiler.is_compiling() or not _FUSING:
            return function(*args, **kwargs)
        return _compiled(function, BACKEND)(*args, **kwargs)

    return call


@functools.cache
def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    import torch._dynamo.config as dynamo  # takes seconds, so only where it is wanted

    dynamo.recompile_limit = max(dynamo.recompile_limit, SHAPES)
    return torch.compile(function, backend=backend, dynamic=False, fullgraph=True)
