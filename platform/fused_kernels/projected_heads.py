"""Queries, keys and values from their projections: causal depthwise convolution, SiLU and L2 norm in one pass.

    u_t = sum_j tap_j x_{t - w + 1 + j}      s = u sigmoid(u)      y = s / max(||s||, 1e-6) over a head, where normed

The gradient is one pass, too: projected_heads_back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.platform.fused_kernels.projected_heads_back import projected_heads_back
from titanlab.platform.fused_kernels.summed_shares import summed_shares

WIDEST, LONGEST = 256, 8
"""Head dimension, and width of the convolution, up to which these kernels are used."""
EPSILON = 1e-6
TOKENS = 64
"""Of a program."""
COLUMNS, ROWS = 128, 5
"""Of a token in a warp of the gradient, half as many where w > 4, and tokens that are on their way to it: all in
registers, 168 of a thread for a head of 64 in bfloat16."""
PROGRAMS, FEWEST_TOKENS = 1584, 32
"""Of the gradient, about at most: the warps that 132 multiprocessors have such registers for; each leaves a gradient of
the taps, to be added up. And tokens of one, which reads up to w - 1 more on either side."""


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
        _forward[call.grid](*call.inputs, *call.three(parts), BT=TOKENS, **call.constants)
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
        d_x, d_before, d_taps = call.back(given)
        if d_before is not None:
            call.add_newest(d_x, d_before, d_results[-1])
        wanted = ctx.needs_input_grad
        return (
            d_x if wanted[0] else None,
            d_before if wanted[1] else None,
            summed_shares(d_taps).mT.to(taps.dtype) if taps is not None and wanted[2] else None,
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
        self.heads, self.parts = heads, len(normed)
        self.grid = (self.parts * heads, self.batch * triton.cdiv(self.time, TOKENS))
        earlier = x if before is None else before
        self.inputs = (
            x, earlier, x if taps is None else taps, self.time, *x.stride()[:2], *earlier.stride()[:2], heads
        )  # fmt: skip
        self.constants = {
            "W": self.width,
            "D": self.dim,
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

    def back(self, d_parts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Gradients from those of the parts, [b, t, h, d] each and contiguous: of x, of the tokens before it where
        there are any, and of the taps from every program, [programs, w, parts h d]."""
        columns = COLUMNS if self.width <= 4 else COLUMNS // 2
        dim = triton.next_power_of_2(self.dim)
        together = min(max(columns // dim, 1), triton.next_power_of_2(self.heads))
        groups = self.parts * triton.cdiv(self.heads, together)
        tiles = max(1, min(PROGRAMS // (groups * self.batch), self.time // FEWEST_TOKENS))
        # whole rounds, which would else end among the tokens of the next program
        tokens = triton.cdiv(self.time, tiles * ROWS) * ROWS
        programs = self.batch * triton.cdiv(self.time, tokens)
        d_x = torch.empty(self.x.shape, dtype=self.x.dtype, device=self.x.device)
        d_before = None if self.before is None else torch.empty_like(self.before, memory_format=torch.contiguous_format)
        shape = (programs if self.taps is not None else 0, self.width, self.channels)
        d_taps = torch.empty(shape, dtype=torch.float32, device=self.x.device)
        projected_heads_back[groups, programs](
            *self.inputs, *self.three(d_parts), d_x, d_x if d_before is None else d_before, d_taps, self.channels,
            tokens, BH=together, ROWS=ROWS, num_warps=max(dim // columns, 1), **self.constants,
        )  # fmt: skip
        return d_x, d_before, d_taps


@triton.jit
def _rows_of(  # type: ignore[no-untyped-def]
    x, before, start, rows, columns, time, x_step, before_step, inside, W: tl.constexpr,
):  # fmt: skip
    """Rows of x, those below 0 from the tokens before it; `x` stands at row `start`."""
    row = start + rows
    found = tl.load(
        x + rows[:, None] * x_step + columns[None, :], ((row >= 0) & (row < time))[:, None] & inside[None, :], 0.0
    ).to(tl.float32)
    if W > 1:
        if start < W - 1:  # no other tile reaches below 0
            place = tl.where(row < 0, row + (W - 1), 0)
            earlier = tl.load(
                before + place[:, None] * before_step + columns[None, :], (row < 0)[:, None] & inside[None, :], 0.0
            )
            # as the rows of x are held
            found += earlier.to(x.dtype.element_ty).to(tl.float32)
    return found


@triton.jit
def _convolved(  # type: ignore[no-untyped-def]
    x, before, taps, start, rows, columns, time, x_step, before_step, inside, W: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    total = _rows_of(x, before, start, rows, columns, time, x_step, before_step, inside, W)
    if TAPS:
        total *= tl.load(taps + columns * W + (W - 1), inside, 0.0).to(tl.float32)[None, :]
        for back in tl.static_range(1, W):
            tap = tl.load(taps + columns * W + (W - 1 - back), inside, 0.0).to(tl.float32)
            earlier = _rows_of(x, before, start, rows - back, columns, time, x_step, before_step, inside, W)
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
