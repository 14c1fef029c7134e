"""`chunk_gates` by Triton kernels: a chunk's products are formed on chip, and again for the gradient.

Only what runs on a GPU imports this, where Triton is installed.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.memory_modules.kernels.chunk_gates import ChunkGates


def chunk_gates_on_gpu(
    keep: Tensor | None, momentum: Tensor | None, step: Tensor, inner_type: torch.dtype
) -> ChunkGates:
    """What `chunk_gates` returns for gates [n, g, c] in float32, with products rounded to 11 bits on a GPU.

    inner, the one large array, and its gradient are held in `inner_type`.
    """
    return ChunkGates(*_ChunkGates.apply(keep, momentum, step, inner_type))


class _ChunkGates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, keep: Tensor | None, momentum: Tensor | None, step: Tensor, inner_type: torch.dtype
    ) -> tuple[Tensor, ...]:
        n, g, c = step.shape
        p = 1 if momentum is None else 2
        read, write = step.new_empty(n, g, c, p), step.new_empty(n, g, c, p)
        inner, mix = step.new_empty(n, g, c, c, dtype=inner_type), step.new_empty(n, g, p, p)
        _forward[(n * g,)](
            step if keep is None else keep, step if momentum is None else momentum, step, read, inner, write, mix, c,
            **_options(ctx, keep, momentum, step),
        )  # fmt: skip
        ctx.save_for_backward(keep, momentum, step)
        return read, inner, write, mix

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *d_gates: Tensor) -> tuple[Tensor | None, ...]:
        keep, momentum, step = ctx.saved_tensors
        n, g, c = step.shape
        d_step = torch.empty_like(step)
        d_keep, d_momentum = (None if gate is None else torch.empty_like(gate) for gate in (keep, momentum))
        _backward[(n * g,)](
            step if keep is None else keep, step if momentum is None else momentum, step,
            *(x.contiguous() for x in d_gates),
            d_step if d_keep is None else d_keep, d_step if d_momentum is None else d_momentum, d_step, c,
            **_options(ctx, keep, momentum, step),
        )  # fmt: skip
        return d_keep, d_momentum, d_step, None


def _options(ctx: Any, keep: Tensor | None, momentum: Tensor | None, step: Tensor) -> dict[str, Any]:
    return {
        "BC": max(16, triton.next_power_of_2(step.shape[2])),
        "KEEP": keep is not None,
        "MOMENTUM": momentum is not None,
        "PRECISION": "tf32" if step.is_cuda else "ieee",
        "num_warps": 8,
    }


@triton.jit
def _products_within(gate, late, early):  # type: ignore[no-untyped-def]
    """P[t, s] = prod_{s<j<=t} gate_j for s <= t, else 0."""
    after = late[:, None] > early[None, :]
    return tl.where(late[:, None] >= early[None, :], tl.cumprod(tl.where(after, gate[:, None], 1.0), 0), 0.0)


@triton.jit
def _gradient_of_gate(gate, products, d_products, d_from_start, rows, c, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """d gate_j from the gradients of P and of the products from the chunk's start, by leaving factor j out."""
    before = tl.load(gate + rows - 1, (rows > 0) & (rows <= c), 1.0)
    without = tl.dot(d_products, tl.trans(_products_within(before, rows - 1, rows)), input_precision=PRECISION)
    without += d_from_start[:, None] * tl.cumprod(before, 0)[None, :]
    return tl.sum(products * without, 0)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    keep, momentum, step, read, inner, write, mix, c,
    BC: tl.constexpr, KEEP: tl.constexpr, MOMENTUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one head a program."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    place = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, BC)
    token, last = rows < c, rows == c - 1
    square = token[:, None] & token[None, :]
    kept = tl.load(keep + place * c + rows, token & KEEP, 1.0)
    rate = tl.load(step + place * c + rows, token, 0.0)
    a = tl.cumprod(kept, 0)
    A = _products_within(kept, rows, rows)
    if MOMENTUM:
        carried = tl.load(momentum + place * c + rows, token, 1.0)
        h = tl.cumprod(carried, 0)
        H = _products_within(carried, rows, rows)
        gamma = tl.sum(A * h[None, :], 1)
        C = tl.dot(A, H, input_precision=PRECISION) * rate[None, :]
        felt = tl.sum(tl.where(last[:, None], H, 0.0), 0) * rate
        tl.store(read + (place * c + rows) * p + 1, gamma, token)
        tl.store(write + (place * c + rows) * p + 1, felt, token)
        tl.store(mix + place * 4 + 1, tl.sum(tl.where(last, gamma, 0.0)))
        tl.store(mix + place * 4 + 2, 0.0)
        tl.store(mix + place * 4 + 3, tl.sum(tl.where(last, h, 0.0)))
    else:
        C = A * rate[None, :]
    tl.store(inner + (place * c + rows)[:, None] * c + rows[None, :], C, square)
    tl.store(read + (place * c + rows) * p, a, token)
    tl.store(write + (place * c + rows) * p, tl.sum(tl.where(last[:, None], C, 0.0), 0), token)
    tl.store(mix + place * p * p, tl.sum(tl.where(last, a, 0.0)))


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    keep, momentum, step, d_read, d_inner, d_write, d_mix, d_keep, d_momentum, d_step, c,
    BC: tl.constexpr, KEEP: tl.constexpr, MOMENTUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of one head a program."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    place = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, BC)
    token, last = rows < c, rows == c - 1
    square = token[:, None] & token[None, :]
    kept = tl.load(keep + place * c + rows, token & KEEP, 1.0)
    rate = tl.load(step + place * c + rows, token, 0.0)
    A = _products_within(kept, rows, rows)
    d_a = tl.load(d_read + (place * c + rows) * p, token, 0.0)
    d_a += tl.where(last, tl.load(d_mix + place * p * p), 0.0)
    d_C = tl.load(d_inner + (place * c + rows)[:, None] * c + rows[None, :], square, 0.0).to(tl.float32)
    d_C += tl.where(last[:, None], tl.load(d_write + (place * c + rows) * p, token, 0.0)[None, :], 0.0)
    if MOMENTUM:
        carried = tl.load(momentum + place * c + rows, token, 1.0)
        h = tl.cumprod(carried, 0)
        H = _products_within(carried, rows, rows)
        d_rate = tl.sum(d_C * tl.dot(A, H, input_precision=PRECISION), 0)
        d_C *= rate[None, :]
        d_gamma = tl.load(d_read + (place * c + rows) * p + 1, token, 0.0)
        d_gamma += tl.where(last, tl.load(d_mix + place * 4 + 1), 0.0)
        d_h = tl.sum(A * d_gamma[:, None], 0) + tl.where(last, tl.load(d_mix + place * 4 + 3), 0.0)
        d_felt = tl.load(d_write + (place * c + rows) * p + 1, token, 0.0)
        d_rate += d_felt * tl.sum(tl.where(last[:, None], H, 0.0), 0)
        d_H = tl.dot(tl.trans(A), d_C, input_precision=PRECISION)
        d_H += tl.where(last[:, None], (d_felt * rate)[None, :], 0.0)
        d_A = tl.dot(d_C, tl.trans(H), input_precision=PRECISION) + d_gamma[:, None] * h[None, :]
        result = _gradient_of_gate(momentum + place * c, H, d_H, d_h, rows, c, PRECISION)
        tl.store(d_momentum + place * c + rows, result, token)
    else:
        d_rate = tl.sum(d_C * A, 0)
        d_A = d_C * rate[None, :]
    if KEEP:
        result = _gradient_of_gate(keep + place * c, A, d_A, d_a, rows, c, PRECISION)
        tl.store(d_keep + place * c + rows, result, token)
    tl.store(d_step + place * c + rows, d_rate, token)
