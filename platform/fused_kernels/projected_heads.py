"""Queries, keys and values from their projections: causal depthwise convolution, SiLU and L2 norm in one pass.

    u_t = sum_j tap_j x_{t - w + 1 + j}      s = u sigmoid(u)      y = s / max(||s||, 1e-6) over a head, where normed

One pass forward, projected_heads_forward, and one for the gradient, projected_heads_back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from titanlab.platform.first_order import first_order
from titanlab.platform.fused_kernels.projected_heads_back import projected_heads_back
from titanlab.platform.fused_kernels.projected_heads_forward import projected_heads_forward
from titanlab.platform.fused_kernels.summed_shares import summed_shares

WIDEST, LONGEST = 256, 8
"""Head dimension, and width of the convolution, up to which these kernels are used."""
EPSILON = 1e-6
COLUMNS, FEWEST_TOKENS = 128, 32
"""Of a token in a warp, half as many where w > 4, and tokens of a program, which reads up to w - 1 more on a side."""
FORWARD_ROWS, FORWARD_PROGRAMS = 8, 3300
"""Tokens that are on their way to a warp, and programs, about at most: the warps that 132 multiprocessors have
registers for, 80 of a thread for a head of 64 in bfloat16."""
ROWS, PROGRAMS = 5, 1584
"""The same of the gradient, with 168 registers; each program leaves a gradient of the taps, to be added up."""


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
        call.forward(parts)
        ctx.save_for_backward(x, before, taps)
        ctx.heads, ctx.normed = heads, normed
        return (*parts, *call.newest())

    @staticmethod
    @first_order
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
        columns, dim = COLUMNS if self.width <= 4 else COLUMNS // 2, triton.next_power_of_2(self.dim)
        self.together = min(max(columns // dim, 1), triton.next_power_of_2(heads))
        self.groups = self.parts * triton.cdiv(heads, self.together)
        earlier = x if before is None else before
        self.inputs = (
            x, earlier, x if taps is None else taps, self.time, *x.stride()[:2], *earlier.stride()[:2], heads
        )  # fmt: skip
        self.constants = {
            "W": self.width,
            "D": self.dim,
            "BD": dim,
            "BH": self.together,
            "num_warps": max(dim // columns, 1),
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

    def cut(self, most: int, rows: int) -> tuple[int, int]:
        """Programs along all tokens, of about `most` in all, and tokens of each: whole rounds of `rows`, which would
        else end among the tokens of the next program."""
        tiles = max(1, min(most // (self.groups * self.batch), self.time // FEWEST_TOKENS))
        tokens = triton.cdiv(self.time, tiles * rows) * rows
        return self.batch * triton.cdiv(self.time, tokens), tokens

    def forward(self, parts: Sequence[Tensor]) -> None:
        """Computes the parts, [b, t, h, d] each and contiguous."""
        programs, tokens = self.cut(FORWARD_PROGRAMS, FORWARD_ROWS)
        projected_heads_forward[self.groups, programs](
            *self.inputs, *self.three(parts), tokens, ROWS=FORWARD_ROWS, **self.constants
        )

    def back(self, d_parts: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Gradients from those of the parts, [b, t, h, d] each and contiguous: of x, of the tokens before it where
        there are any, and of the taps from every program, [programs, w, parts h d]."""
        programs, tokens = self.cut(PROGRAMS, ROWS)
        d_x = torch.empty(self.x.shape, dtype=self.x.dtype, device=self.x.device)
        d_before = None if self.before is None else torch.empty_like(self.before, memory_format=torch.contiguous_format)
        shape = (programs if self.taps is not None else 0, self.width, self.channels)
        d_taps = torch.empty(shape, dtype=torch.float32, device=self.x.device)
        projected_heads_back[self.groups, programs](
            *self.inputs, *self.three(d_parts), d_x, d_x if d_before is None else d_before, d_taps, self.channels,
            tokens, ROWS=ROWS, **self.constants,
        )  # fmt: skip
        return d_x, d_before, d_taps
