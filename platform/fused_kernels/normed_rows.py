"""RMS norm of rows together with what is done with it, in one pass forward and one backward.

n = x / sqrt(mean x^2 + eps) * weight

plain    n
silu     n * silu(other)
sigmoid  other * sigmoid(n), and what is added to it
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.platform.first_order import first_order
from titanlab.platform.fused_kernels.sigmoid import sigmoid
from titanlab.platform.fused_kernels.summed_shares import summed_shares

Use: TypeAlias = Literal["plain", "silu", "sigmoid"]

WIDEST = 8192
"""Length of a row up to which these kernels are used."""
NUMBERS = 2048
"""Of rows that a program holds at once."""
ROUNDS, PROGRAMS = 8, 528
"""How often at most a program of the backward pass does so, where so many programs are left: each leaves a gradient of
the weight, to be added up."""


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
    return normed_pieces([x], weight, eps, dtype, use=use, others=[] if other is None else [other], added=added)


def normed_pieces(
    xs: Sequence[Tensor],
    weight: Tensor,
    eps: float,
    dtype: torch.dtype,
    *,
    use: Use = "plain",
    others: Sequence[Tensor] = (),
    added: Tensor | None = None,
) -> Tensor:
    """The same of x and other in pieces along time, [b, t_i, h, d] each: they are never put together, and each gets a
    gradient of its own storage.

    Returns:
        [b, t, h, d], contiguous, t the sum of all t_i.
    """
    rows = [x if x.stride(-1) == 1 else x.contiguous() for x in (*xs, *others)]
    return _NormedPieces.apply(weight, None if added is None else added.contiguous(), eps, dtype, use, len(xs), *rows)


class _NormedPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, added: Tensor | None, eps: float, dtype: torch.dtype, use: Use, count: int,
        *rows: Tensor,
    ) -> Tensor:  # fmt: skip
        xs = rows[:count]
        batch, _, heads, dim = xs[0].shape
        y = torch.empty(batch, sum(x.shape[1] for x in xs), heads, dim, dtype=dtype, device=weight.device)
        for call, place in _calls(weight, eps, use, count, rows):
            before = y if added is None else added
            _forward[call.grid(1)](
                *call.inputs, before[:, place], y[:, place], *call.sizes, y.stride(0), ADDED=added is not None,
                **call.constants,
            )  # fmt: skip
        ctx.save_for_backward(weight, *rows)
        ctx.eps, ctx.use, ctx.count, ctx.added = eps, use, count, None if added is None else added.dtype
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        weight, *rows = ctx.saved_tensors
        d_y = d_y.contiguous()
        d_rows = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in rows]
        calls = _calls(weight, ctx.eps, ctx.use, ctx.count, rows)
        rounds = [call.rounds() for call, _ in calls]
        grids = [call.grid(count) for (call, _), count in zip(calls, rounds, strict=True)]
        ends = list(accumulate(across * batch for across, batch in grids))
        d_weight = torch.empty(ends[-1], weight.shape[0], dtype=torch.float32, device=weight.device)
        for piece, ((call, place), grid, count) in enumerate(zip(calls, grids, rounds, strict=True)):
            d_x, d_other = d_rows[piece], d_rows[piece - ctx.count]  # the other one's, if there is one
            _backward[grid](
                *call.inputs, d_y[:, place], d_x, d_other, d_weight[ends[piece] - grid[0] * grid[1] :], *call.sizes,
                d_y.stride(0), ROUNDS=count, **call.constants,
            )  # fmt: skip
        d_added = None if ctx.added is None else d_y.to(ctx.added)
        return summed_shares(d_weight).to(weight.dtype), d_added, None, None, None, None, *d_rows


def _calls(weight: Tensor, eps: float, use: Use, count: int, rows: Sequence[Tensor]) -> list[tuple[_Call, slice]]:
    """Of each piece, and which tokens of the whole it is."""
    xs, others = rows[:count], rows[count:] or rows
    ends = list(accumulate(x.shape[1] for x in xs))
    return [
        (_Call(x, weight, other, eps, use), slice(end - x.shape[1], end))
        for x, other, end in zip(xs, others, ends, strict=True)
    ]


class _Call:
    """Sizes and arguments that the kernels of one piece share."""

    def __init__(self, x: Tensor, weight: Tensor, other: Tensor, eps: float, use: Use) -> None:
        batch, time, heads, dim = x.shape
        self.batch, self.rows = batch, time * heads
        self.inputs = (x, weight, other)
        self.sizes = (self.rows, heads, *x.stride()[:3], *other.stride()[:3], eps)
        width = triton.next_power_of_2(dim)
        self.block = max(1, NUMBERS // width)
        self.constants = {"USE": use, "D": dim, "BR": self.block, "BD": width}

    def rounds(self) -> int:
        """Of a program of the backward pass, a power of 2."""
        blocks, rounds = self.grid(1)[0] * self.batch, ROUNDS
        while rounds > 1 and blocks < rounds * PROGRAMS:
            rounds //= 2
        return rounds

    def grid(self, rounds: int) -> tuple[int, int]:
        return triton.cdiv(self.rows, self.block * rounds), self.batch


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    x, weight, other, added, y, total, H, x_row, x_step, x_head, other_row, other_step, other_head, eps, y_row,
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
    place = batch * y_row + rows[:, None] * D + columns[None, :]
    if USE != "plain":
        o = tl.load(
            other + batch * other_row + (time * other_step + head * other_head)[:, None] + columns[None, :], inside, 0.0
        ).to(tl.float32)
        n = n * (o * sigmoid(o)) if USE == "silu" else o * sigmoid(n)
        if ADDED:
            n += tl.load(added + place, inside, 0.0).to(tl.float32)
    tl.store(y + place, n.to(y.dtype.element_ty), inside)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    x, weight, other, d_y, d_x, d_other, d_weight, total, H, x_row, x_step, x_head, other_row, other_step, other_head,
    eps, y_row, ROUNDS: tl.constexpr, USE: tl.constexpr, D: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
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
        d = tl.load(d_y + batch * y_row + rows[:, None] * D + columns[None, :], inside, 0.0).to(tl.float32)
        if USE != "plain":
            o = tl.load(
                other + batch * other_row + (time * other_step + head * other_head)[:, None] + columns[None, :],
                inside, 0.0,
            ).to(tl.float32)  # fmt: skip
            n = unit * w[None, :]
            if USE == "silu":
                gate = sigmoid(o)
                d_o = d * n * gate * (1.0 + o * (1.0 - gate))
                d = d * o * gate
            else:
                gate = sigmoid(n)
                d_o = d * gate
                d = d * o * gate * (1.0 - gate)
            tl.store(d_other + place, d_o.to(d_other.dtype.element_ty), inside)
        d_w += tl.sum(d * unit, 0)
        d *= w[None, :]
        d = (d - unit * (tl.sum(d * unit, 1) / D)[:, None]) * scale[:, None]
        tl.store(d_x + place, d.to(d_x.dtype.element_ty), inside)
    tl.store(d_weight + (batch * tl.num_programs(0) + tl.program_id(0)) * D + columns, d_w, columns < D)
