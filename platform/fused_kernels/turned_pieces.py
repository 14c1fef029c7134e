"""Queries, keys and values of a row from one projection, cut along time: rotated in one pass, their gradient in one.

Attention within segments takes a row piece by piece. The gradient of each piece comes apart: here it is turned back and
put where it belongs in the gradient of the projection, in place of arrays that are cut, turned, added and joined. The
same of keys and values alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.platform.first_order import first_order
from titanlab.platform.fused_kernels.turned_heads import NUMBERS, WIDEST, turn


class TurnedPiece(NamedTuple):
    """Of the tokens of one piece, [b, t, h, d] each."""

    queries: Tensor
    turned_queries: Tensor
    keys: Tensor
    turned_keys: Tensor
    values: Tensor


class TurnedKeysValues(NamedTuple):
    """Of all tokens of a row, [b, t, h, d] each."""

    keys: Tensor
    turned_keys: Tensor
    values: Tensor


def fits(dim: int) -> bool:
    """Whether heads of `dim` are what these kernels were written for."""
    return dim <= WIDEST and dim % 2 == 0


def turned_pieces(qkv: Tensor, rotation: Tensor, heads: int, sizes: Sequence[int]) -> list[TurnedPiece]:
    """Cuts and turns.

    Args:
        qkv: [b, t, 3 h d], contiguous: queries, keys and values side by side.
        rotation: [2, t, d/2], cosines and sines of its tokens' angles.
        heads: h.
        sizes: tokens of each piece, t in all.
    """
    flat = _TurnedPieces.apply(qkv, rotation.contiguous(), heads, tuple(sizes), 3)
    width = len(TurnedPiece._fields)
    return [TurnedPiece(*flat[start : start + width]) for start in range(0, len(flat), width)]


def turned_keys_values(kv: Tensor, rotation: Tensor, heads: int) -> TurnedKeysValues:
    """Turns keys.

    Args:
        kv: [b, t, 2 h d], contiguous: keys and values side by side.
        rotation: [2, t, d/2], cosines and sines of its tokens' angles.
        heads: h.
    """
    return TurnedKeysValues(*_TurnedPieces.apply(kv, rotation.contiguous(), heads, (kv.shape[1],), 2))


class _TurnedPieces(torch.autograd.Function):
    """Of so many `parts` side by side, the last of which are the values; the others are handed on and turned, too."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, rotation: Tensor, heads: int, sizes: tuple[int, ...], parts: int
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(rotation)
        ctx.shape, ctx.dtype, ctx.heads, ctx.sizes, ctx.parts = rows.shape, rows.dtype, heads, sizes, parts
        plain = rows.detach().unflatten(-1, (parts * heads, -1))
        turned = turn(plain[:, :, : (parts - 1) * heads].transpose(1, 2), rotation, back=False).transpose(1, 2)
        *plain_parts, values = plain.split(heads, 2)
        pairs = zip(plain_parts, turned.split(heads, 2), strict=True)
        wholes = (*(x for pair in pairs for x in pair), values)
        return tuple(x for piece in zip(*(whole.split(sizes, 1) for whole in wholes), strict=True) for x in piece)

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (rotation,) = ctx.saved_tensors
        batch, time, channels = ctx.shape
        dim, start = channels // (ctx.parts * ctx.heads), 0
        d_rows = torch.empty(ctx.shape, dtype=ctx.dtype, device=rotation.device)
        half = triton.next_power_of_2(dim // 2)
        rows, width = max(1, NUMBERS // half), 2 * ctx.parts - 1
        for number, size in enumerate(ctx.sizes):
            given = [None] * (5 - width) + list(gradients[number * width : (number + 1) * width])
            placed = [rotation if x is None else x.contiguous() for x in given]
            _assemble[(triton.cdiv(size * ctx.heads, rows), batch)](
                *placed, rotation, d_rows, start, size, time, ctx.heads, *(x is not None for x in given),
                PARTS=ctx.parts, HALF=dim // 2, BR=rows, BH=half, num_warps=4,
            )  # fmt: skip
            start += size
        return d_rows, None, None, None, None


@triton.jit
def _pair(source, places, inside, HALF: tl.constexpr, GIVEN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Both halves of heads, 0 where there are none."""
    if GIVEN:
        first, second = tl.load(source + places, inside, 0.0), tl.load(source + places + HALF, inside, 0.0)
        return first.to(tl.float32), second.to(tl.float32)
    else:
        return tl.zeros(places.shape, tl.float32), tl.zeros(places.shape, tl.float32)


@triton.jit
def _assemble(  # type: ignore[no-untyped-def]
    d_q, d_turned_q, d_k, d_turned_k, d_v, rotation, d_rows, start, size, time, H, Q: tl.constexpr,
    TURNED_Q: tl.constexpr, K: tl.constexpr, TURNED_K: tl.constexpr, V: tl.constexpr, PARTS: tl.constexpr,
    HALF: tl.constexpr, BR: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows, pairs = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR), tl.arange(0, BH)
    token, head = start + rows // H, rows % H
    inside = (rows < size * H)[:, None] & (pairs < HALF)[None, :]
    places = (batch * size * H + rows)[:, None] * (2 * HALF) + pairs[None, :]
    angle = rotation + token[:, None] * HALF + pairs[None, :]
    cos, sin = tl.load(angle, inside, 0.0), tl.load(angle + time * HALF, inside, 0.0)
    target = d_rows + ((batch * time + token) * (PARTS * H) + head)[:, None] * (2 * HALF) + pairs[None, :]
    if PARTS == 3:
        first, second = _pair(d_turned_q, places, inside, HALF, TURNED_Q)
        plain_first, plain_second = _pair(d_q, places, inside, HALF, Q)
        tl.store(target, (first * cos + second * sin + plain_first).to(d_rows.dtype.element_ty), inside)
        tl.store(target + HALF, (second * cos - first * sin + plain_second).to(d_rows.dtype.element_ty), inside)
        target += H * (2 * HALF)
    first, second = _pair(d_turned_k, places, inside, HALF, TURNED_K)
    plain_first, plain_second = _pair(d_k, places, inside, HALF, K)
    tl.store(target, (first * cos + second * sin + plain_first).to(d_rows.dtype.element_ty), inside)
    tl.store(target + HALF, (second * cos - first * sin + plain_second).to(d_rows.dtype.element_ty), inside)
    target += H * (2 * HALF)
    first, second = _pair(d_v, places, inside, HALF, V)
    tl.store(target, first.to(d_rows.dtype.element_ty), inside)
    tl.store(target + HALF, second.to(d_rows.dtype.element_ty), inside)
