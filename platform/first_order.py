"""Gradients that cannot be differentiated again, and say so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Gradients = Tensor | tuple[Tensor | None, ...] | None


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Marks the `backward` of an autograd function whose operations have no gradients of their own.

    A second derivative through it raises RuntimeError. torch's `once_differentiable` does so only where the incoming
    gradient needs one itself, and else hands on a gradient that is taken for a constant: a penalty on gradients would
    be lost without a word.
    """

    @functools.wraps(backward)
    def call(ctx: Any, *incoming: Tensor | None) -> Gradients:
        with torch.no_grad():
            found = backward(ctx, *incoming)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return found
        sources = [x for x in (*ctx.saved_tensors, *incoming) if isinstance(x, Tensor) and x.requires_grad]
        tensors = found if isinstance(found, tuple) else (found,)
        wanted = [place for place, x in enumerate(tensors) if x is not None]
        if not sources or not wanted:
            return found
        refused = _Refused.apply(backward.__qualname__, len(wanted), *(tensors[place] for place in wanted), *sources)
        of = dict(zip(wanted, refused, strict=True))
        tensors = tuple(of.get(place) for place in range(len(tensors)))
        return tensors if isinstance(found, tuple) else tensors[0]

    return call


class _Refused(torch.autograd.Function):
    """Hands tensors on as functions of the sources, with a gradient that raises."""

    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(x.view_as(x) for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> Any:
        raise RuntimeError(
            f"a gradient cannot be differentiated again here ({ctx.name}): titanlab's memories, kernels and losses "
            "have first derivatives alone; leave penalties on gradients out"
        )
