"""One softmax over keys that were attended to in two or three parts, in one pass: see attention's `merging`.

out = sum_i w_i out_i      w = softmax_i(log_sum_i)      d log_sum_i = w_i (d_out out_i - d_out out)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.platform.first_order import first_order

WIDEST = 512
"""Head dimension up to which these kernels are used."""
MOST = 3
"""Parts."""
NUMBERS = 2048
"""Of each part that a program holds."""


def fits(outs: Sequence[Tensor]) -> bool:
    """Whether so many parts of such heads are what these kernels were written for."""
    return 2 <= len(outs) <= MOST and outs[0].shape[-1] <= WIDEST


def weighted_parts(outs: Sequence[Tensor], log_sums: Sequence[Tensor]) -> Tensor:
    """The output over the keys of all parts.

    Args:
        outs: two or three of [b, h, t, d].
        log_sums: as many of [b, h, t], float32.

    Returns:
        [b, h, t, d] in the first part's type, of which the heads of a token stand side by side.
    """
    rows = [out if out.stride(-1) == 1 else out.contiguous() for out in outs]
    return _WeightedParts.apply(len(outs), *rows, *log_sums)


def weighted_with_sum(outs: Sequence[Tensor], log_sums: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The same without a gradient, and the logarithm of the sum over all parts, [b, h, t] in float32."""
    outs = [out if out.stride(-1) == 1 else out.contiguous() for out in outs]
    batch, heads, time, dim = outs[0].shape
    y = torch.empty(batch, time, heads, dim, dtype=outs[0].dtype, device=outs[0].device)
    log_sum = torch.empty(batch, heads, time, dtype=torch.float32, device=y.device)
    call = _Call(outs, log_sums)
    _forward[call.grid](*call.inputs, y, log_sum, *call.sizes, **call.constants)
    return y.transpose(1, 2), log_sum


class _WeightedParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, *parts: Tensor) -> Tensor:
        y, _ = weighted_with_sum(parts[:count], parts[count:])
        ctx.save_for_backward(*parts)
        ctx.count = count
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        outs, log_sums = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        call = _Call(outs, log_sums)
        d_y = d_y.transpose(1, 2).contiguous()
        d_outs = [torch.empty(d_y.shape, dtype=out.dtype, device=d_y.device) for out in outs]
        d_sums = [torch.empty(x.shape, dtype=x.dtype, device=d_y.device) for x in log_sums]
        _backward[call.grid](*call.inputs, d_y, *_three(d_outs), *_three(d_sums), *call.sizes, **call.constants)
        return None, *(d_out.transpose(1, 2) for d_out in d_outs), *d_sums


