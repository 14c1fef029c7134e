"""`chunk_gates` by Triton kernels: a chunk's products are formed on chip, and again for the gradient.

Only what runs on a GPU imports this, where Triton is installed.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.memory_modules.kernels.chunk_gates import ChunkGates
from titanlab.platform.first_order import first_order


def chunk_gates_on_gpu(
    keep: Tensor | None, momentum: Tensor | None, step: Tensor, inner_type: torch.dtype
) -> ChunkGates:
    """What `chunk_gates` returns for gates [n, g, c] in float32.

    Gates of the same strides, whose tokens lie side by side, are read where they are, and their gradients get such
    strides, too; others are copied. inner, the one large array, and its gradient are held in `inner_type`.
    """
    return ChunkGates(*_ChunkGates.apply(keep, momentum, step, inner_type))


SOME = 8
"""Rows that the gradient holds at once."""


class _ChunkGates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, keep: Tensor | None, momentum: Tensor | None, step: Tensor, inner_type: torch.dtype
    ) -> tuple[Tensor, ...]:
        keep, momentum, step = _alike(keep, momentum, step)
        n, g, c = step.shape
        p = 1 if momentum is None else 2
        read, write = step.new_empty(n, g, c, p), step.new_empty(n, g, c, p)
        inner, mix = step.new_empty(n, g, c, c, dtype=inner_type), step.new_empty(n, g, p, p)
        _forward[(n * g,)](
            step if keep is None else keep, step if momentum is None else momentum, step, read, inner, write, mix,
            g, *step.stride()[:2], **_options(keep, momentum, step),
        )  # fmt: skip
        ctx.save_for_backward(keep, momentum, step)
        return read, inner, write, mix

    @staticmethod
    @first_order
    def backward(ctx: Any, *d_gates: Tensor) -> tuple[Tensor | None, ...]:
        return *back_through_chunk_gates(*ctx.saved_tensors, *d_gates), None


def back_through_chunk_gates(
    keep: Tensor | None, momentum: Tensor | None, step: Tensor, *d_gates: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """The gradients of keep, momentum and step from those of read, inner, write and mix."""
    keep, momentum, step = _alike(keep, momentum, step)
    n, g, c = step.shape
    d_step = torch.empty_like(step)  # of its strides, or where these leave gaps, of such without
    d_keep, d_momentum = (None if gate is None else torch.empty_like(d_step) for gate in (keep, momentum))
    options = _options(keep, momentum, step)
    marks = step.new_empty(n * g, triton.cdiv(c, SOME), 2, options["BC"])
    _backward[(n * g,)](
        step if keep is None else keep, step if momentum is None else momentum, step,
        *(x.contiguous() for x in d_gates),
        d_step if d_keep is None else d_keep, d_step if d_momentum is None else d_momentum, d_step, marks,
        g, *step.stride()[:2], *d_step.stride()[:2], SOME=SOME, **options,
    )  # fmt: skip
    return d_keep, d_momentum, d_step


def _alike(keep: Tensor | None, momentum: Tensor | None, step: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """The gates as they are if one set of strides is that of all, and only tokens lie side by side; else contiguous."""
    by_chunk, by_head, by_token = step.stride()
    like_step = all(gate is None or gate.stride() == step.stride() for gate in (keep, momentum))
    if like_step and by_token == 1 < min(by_chunk, by_head):
        return keep, momentum, step
    keep, momentum = (None if gate is None else gate.contiguous() for gate in (keep, momentum))
    return keep, momentum, step.contiguous()


def _options(keep: Tensor | None, momentum: Tensor | None, step: Tensor) -> dict[str, Any]:
    return {
        "c": step.shape[2],
        "BC": triton.next_power_of_2(step.shape[2]),
        "KEEP": keep is not None,
        "MOMENTUM": momentum is not None,
        "num_warps": 1,
    }


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    keep, momentum, step, read, inner, write, mix, g, by_chunk, by_head,
    c: tl.constexpr, BC: tl.constexpr, KEEP: tl.constexpr, MOMENTUM: tl.constexpr,
):  # fmt: skip
    """One chunk of one head a program, one column of H and of A H = C / step a lane, row by row:

    H[t, i] = momentum_t H[t-1, i]      (A H)[t, i] = keep_t (A H)[t-1, i] + H[t, i]      H[i, i] = 1

    and h and gamma are the same from H[-1] = 1, a from (A H)[-1] = 1 and H = 0.
    """
    p: tl.constexpr = 2 if MOMENTUM else 1
    place = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BC)
    token = lanes < c
    gates = _place_of_gates(g, by_chunk, by_head)
    rate = tl.load(step + gates + lanes, token, 0.0)
    m, h = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    a, surprise, gamma = 1.0, 1.0, 0.0
    for t in range(c):
        row = place * c + t
        kept = tl.load(keep + gates + t) if KEEP else 1.0
        a *= kept
        tl.store(read + row * p, a)
        if MOMENTUM:
            carried = tl.load(momentum + gates + t)
            h = tl.where(lanes == t, 1.0, carried * h)
            m = kept * m + h
            surprise *= carried
            gamma = kept * gamma + surprise
            tl.store(read + row * p + 1, gamma)
        else:
            m = tl.where(lanes == t, 1.0, kept * m)
        tl.store(inner + row * c + lanes, m * rate, token)
    tl.store(write + (place * c + lanes) * p, m * rate, token)
    tl.store(mix + place * p * p, a)
    if MOMENTUM:
        tl.store(write + (place * c + lanes) * p + 1, h * rate, token)
        tl.store(mix + place * 4 + 1, gamma)
        tl.store(mix + place * 4 + 2, 0.0)
        tl.store(mix + place * 4 + 3, surprise)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    keep, momentum, step, d_read, d_inner, d_write, d_mix, d_keep, d_momentum, d_step, marks, g, by_chunk, by_head,
    d_by_chunk, d_by_head,
    c: tl.constexpr, BC: tl.constexpr, KEEP: tl.constexpr, MOMENTUM: tl.constexpr, SOME: tl.constexpr,
):  # fmt: skip
    """The same once more, which leaves marks before every `SOME` rows, then backward from the last rows to the first,
    each time after these rows again from their mark."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    BLOCKS: tl.constexpr = (c + SOME - 1) // SOME
    place = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BC)
    token = lanes < c
    tokens, gates = place * c, _place_of_gates(g, by_chunk, by_head)
    rate = tl.load(step + gates + lanes, token, 0.0)
    zeros = tl.zeros([BC], tl.float32)
    d_rate, g_m, g_h, d_kept, d_carried = zeros, zeros, zeros, zeros, zeros
    g_a, g_gamma, g_surprise = tl.load(d_mix + place * p * p), 0.0, 0.0
    d_last, d_felt = tl.load(d_write + (tokens + lanes) * p, token, 0.0), zeros
    if MOMENTUM:
        g_gamma, g_surprise = tl.load(d_mix + place * 4 + 1), tl.load(d_mix + place * 4 + 3)
        d_felt = tl.load(d_write + (tokens + lanes) * p + 1, token, 0.0)
        g_h = d_felt * rate
    marks += place * (BLOCKS * 2 * BC) + lanes
    m, h, a, surprise, gamma = zeros, zeros, 1.0, 1.0, 0.0
    marks_a, marks_surprise, marks_gamma = zeros, zeros, zeros  # in the lane of their number
    for block in range(BLOCKS):
        tl.store(marks + block * 2 * BC, m)
        tl.store(marks + block * 2 * BC + BC, h)
        here = lanes == block
        marks_a, marks_gamma = tl.where(here, a, marks_a), tl.where(here, gamma, marks_gamma)
        marks_surprise = tl.where(here, surprise, marks_surprise)
        for row in tl.static_range(SOME):
            m, h, a, surprise, gamma = _row(
                keep + gates, momentum + gates, m, h, a, surprise, gamma, block * SOME + row, lanes, c, KEEP, MOMENTUM
            )
    tl.debug_barrier()  # the marks are there for every lane
    for back in range(BLOCKS):
        block = tl.program_id(1) + BLOCKS - 1 - back  # 0 + ...: the interpreter wants a tensor
        begin = block * SOME
        m, h = tl.load(marks + block * 2 * BC), tl.load(marks + block * 2 * BC + BC)
        here = lanes == block
        a, gamma = tl.sum(tl.where(here, marks_a, 0.0)), tl.sum(tl.where(here, marks_gamma, 0.0))
        surprise = tl.sum(tl.where(here, marks_surprise, 0.0))
        ms, hs, others = (m,), (h,), ((a, surprise, gamma),)
        for row in tl.static_range(SOME):
            m, h, a, surprise, gamma = _row(
                keep + gates, momentum + gates, m, h, a, surprise, gamma, begin + row, lanes, c, KEEP, MOMENTUM
            )
            ms, hs, others = ms + (m,), hs + (h,), others + ((a, surprise, gamma),)  # type: ignore[assignment]
        if MOMENTUM:
            if back == 0:
                d_rate += d_felt * h
        for row in tl.static_range(SOME):
            t = begin + SOME - 1 - row
            line = tokens + tl.minimum(t, c - 1)
            kept, carried = _gates_of_row(keep + gates, momentum + gates, t, c, KEEP, MOMENTUM)
            d_row = tl.load(d_inner + line * c + lanes, token, 0.0).to(tl.float32)
            d_row = tl.where(t < c, d_row, 0.0)
            d_row += tl.where(t == c - 1, d_last, 0.0)
            d_rate += d_row * ms[SOME - row]
            g_m += d_row * rate
            g_a += tl.where(t < c, tl.load(d_read + line * p), 0.0)
            a, surprise, gamma = others[SOME - 1 - row]
            found = tl.sum(g_m * ms[SOME - 1 - row]) + g_a * a
            if MOMENTUM:
                g_gamma += tl.where(t < c, tl.load(d_read + line * p + 1), 0.0)
                g_h += g_m
                g_surprise += tl.where(t < c, g_gamma, 0.0)  # which holds d_mix from the beginning
                found += g_gamma * gamma
                d_carried += tl.where(lanes == t, tl.sum(g_h * hs[SOME - 1 - row]) + g_surprise * surprise, 0.0)
                g_h *= carried
                g_surprise *= carried
                g_gamma *= kept
            d_kept += tl.where(lanes == t, found, 0.0)
            g_m *= kept
            g_a *= kept
    d_gates = _place_of_gates(g, d_by_chunk, d_by_head)
    tl.store(d_step + d_gates + lanes, d_rate, token)
    if KEEP:
        tl.store(d_keep + d_gates + lanes, d_kept, token)
    if MOMENTUM:
        tl.store(d_momentum + d_gates + lanes, d_carried, token)


