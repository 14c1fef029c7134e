"""Rotary position embedding (RoFormer, arXiv 2104.09864, eq. 34)."""

from __future__ import annotations

import torch
from torch import Tensor

from titanlab.architectures.attention.backend import Queries
from titanlab.platform.tensors import at_least_float32

BASE = 10_000.0


def rotate(x: Queries, positions: Tensor) -> Queries:
    """Turns the pair (x_i, x_{i + d/2}) of a token at position p by the angle p * BASE^(-2i/d).

    The product of a query rotated at p and a key rotated at r depends on p - r only, so positions may be counted from
    anywhere. Differs from the paper in pairing i with i + d/2 in place of 2i with 2i + 1, a permutation of the weights.

    Args:
        x: queries or keys [b, h, t, d], d even.
        positions: [t] integers; the angles are taken in float64, exact for any length met in practice.
    """
    half = x.shape[-1] // 2
    exponents = torch.arange(half, dtype=torch.float64, device=x.device) / half
    angles = positions.to(torch.float64)[:, None] * BASE**-exponents
    wide = at_least_float32(x.dtype)
    cos, sin = angles.cos().to(wide), angles.sin().to(wide)
    first, second = x.to(wide).split(half, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)