def _three(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The parts, for a kernel that has room for three."""
    return parts[0], parts[1], parts[-1]


class _Call:
    """Sizes and arguments that the kernels of one call share."""

    def __init__(self, outs: Sequence[Tensor], log_sums: Sequence[Tensor]) -> None:
        batch, heads, time, dim = outs[0].shape
        width = triton.next_power_of_2(dim)
        rows = max(1, NUMBERS // width)
        self.grid = (triton.cdiv(time * heads, rows), batch)
        self.inputs = (*_three(outs), *_three(log_sums))
        places = [stride for x in (*_three(outs), *_three(log_sums)) for stride in x.stride()[:3]]
        self.sizes = (time, heads, *places)
        self.constants = {"COUNT": len(outs), "D": dim, "BR": rows, "BD": width, "num_warps": 4}


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    out_0, out_1, out_2, sum_0, sum_1, sum_2, y, log_sum, time, H, row_0, head_0, step_0, row_1, head_1, step_1, row_2,
    head_2, step_2, sum_row_0, sum_head_0, sum_step_0, sum_row_1, sum_head_1, sum_step_1, sum_row_2, sum_head_2,
    sum_step_2, COUNT: tl.constexpr, D: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows, dims = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, BD)
    token, head = rows // H, rows % H
    real = token < time
    inside = real[:, None] & (dims < D)[None, :]
    l_0 = tl.load(sum_0 + batch * sum_row_0 + token * sum_step_0 + head * sum_head_0, real, 0.0)
    l_1 = tl.load(sum_1 + batch * sum_row_1 + token * sum_step_1 + head * sum_head_1, real, 0.0)
    most = tl.maximum(l_0, l_1)
    if COUNT == 3:
        l_2 = tl.load(sum_2 + batch * sum_row_2 + token * sum_step_2 + head * sum_head_2, real, 0.0)
        most = tl.maximum(most, l_2)
    w_0, w_1 = tl.exp(l_0 - most), tl.exp(l_1 - most)
    total = w_0 + w_1
    places = dims[None, :]
    x = tl.load(out_0 + batch * row_0 + (token * step_0 + head * head_0)[:, None] + places, inside, 0.0)
    mixed = x.to(tl.float32) * w_0[:, None]
    x = tl.load(out_1 + batch * row_1 + (token * step_1 + head * head_1)[:, None] + places, inside, 0.0)
    mixed += x.to(tl.float32) * w_1[:, None]
    if COUNT == 3:
        w_2 = tl.exp(l_2 - most)
        total += w_2
        x = tl.load(out_2 + batch * row_2 + (token * step_2 + head * head_2)[:, None] + places, inside, 0.0)
        mixed += x.to(tl.float32) * w_2[:, None]
    mixed = mixed / total[:, None]
    tl.store(log_sum + (batch * H + head) * time + token, most + tl.log(total), real)
    tl.store(y + (batch * time * H + rows)[:, None] * D + places, mixed.to(y.dtype.element_ty), inside)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    out_0, out_1, out_2, sum_0, sum_1, sum_2, d_y, d_out_0, d_out_1, d_out_2, d_sum_0, d_sum_1, d_sum_2, time, H,
    row_0, head_0, step_0, row_1, head_1, step_1, row_2, head_2, step_2, sum_row_0, sum_head_0, sum_step_0, sum_row_1,
    sum_head_1, sum_step_1, sum_row_2, sum_head_2, sum_step_2, COUNT: tl.constexpr, D: tl.constexpr, BR: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows, dims = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, BD)
    token, head = rows // H, rows % H
    real = token < time
    inside = real[:, None] & (dims < D)[None, :]
    l_0 = tl.load(sum_0 + batch * sum_row_0 + token * sum_step_0 + head * sum_head_0, real, 0.0)
    l_1 = tl.load(sum_1 + batch * sum_row_1 + token * sum_step_1 + head * sum_head_1, real, 0.0)
    most = tl.maximum(l_0, l_1)
    if COUNT == 3:
        l_2 = tl.load(sum_2 + batch * sum_row_2 + token * sum_step_2 + head * sum_head_2, real, 0.0)
        most = tl.maximum(most, l_2)
    w_0, w_1 = tl.exp(l_0 - most), tl.exp(l_1 - most)
    total = w_0 + w_1
    if COUNT == 3:
        w_2 = tl.exp(l_2 - most)
        total += w_2
        w_2 = w_2 / total
    w_0, w_1 = w_0 / total, w_1 / total
    places = dims[None, :]
    target = (batch * time * H + rows)[:, None] * D + places
    d = tl.load(d_y + target, inside, 0.0).to(tl.float32)
    x = tl.load(out_0 + batch * row_0 + (token * step_0 + head * head_0)[:, None] + places, inside, 0.0)
    along_0 = tl.sum(d * x.to(tl.float32), 1)
    x = tl.load(out_1 + batch * row_1 + (token * step_1 + head * head_1)[:, None] + places, inside, 0.0)
    along_1 = tl.sum(d * x.to(tl.float32), 1)
    along = w_0 * along_0 + w_1 * along_1
    tl.store(d_out_0 + target, (d * w_0[:, None]).to(d_out_0.dtype.element_ty), inside)
    tl.store(d_out_1 + target, (d * w_1[:, None]).to(d_out_1.dtype.element_ty), inside)
    place = (batch * H + head) * time + token
    if COUNT == 3:
        x = tl.load(out_2 + batch * row_2 + (token * step_2 + head * head_2)[:, None] + places, inside, 0.0)
        along_2 = tl.sum(d * x.to(tl.float32), 1)
        along += w_2 * along_2
        tl.store(d_out_2 + target, (d * w_2[:, None]).to(d_out_2.dtype.element_ty), inside)
        tl.store(d_sum_2 + place, w_2 * (along_2 - along), real)
    tl.store(d_sum_0 + place, w_0 * (along_0 - along), real)
    tl.store(d_sum_1 + place, w_1 * (along_1 - along), real)
