"""Queries, keys and values from their projections: causal depthwise convolution, SiLU and L2 norm in one pass.

    u_t = sum_j tap_j x_{t - w + 1 + j}      s = u sigmoid(u)      y = s / max(||s||, 1e-6) over a head, where normed

The gradient takes two passes, since that of x_t is a sum over the w tokens that saw it. The second one sees all that
the taps' gradient is made of, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.platform.fused_kernels.spread_rows import rows_of, spread_rows

WIDEST, LONGEST = 256, 8
"""Head dimension, and width of the convolution, up to which these kernels are used."""
EPSILON = 1e-6
TOKENS = 64
"""Of a program."""
SPREAD_TOKENS, SPREAD_COLUMNS, ROUNDS = 32, 64, 8
"""Of a program that spreads a gradient over what a convolution saw, and how many such tiles it takes: each leaves a
gradient of the taps, to be added up."""


def fits(dim: int, taps: Tensor | None) -> bool:
    """Whether heads of `dim` and such taps are what these kernels were written for."""
    return dim <= WIDEST and (taps is None or taps.shape[1] <= LONGEST)


def projected_heads(
    x: Tensor, before: Tensor | None, taps: Tensor | None, heads: int, normed: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Parts of x side by side, one for each of `normed`, which says whether it is L2-normed.

    Args:
        x: [b, t, parts h d]; at most three parts.
        before: [b, w - 1, parts h d], the tokens before x; None where w = 1.
        taps: [parts h d, w]; None for 1.
        heads: h.

    Returns:
        Each part, [b, t, h, d] in x's type, of a storage of its own; and, where there is a `before`, the newest w - 1
        tokens of both, to come before the next ones.
    """
    before = before if before is None or before.stride(-1) == 1 else before.contiguous()
    rows = None if taps is None else taps.contiguous()
    return _ProjectedHeads.apply(x if x.stride(-1) == 1 else x.contiguous(), before, rows, heads, tuple(normed))


class _ProjectedHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, before: Tensor | None, taps: Tensor | None, heads: int, normed: tuple[bool, ...]
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        call = _Call(x, before, taps, heads, normed)
        shape = (*x.shape[:2], heads, call.dim)
        parts = [torch.empty(shape, dtype=x.dtype, device=x.device) for _ in normed]
        _forward[call.grid](*call.inputs, *call.three(parts), **call.constants)
        ctx.save_for_backward(x, before, taps)
        ctx.heads, ctx.normed = heads, normed
        return (*parts, *call.newest())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *d_results: Tensor | None) -> tuple[Tensor | None, ...]:
        x, before, taps = ctx.saved_tensors
        call = _Call(x, before, taps, ctx.heads, ctx.normed)
        shape = (*x.shape[:2], ctx.heads, call.dim)
        d_parts = d_results[: len(ctx.normed)]
        given = [x.new_zeros(shape) if part is None else part.contiguous() for part in d_parts]
        d_x, d_taps, d_before = torch.empty(x.shape, dtype=x.dtype, device=x.device), call.taps_of_tiles(), None
        _backward[call.grid](*call.inputs, *call.three(given), d_x, d_taps, **call.constants)
        if call.width > 1:
            d_x, d_before = call.spread(d_x, d_taps)
            call.add_newest(d_x, d_before, d_results[-1])
        wanted = ctx.needs_input_grad
        return (
            d_x if wanted[0] else None,
            d_before.to(before.dtype) if d_before is not None and wanted[1] else None,
            d_taps.sum(0).mT.to(taps.dtype) if taps is not None and wanted[2] else None,
            None,
            None,
        )


