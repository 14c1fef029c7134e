"""SwiGLU's gate in one pass: of rows [a | b], silu(a) b."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.platform.first_order import first_order
from titanlab.platform.fused_kernels.sigmoid import sigmoid

COLUMNS = 1024
"""Of a program."""


def gated_halves(x: Tensor) -> Tensor:
    """silu(a) b of x = [a | b].

    Args:
        x: [b, t, 2 width].

    Returns:
        [b, t, width] in x's type, computed in float32.

    Raises:
        ValueError: an odd number of columns.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"x: has {x.shape[-1]} columns; expected two halves, an even number")
    return _GatedHalves.apply(x if x.is_contiguous() else x.contiguous())


class _GatedHalves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = torch.empty(*x.shape[:-1], x.shape[-1] // 2, dtype=x.dtype, device=x.device)
        _gate_halves[_grid(y)](x, y, y.shape[-1], BC=COLUMNS)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        d_x = torch.empty_like(x)
        _gate_halves_back[_grid(d_y)](x, d_y.contiguous(), d_x, d_y.shape[-1], BC=COLUMNS)
        return d_x


def _grid(y: Tensor) -> tuple[int, int]:
    """A program for so many columns of a row."""
    return y.shape[:-1].numel(), triton.cdiv(y.shape[-1], COLUMNS)


@triton.jit
def _halves(x, F, BC: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program's columns of both halves, where they stand, and which there are."""
    columns = tl.program_id(1) * BC + tl.arange(0, BC)
    place = tl.program_id(0).to(tl.int64) * (2 * F) + columns
    a = tl.load(x + place, columns < F, 0.0).to(tl.float32)
    b = tl.load(x + place + F, columns < F, 0.0).to(tl.float32)
    return a, b, place, columns


@triton.jit
def _gate_halves(x, y, F, BC: tl.constexpr):  # type: ignore[no-untyped-def]
    a, b, _, columns = _halves(x, F, BC)
    place = tl.program_id(0).to(tl.int64) * F + columns
    tl.store(y + place, (a * sigmoid(a) * b).to(y.dtype.element_ty), columns < F)


@triton.jit
def _gate_halves_back(x, d_y, d_x, F, BC: tl.constexpr):  # type: ignore[no-untyped-def]
    a, b, place, columns = _halves(x, F, BC)
    d = tl.load(d_y + tl.program_id(0).to(tl.int64) * F + columns, columns < F, 0.0).to(tl.float32)
    s = sigmoid(a)
    d_a, d_b = d * b * s * (1.0 + a * (1.0 - s)), d * a * s
    tl.store(d_x + place, d_a.to(d_x.dtype.element_ty), columns < F)
    tl.store(d_x + place + F, d_b.to(d_x.dtype.element_ty), columns < F)