@triton.jit
def _place_of_gates(g, by_chunk, by_head):  # type: ignore[no-untyped-def]
    """Where the gates of a program's chunk and head begin."""
    place = tl.program_id(0)
    return (place // g).to(tl.int64) * by_chunk + (place % g).to(tl.int64) * by_head


@triton.jit
def _row(  # type: ignore[no-untyped-def]
    keep, momentum, m, h, a, surprise, gamma, t, lanes, c: tl.constexpr, KEEP: tl.constexpr, MOMENTUM: tl.constexpr,
):  # fmt: skip
    """A H, H, a, h and gamma of row t from those of the row before."""
    kept, carried = _gates_of_row(keep, momentum, t, c, KEEP, MOMENTUM)
    if MOMENTUM:
        h = tl.where(lanes == t, 1.0, carried * h)
        m = kept * m + h
        surprise = carried * surprise
        gamma = kept * gamma + surprise
    else:
        m = tl.where(lanes == t, 1.0, kept * m)
    return m, h, kept * a, surprise, gamma


@triton.jit
def _gates_of_row(  # type: ignore[no-untyped-def]
    keep, momentum, t, c: tl.constexpr, KEEP: tl.constexpr, MOMENTUM: tl.constexpr
):  # fmt: skip
    """keep and momentum of row t; 1 where t is beyond the last row, which leaves h and all gradients."""
    kept, carried = 1.0, 1.0
    if KEEP:
        kept = tl.where(t < c, tl.load(keep + tl.minimum(t, c - 1)), 1.0)
    if MOMENTUM:
        carried = tl.where(t < c, tl.load(momentum + tl.minimum(t, c - 1)), 1.0)
    return kept, carried