class _Call:
    """Sizes and arguments that the kernels of one call share."""

    def __init__(
        self, x: Tensor, before: Tensor | None, taps: Tensor | None, heads: int, normed: tuple[bool, ...]
    ) -> None:
        self.x, self.before, self.taps = x, before, taps
        self.batch, self.time, self.channels = x.shape
        self.dim = self.channels // (heads * len(normed))
        self.width = 1 if taps is None else taps.shape[1]
        self.tiles = triton.cdiv(self.time, TOKENS)
        self.grid = (len(normed) * heads, self.batch * self.tiles)
        earlier = x if before is None else before
        self.inputs = (
            x, earlier, x if taps is None else taps, self.time, *x.stride()[:2], *earlier.stride()[:2], heads
        )  # fmt: skip
        self.constants = {
            "W": self.width,
            "D": self.dim,
            "BT": TOKENS,
            "BD": triton.next_power_of_2(self.dim),
            "TAPS": taps is not None,
            "NORM_0": normed[0],
            "NORM_1": normed[len(normed) // 2],
            "NORM_2": normed[-1],
            "EPS": EPSILON,
        }

    @staticmethod
    def three(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The parts, for a kernel that has room for three."""
        return parts[0], parts[len(parts) // 2], parts[-1]

    def newest(self) -> tuple[Tensor, ...]:
        """The tokens that come before the next ones."""
        if self.before is None:
            return ()
        kept = self.width - 1 - self.time
        own = self.x[:, max(-kept, 0) :]
        return (own.clone() if kept <= 0 else torch.cat([self.before[:, -kept:].to(self.x.dtype), own], 1),)

    def add_newest(self, d_x: Tensor, d_before: Tensor, d_newest: Tensor | None) -> None:
        """Adds the gradient of `newest` to those of the tokens it is made of."""
        if d_newest is None:
            return
        kept = max(self.width - 1 - self.time, 0)
        d_x[:, max(self.time - self.width + 1, 0) :] += d_newest[:, kept:]
        if kept:
            d_before[:, -kept:] += d_newest[:, :kept]

    def taps_of_tiles(self) -> Tensor:
        """The taps' gradient from each tile of tokens."""
        tiles = self.tiles if self.width == 1 else triton.cdiv(self.time + self.width - 1, SPREAD_TOKENS * ROUNDS)
        shape = (self.batch * tiles, self.width, self.channels)
        return torch.empty(shape, dtype=torch.float32, device=self.x.device)

    def spread(self, d_u: Tensor, d_taps: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of x and of the tokens before it; d_taps is filled."""
        d_x = torch.empty_like(d_u)
        d_before = torch.empty(self.batch, self.width - 1, self.channels, dtype=d_u.dtype, device=d_u.device)
        columns = min(SPREAD_COLUMNS, triton.next_power_of_2(self.channels))
        spread_rows[triton.cdiv(self.channels, columns), len(d_taps)](
            *self.inputs[:-1], d_u, d_x, d_before, d_taps, self.channels, W=self.width, BT=SPREAD_TOKENS, BC=columns,
            ROUNDS=ROUNDS,
        )  # fmt: skip
        return d_x, d_before


@triton.jit
def _convolved(  # type: ignore[no-untyped-def]
    x, before, taps, start, rows, columns, time, x_step, before_step, inside, W: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    total = rows_of(x, before, start, rows, columns, time, x_step, before_step, inside, W)
    if TAPS:
        total *= tl.load(taps + columns * W + (W - 1), inside, 0.0).to(tl.float32)[None, :]
        for back in tl.static_range(1, W):
            tap = tl.load(taps + columns * W + (W - 1 - back), inside, 0.0).to(tl.float32)
            earlier = rows_of(x, before, start, rows - back, columns, time, x_step, before_step, inside, W)
            total += tap[None, :] * earlier
    return total


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    x, before, taps, time, x_row, x_step, before_row, before_step, H, part_0, part_1, part_2,
    W: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, TAPS: tl.constexpr, NORM_0: tl.constexpr,
    NORM_1: tl.constexpr, NORM_2: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(time, BT)
    batch, start = (tl.program_id(1) // tiles).to(tl.int64), (tl.program_id(1) % tiles).to(tl.int64) * BT
    part, head = tl.program_id(0) // H, tl.program_id(0) % H
    rows, dims = tl.arange(0, BT), tl.arange(0, BD)
    columns, inside = tl.program_id(0) * D + dims, dims < D
    u = _convolved(
        x + batch * x_row + start * x_step, before + batch * before_row, taps, start, rows, columns, time, x_step,
        before_step, inside, W, TAPS,
    )  # fmt: skip
    s = u * tl.sigmoid(u)
    scale = 1.0 / tl.maximum(tl.sqrt(tl.sum(s * s, 1)), EPS)
    place = (batch * time + start) * (H * D) + rows[:, None] * (H * D) + (head * D + dims)[None, :]
    kept = (start + rows < time)[:, None] & inside[None, :]
    if part == 0:
        y = s * scale[:, None] if NORM_0 else s
        tl.store(part_0 + place, y.to(part_0.dtype.element_ty), kept)
    elif part == 1:
        y = s * scale[:, None] if NORM_1 else s
        tl.store(part_1 + place, y.to(part_1.dtype.element_ty), kept)
    else:
        y = s * scale[:, None] if NORM_2 else s
        tl.store(part_2 + place, y.to(part_2.dtype.element_ty), kept)


@triton.jit
def _of_norm(d_y, s, EPS: tl.constexpr, NORM: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gradient of s from that of s / max(||s||, EPS)."""
    if NORM:
        length = tl.sqrt(tl.sum(s * s, 1))
        scale = 1.0 / tl.maximum(length, EPS)
        along = tl.where(length > EPS, tl.sum(d_y * s, 1) * scale * scale, 0.0)
        d_s = (d_y - s * along[:, None]) * scale[:, None]
    else:
        d_s = d_y
    return d_s


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    x, before, taps, time, x_row, x_step, before_row, before_step, H, d_part_0, d_part_1, d_part_2, d_u, d_taps,
    W: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, TAPS: tl.constexpr, NORM_0: tl.constexpr,
    NORM_1: tl.constexpr, NORM_2: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(time, BT)
    batch, start = (tl.program_id(1) // tiles).to(tl.int64), (tl.program_id(1) % tiles).to(tl.int64) * BT
    part, head = tl.program_id(0) // H, tl.program_id(0) % H
    rows, dims = tl.arange(0, BT), tl.arange(0, BD)
    columns, inside = tl.program_id(0) * D + dims, dims < D
    here, there = x + batch * x_row + start * x_step, before + batch * before_row
    u = _convolved(here, there, taps, start, rows, columns, time, x_step, before_step, inside, W, TAPS)
    gate = tl.sigmoid(u)
    s = u * gate
    kept = (start + rows < time)[:, None] & inside[None, :]
    place = (batch * time + start) * (H * D) + rows[:, None] * (H * D) + (head * D + dims)[None, :]
    if part == 0:
        d_s = _of_norm(tl.load(d_part_0 + place, kept, 0.0).to(tl.float32), s, EPS, NORM_0)
    elif part == 1:
        d_s = _of_norm(tl.load(d_part_1 + place, kept, 0.0).to(tl.float32), s, EPS, NORM_1)
    else:
        d_s = _of_norm(tl.load(d_part_2 + place, kept, 0.0).to(tl.float32), s, EPS, NORM_2)
    d = d_s * gate * (1.0 + u * (1.0 - gate))
    C = tl.num_programs(0) * D
    if TAPS and W == 1:
        seen = rows_of(here, there, start, rows, columns, time, x_step, before_step, inside, W)
        tl.store(d_taps + tl.program_id(1).to(tl.int64) * C + columns, tl.sum(d * seen, 0), inside)
        d *= tl.load(taps + columns, inside, 0.0).to(tl.float32)[None, :]
    out = (batch * time + start) * C + rows[:, None] * C + columns[None, :]
    tl.store(d_u + out, d.to(d_u.dtype.element_ty), kept)
