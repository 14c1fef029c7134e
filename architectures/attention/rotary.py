"""Rotary position embedding (RoFormer, arXiv 2104.09864, eq. 34)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from titanlab.architectures.attention.backend import Queries
from titanlab.platform.fused_kernels.choice import kernels_take
from titanlab.platform.fusion import fusible
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
    return turned(x, rotation(positions, x.shape[-1], x.dtype))


@fusible
def rotation(positions: Tensor, dim: int, dtype: torch.dtype) -> Float[Tensor, "2 t d"]:
    """The angles' cosines and sines at positions [t], in float32 or better, for heads of `dim` and type `dtype`."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float64, device=positions.device) / half
    angles = positions.to(torch.float64)[:, None] * BASE**-exponents
    return torch.stack([angles.cos(), angles.sin()]).to(at_least_float32(dtype))


def turned(x: Queries, rotation: Float[Tensor, "2 t d"]) -> Queries:
    """x [b, h, t, d] turned by the angles of its t tokens."""
    if kernels_take(x, rotation):
        from titanlab.platform.fused_kernels.turned_heads import WIDEST, turned_heads

        if x.shape[-1] <= WIDEST:
            return turned_heads(x, rotation)
    return _turned_in_torch(x, rotation)


@fusible
def _turned_in_torch(x: Queries, rotation: Float[Tensor, "2 t d"]) -> Queries:
    cos, sin = rotation
    first, second = x.to(rotation.dtype).chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)
