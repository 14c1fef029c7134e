"""Activations of a memory's MLP with the derivatives that the dual form (first) and its gradient (second) need."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor, int], tuple[Tensor, ...]]
"""f(z, order): the value and the derivatives of f up to `order` (0, 1 or 2), element-wise, sharing their work."""


def gelu(z: Tensor, order: int) -> tuple[Tensor, ...]:
    """The tanh form: f = z/2 (1 + tanh u), u = a z + b z^3, a = sqrt(2/pi), b = 0.044715 a (arXiv 1606.08415)."""
    if order == 0:
        return (F.gelu(z, approximate="tanh"),)
    a = math.sqrt(2 / math.pi)
    b = 0.044715 * a
    square = z * z
    t = square.mul(b).add_(a).mul_(z).tanh_()
    half = t.add(1).mul_(0.5)
    sech2 = t.square().neg_().add_(1)
    du = square.mul_(3 * b).add_(a)
    slope = torch.addcmul(half, z * sech2, du, value=0.5)
    if order == 1:
        return z * half, slope
    # f'' = sech^2 u (u' - z tanh(u) u'^2 + z u''/2), and z u''/2 = 3 b z^2 = u' - a
    curvature = du.mul(2).sub_(a).sub_(t.mul_(z).mul_(du).mul_(du)).mul_(sech2)
    return z * half, slope, curvature


def silu(z: Tensor, order: int) -> tuple[Tensor, ...]:
    """f = z s with s = sigmoid(z); f' = s + f (1 - s); f'' = s (1 - s) (2 + z (1 - 2 s))."""
    if order == 0:
        return (F.silu(z),)
    s = torch.sigmoid(z)
    value = z * s
    rest = 1 - s
    slope = torch.addcmul(s, value, rest)
    return (value, slope) if order == 1 else (value, slope, s * rest * (2 + z * (rest - s)))


def relu(z: Tensor, order: int) -> tuple[Tensor, ...]:
    """f = max(z, 0); its slope at 0 is taken as 0."""
    positive = (z > 0).to(z.dtype)
    return (z * positive, positive, torch.zeros_like(z))[: order + 1]


def tanh(z: Tensor, order: int) -> tuple[Tensor, ...]:
    """f = tanh(z); f' = 1 - f^2; f'' = -2 f f'."""
    value = torch.tanh(z)
    if order == 0:
        return (value,)
    slope = 1 - value.square()
    return (value, slope) if order == 1 else (value, slope, -2 * value * slope)


ACTIVATIONS: dict[str, Activation] = {"gelu": gelu, "silu": silu, "relu": relu, "tanh": tanh}
"""Every activation by the name it has in YAML."""
