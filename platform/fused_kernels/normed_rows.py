"""RMS norm of rows together with what is done with it, in one pass forward and one backward.

n = x / sqrt(mean x^2 + eps) * weight

plain    n
silu     n * silu(other)
sigmoid  other * sigmoid(n), and what is added to it
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

Use: TypeAlias = Literal["plain", "silu", "sigmoid"]

WIDEST = 8192
"""Length of a row up to which these kernels are used."""
NUMBERS = 2048
"""Of rows that a program holds at once."""
ROUNDS = 8
"""How often a program of the backward pass does so: each leaves a gradient of the weight, to be added up."""


def normed_rows(
    x: Tensor,
    weight: Tensor,
    eps: float,
    dtype: torch.dtype,
    *,
    use: Use = "plain",
    other: Tensor | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """The function above.

    Args:
        x: [b, t, h, d], normed over d.
        weight: [d].
        eps: what is added to the mean square.
        dtype: of the result.
        use: plain, silu or sigmoid.
        other: [b, t, h, d]; None for plain.
        added: [b, t, h, d]; for sigmoid alone, and None for nothing.

    Returns:
        [b, t, h, d], contiguous.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    other = other if other is None or other.stride(-1) == 1 else other.contiguous()
    return _NormedRows.apply(x, weight, other, None if added is None else added.contiguous(), eps, dtype, use)


class _NormedRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, other: Tensor | None, added: Tensor | None, eps: float,
        dtype: torch.dtype, use: Use,
    ) -> Tensor:  # fmt: skip
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        call = _Call(x, weight, other, eps, use)
        _forward[call.grid(1)](
            *call.inputs, y if added is None else added, y, *call.sizes, ADDED=added is not None, **call.constants
        )
        ctx.save_for_backward(x, weight, other)
        ctx.eps, ctx.use, ctx.added = eps, use, None if added is None else added.dtype
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, other = ctx.saved_tensors
        call = _Call(x, weight, other, ctx.eps, ctx.use)
        d_y, grid = d_y.contiguous(), call.grid(ROUNDS)
        d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        d_other = d_x if other is None else torch.empty(x.shape, dtype=other.dtype, device=x.device)
        d_weight = torch.empty(grid[0] * grid[1], x.shape[3], dtype=torch.float32, device=x.device)
        _backward[grid](*call.inputs, d_y, d_x, d_other, d_weight, *call.sizes, ROUNDS=ROUNDS, **call.constants)
        return (
            d_x,
            d_weight.sum(0).to(weight.dtype),
            None if other is None else d_other,
            None if ctx.added is None else d_y.to(ctx.added),
            None,
            None,
            None,
        )


class _Call:
    """Sizes and arguments that the kernels of one call share."""

    def __init__(self, x: Tensor, weight: Tensor, other: Tensor | None, eps: float, use: Use) -> None:
        batch, time, heads, dim = x.shape
        beside = x if other is None else other
        self.batch, self.rows = batch, time * heads
        self.inputs = (x, weight, beside)
        self.sizes = (self.rows, heads, *x.stride()[:3], *beside.stride()[:3], eps)
        width = triton.next_power_of_2(dim)
        self.block = max(1, NUMBERS // width)
        self.constants = {"USE": use, "D": dim, "BR": self.block, "BD": width}

    def grid(self, rounds: int) -> tuple[int, int]:
        return triton.cdiv(self.rows, self.block * rounds), self.batch


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    x, weight, other, added, y, total, H, x_row, x_step, x_head, other_row, other_step, other_head, eps,
    ADDED: tl.constexpr, USE: tl.constexpr, D: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    batch, first = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * BR
    rows, columns = first + tl.arange(0, BR), tl.arange(0, BD)
    inside = (rows < total)[:, None] & (columns < D)[None, :]
    time, head = rows // H, rows % H
    here = tl.load(x + batch * x_row + (time * x_step + head * x_head)[:, None] + columns[None, :], inside, 0.0)
    here = here.to(tl.float32)
    n = here * tl.rsqrt(tl.sum(here * here, 1) / D + eps)[:, None]
    n *= tl.load(weight + columns, columns < D, 0.0).to(tl.float32)[None, :]
    place = (batch * total + rows)[:, None] * D + columns[None, :]
    if USE != "plain":
        o = tl.load(
            other + batch * other_row + (time * other_step + head * other_head)[:, None] + columns[None, :], inside, 0.0
        ).to(tl.float32)
        n = n * (o * tl.sigmoid(o)) if USE == "silu" else o * tl.sigmoid(n)
        if ADDED:
            n += tl.load(added + place, inside, 0.0).to(tl.float32)
    tl.store(y + place, n.to(y.dtype.element_ty), inside)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    x, weight, other, d_y, d_x, d_other, d_weight, total, H, x_row, x_step, x_head, other_row, other_step, other_head,
    eps, ROUNDS: tl.constexpr, USE: tl.constexpr, D: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    batch, columns = tl.program_id(1).to(tl.int64), tl.arange(0, BD)
    w = tl.load(weight + columns, columns < D, 0.0).to(tl.float32)
    d_w = tl.zeros((BD,), tl.float32)
    for turn in range(ROUNDS):
        rows = (tl.program_id(0).to(tl.int64) * ROUNDS + turn) * BR + tl.arange(0, BR)
        inside = (rows < total)[:, None] & (columns < D)[None, :]
        time, head = rows // H, rows % H
        here = tl.load(x + batch * x_row + (time * x_step + head * x_head)[:, None] + columns[None, :], inside, 0.0)
        here = here.to(tl.float32)
        scale = tl.rsqrt(tl.sum(here * here, 1) / D + eps)
        unit = here * scale[:, None]
        place = (batch * total + rows)[:, None] * D + columns[None, :]
        d = tl.load(d_y + place, inside, 0.0).to(tl.float32)
        if USE != "plain":
            o = tl.load(
                other + batch * other_row + (time * other_step + head * other_head)[:, None] + columns[None, :],
                inside, 0.0,
            ).to(tl.float32)  # fmt: skip
            n = unit * w[None, :]
            if USE == "silu":
                gate = tl.sigmoid(o)
                d_o = d * n * gate * (1.0 + o * (1.0 - gate))
                d = d * o * gate
            else:
                gate = tl.sigmoid(n)
                d_o = d * gate
                d = d * o * gate * (1.0 - gate)
            tl.store(d_other + place, d_o.to(d_other.dtype.element_ty), inside)
        d_w += tl.sum(d * unit, 0)
        d *= w[None, :]
        d = (d - unit * (tl.sum(d * unit, 1) / D)[:, None]) * scale[:, None]
        tl.store(d_x + place, d.to(d_x.dtype.element_ty), inside)
    tl.store(d_weight + (batch * tl.num_programs(0) + tl.program_id(0)) * D + columns, d_w, columns < D)
