"""Checks of gradients: they reach every weight, they are finite, and they are right."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from titanlab.platform.testing.report import Unmet, check
from titanlab.platform.testing.subject import Subject, in_pieces, run, tokens

SMALL = 1e-6
"""Step of finite differences."""


@check(
    "gradients reach every weight",
    expected="one forward and backward gives every parameter a finite gradient that is not all 0",
    cause="a parameter that forward does not use (data-parallel training refuses it), `.detach()` or `no_grad` on its "
    "way, or a root or a division at 0",
)
def gradients_reach_every_weight(subject: Subject) -> str:
    module, x = subject.module(), tokens(2, subject.time)
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if not named:
        return "no parameters"
    loss = (run(module, x) * tokens(2, subject.time, seed=1)).sum()
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    faults = [fault for name, gradient in zip(named, gradients, strict=True) if (fault := _fault(name, gradient))]
    if faults:
        raise Unmet("; ".join(faults))
    return f"{len(named)} parameters"


def _fault(name: str, gradient: Tensor | None) -> str:
    if gradient is None:
        return f"{name} gets no gradient"
    if not gradient.numel():
        return f"{name} is empty, so it gets no gradient"
    if not gradient.isfinite().all():
        return f"the gradient of {name} is not finite"
    return "" if gradient.any() else f"the gradient of {name} is 0 everywhere"


@check(
    "gradients are right",
    expected="the gradients of inputs and weights agree with finite differences in float64, across two calls too",
    cause="a backward of one's own with a term missing, `.detach()` or `.data` on a way that matters, a float32 part",
)
def gradients_are_right(subject: Subject) -> str:
    module, x, upstream = subject.module(), tokens(1, 6), tokens(1, 6, seed=1)
    inputs = {"x": x.requires_grad_(), **{name: p for name, p in module.named_parameters() if p.requires_grad}}

    def loss() -> Tensor:  # two calls: gradients must flow back through the state
        return (in_pieces(module, x, [2, 4]) * upstream).sum()

    gradients = torch.autograd.grad(loss(), list(inputs.values()), allow_unused=True)
    worst = 0.0
    for (name, value), gradient in zip(inputs.items(), gradients, strict=True):
        along = torch.randn_like(value)
        computed = 0.0 if gradient is None else float((gradient * along).sum())
        measured = _slope(loss, value, along)
        off = abs(computed - measured) / max(abs(computed), abs(measured), 0.1)
        if not off <= 1e-5:
            raise Unmet(
                f"along one direction of {name} the gradient is {computed:.6g}, the slope measured {measured:.6g}"
            )
        worst = max(worst, off)
    return f"within {worst:.1g}"


@torch.no_grad()
def _slope(loss: Callable[[], Tensor], value: Tensor, along: Tensor) -> float:
    """The central finite difference of a loss as `value` moves along a direction."""
    before, ends = value.detach().clone(), []
    for step in (SMALL, -SMALL):
        value.copy_(before + step * along)
        ends.append(float(loss()))
    value.copy_(before)
    return (ends[0] - ends[1]) / (2 * SMALL)
