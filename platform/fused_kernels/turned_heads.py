"""Rotary positions in one pass: each head's pairs (x_i, x_{i + d/2}) turned by the angles of its token."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.platform.first_order import first_order

WIDEST = 512
"""Head dimension up to which this kernel is used."""
NUMBERS = 2048
"""Pairs that a program holds."""


def turned_heads(x: Tensor, rotation: Tensor) -> Tensor:
    """x [b, h, t, d] turned by rotation [2, t, d/2], cosines and sines of its tokens' angles.

    Returns:
        [b, h, t, d] in x's type, of which the heads of a token stand side by side.
    """
    return _TurnedHeads.apply(x, rotation.contiguous())


class _TurnedHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rotation: Tensor) -> Tensor:
        ctx.save_for_backward(rotation)
        return turn(x, rotation, back=False)

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None]:
        (rotation,) = ctx.saved_tensors
        return turn(d_y, rotation, back=True), None


def turn(x: Tensor, rotation: Tensor, back: bool) -> Tensor:
    """The function, or its inverse, without a gradient."""
    batch, heads, time, dim = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = torch.empty(batch, time, heads, dim, dtype=x.dtype, device=x.device)
    half = triton.next_power_of_2(dim // 2)
    rows = max(1, NUMBERS // half)
    _turn_rows[(triton.cdiv(time * heads, rows), batch)](
        x, rotation, y, time, heads, *x.stride()[:3], BACK=back, HALF=dim // 2, BR=rows, BH=half,
        num_warps=4,
    )  # fmt: skip
    return y.transpose(1, 2)


@triton.jit
def _turn_rows(  # type: ignore[no-untyped-def]
    x, rotation, y, time, H, x_row, x_head, x_step, BACK: tl.constexpr, HALF: tl.constexpr, BR: tl.constexpr,
    BH: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows, pairs = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, BH)
    token, head = rows // H, rows % H
    inside = (token < time)[:, None] & (pairs < HALF)[None, :]
    source = x + batch * x_row + (token * x_step + head * x_head)[:, None] + pairs[None, :]
    first, second = tl.load(source, inside, 0.0).to(tl.float32), tl.load(source + HALF, inside, 0.0).to(tl.float32)
    angle = rotation + token[:, None] * HALF + pairs[None, :]
    cos, sin = tl.load(angle, inside, 0.0), tl.load(angle + time * HALF, inside, 0.0)
    if BACK:
        sin = -sin
    target = y + (batch * time * H + rows)[:, None] * (2 * HALF) + pairs[None, :]
    tl.store(target, (first * cos - second * sin).to(y.dtype.element_ty), inside)
    tl.store(target + HALF, (first * sin + second * cos).to(y.dtype.element_ty), inside)
