"""What a gradient computes again in place of keeping it: functions, and the states that a memory passes through."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from titanlab.platform.first_order import first_order
from titanlab.platform.fusion import fused, fusible, fusing
from titanlab.platform.switch import Switch

R = TypeVar("R", bound=Tensor | tuple[Tensor, ...])

KEPT_BYTES = 1 << 20
"""Up to an argument of this size a function keeps what it computes: computing again costs a small step more time than
memory is worth there."""

_ALWAYS = Switch("always_again")
_STATES_KEPT = Switch("states_kept")


def always_again() -> AbstractContextManager[None]:
    """Within it (in this thread), arguments of any size are large: a short row tells what a long one keeps."""
    return _ALWAYS.turned()


def states_kept(on: bool = True) -> AbstractContextManager[None]:
    """Within it (in this thread), kernels that can keep a memory's state before every chunk for the gradient do so."""
    return _STATES_KEPT.turned(on)


def keeps_states() -> bool:
    """Whether it is on."""
    return bool(_STATES_KEPT)


def computed_again(function: Callable[..., R]) -> Callable[..., R]:
    """Marks a function of tensors and constants, all of them positional, without randomness, that returns tensors.

    Its results and gradients stay what they are, bit for bit: the same operations run on the same numbers.
    """

    @functools.wraps(function)
    def call(*args: Any) -> R:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        again = not torch.compiler.is_compiling() and torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        if again and (_ALWAYS or max(x.nbytes for x in tensors) > KEPT_BYTES):
            return cast(R, _ComputedAgain.apply(function, *args))
        return function(*args)

    return call


def lean(function: Callable[..., R]) -> Callable[..., R]:
    """Marks a function as both `fusible` and `computed_again`; one that is fused keeps little by itself."""
    as_one_kernel, again = fusible(function), computed_again(function)

    @functools.wraps(function)
    def call(*args: Any) -> R:
        return as_one_kernel(*args) if fusing() else again(*args)

    return call


class _ComputedAgain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., R], *args: Any) -> R:
        ctx.set_materialize_grads(False)
        places = [place for place, arg in enumerate(args) if isinstance(arg, Tensor)]
        ctx.save_for_backward(*(args[place] for place in places))
        ctx.places = places
        ctx.args = [None if isinstance(arg, Tensor) else arg for arg in args]
        # the gradient may be taken elsewhere: outside of autocast, in another thread
        ctx.function, ctx.fusing = function, fusing()
        kinds = {args[place].device.type for place in places}
        ctx.autocast = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            for kind in kinds
            if torch.amp.is_autocast_available(kind)
        ]
        return function(*args)

    @staticmethod
    @first_order
    def backward(ctx: Any, *d_results: Tensor | None) -> tuple[Tensor | None, ...]:
        args = list(ctx.args)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            args[place] = tensor.detach().requires_grad_(ctx.needs_input_grad[1 + place])
        with ExitStack() as conditions:
            for kind, dtype, enabled in ctx.autocast:
                conditions.enter_context(torch.autocast(kind, dtype, enabled))
            conditions.enter_context(fused(ctx.fusing))
            conditions.enter_context(torch.enable_grad())
            results = ctx.function(*args)
        results = (results,) if isinstance(results, Tensor) else results
        pairs = [(y, d) for y, d in zip(results, d_results, strict=True) if d is not None and y.requires_grad]
        wanted = [place for place in ctx.places if args[place].requires_grad]
        gradients = torch.autograd.grad(
            [y for y, _ in pairs], [args[place] for place in wanted], [d for _, d in pairs], allow_unused=True
        )
        of = dict(zip(wanted, gradients, strict=True))
        return None, *(of.get(place) for place in range(len(args)))
