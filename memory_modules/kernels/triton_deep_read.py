"""What a memory of two matrices answers to queries, nothing written, in one Triton kernel; its gradient in another.

    y = f(q W_1) W_2  (+ q)

The hidden units of a token never leave the chip, and nothing but the arguments is kept for the gradient. Where a head's
matrices are not for the registers of a program, or only some gradients are wanted, the queries' gradient and the
matrices' have a kernel each. Only `read_deep_memory` imports this, where `kernels_take` chose it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.memory_modules.kernels.triton_activations import value_and_slope, value_of
from titanlab.platform.first_order import first_order
from titanlab.platform.triton_assembler import assembler_fault

HEAD_DIMS = (16, 128)
TOKENS, UNITS = 64, 64
"""Of a tile."""
MOST_UNITS, MOST_NUMBERS = 256, 128 * 128
"""Of a matrix whose gradient a program sums in registers beside the other's, both padded: 128 of a thread's at most."""
FEW_UNITS, FEW_DIMS = 128, 64
"""Of a matrix up to which a tile of TOKENS fits beside them; half as many tokens above."""
PROGRAMS, FEWEST_TOKENS = 132, 64
"""Of the gradient in one kernel, about at most: one for each multiprocessor. Where there are fewer heads, several walk
over the tokens of one and leave float32 shares, to be added up. And tokens of one."""


def fits(q: Tensor, first: Tensor, second: Tensor) -> bool:
    """Whether these kernels were written for such arguments, and can be assembled here."""
    lower = q.dtype in (torch.bfloat16, torch.float16)  # of float32 torch takes the products exactly
    return lower and HEAD_DIMS[0] <= q.shape[3] <= HEAD_DIMS[1] and not (q.is_cuda and assembler_fault())


def deep_read(q: Tensor, first: Tensor, second: Tensor, activation: str, residual: bool) -> Tensor:
    """The function above.

    Args:
        q: [b, t, h, d], bfloat16 or float16, the type of all products; sums are float32.
        first: [b, h, d, hidden], in any type; rounded to q's, and kept so for the gradient.
        second: [b, h, hidden, d].
        activation: a name in ACTIVATIONS.
        residual: whether q is added.

    Returns:
        [b, t, h, d], contiguous, in q's type.
    """
    q = q if q.stride(3) == 1 else q.contiguous()
    first, second = (matrix if _inner(matrix) else matrix.contiguous() for matrix in (first, second))
    return _DeepRead.apply(q, first, second, activation, residual)


def _inner(matrix: Tensor) -> bool:
    """Whether each head's matrix is contiguous."""
    return matrix.stride(3) == 1 and matrix.stride(2) == matrix.shape[3]


class _DeepRead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, first: Tensor, second: Tensor, activation: str, residual: bool) -> Tensor:
        y = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        ctx.types = first.dtype, second.dtype
        first, second = first.to(q.dtype), second.to(q.dtype)  # every program reads all of them
        call = _Call(q, first, second, activation, residual)
        _forward[call.of_tokens](q, first, second, y, *call.sizes, **call.constants)
        ctx.save_for_backward(q, first, second)
        ctx.activation, ctx.residual = activation, residual
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        q, first, second = ctx.saved_tensors
        call, d_y = _Call(q, first, second, ctx.activation, ctx.residual), d_y.contiguous()
        d_q = d_first = d_second = None
        if ctx.needs_input_grad[0] and any(ctx.needs_input_grad[1:3]) and call.fits_registers:
            return *call.back(q, first, second, d_y, ctx.types), None, None
        if ctx.needs_input_grad[0]:
            d_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
            _backward_queries[call.of_tokens](q, first, second, d_y, d_q, *call.sizes, **call.constants)
        if any(ctx.needs_input_grad[1:3]):
            d_first, d_second = (
                torch.empty(x.shape, dtype=dtype, device=x.device)
                for x, dtype in zip((first, second), ctx.types, strict=True)
            )
            del call.constants["RESIDUAL"]
            _backward_matrices[call.of_units](q, first, second, d_y, d_first, d_second, *call.sizes, **call.constants)
        return d_q, d_first, d_second, None, None


class _Call:
    """Sizes and arguments that the kernels of one call share."""

    def __init__(self, q: Tensor, first: Tensor, second: Tensor, activation: str, residual: bool) -> None:
        batch, time, heads, dim = q.shape
        hidden = first.shape[3]
        self.of_tokens = (batch * heads, triton.cdiv(time, TOKENS))
        self.of_units = (batch * heads, triton.cdiv(hidden, UNITS))
        self.units = max(triton.next_power_of_2(hidden), UNITS)
        numbers = self.units * triton.next_power_of_2(dim)
        # rows of whole 16 bytes: else a number's address takes the registers
        self.fits_registers = self.units <= MOST_UNITS and numbers <= MOST_NUMBERS and dim % 8 == 0
        self.sizes = (time, heads, *q.stride()[:3], *first.stride()[:2], *second.stride()[:2])
        self.constants = {
            "F": hidden,
            "D": dim,
            "BT": TOKENS,
            "BD": triton.next_power_of_2(dim),
            "BF": UNITS,
            "RESIDUAL": residual,
            "ACTIVATION": activation,
            "EXACT": not q.is_cuda,
            "num_warps": 4,
            "num_stages": 3,
        }

    def back(
        self, q: Tensor, first: Tensor, second: Tensor, d_y: Tensor, types: tuple[torch.dtype, torch.dtype]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All gradients in one kernel, the matrices' in `types`."""
        heads, time = self.of_tokens[0], q.shape[1]
        tile = TOKENS if self.units <= FEW_UNITS and q.shape[3] <= FEW_DIMS else TOKENS // 2
        tokens = triton.cdiv(time, max(1, min(PROGRAMS // heads, time // FEWEST_TOKENS)) * tile) * tile
        programs = triton.cdiv(time, tokens)
        d_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        shares = [
            torch.empty((programs, *x.shape), dtype=dtype if programs == 1 else torch.float32, device=x.device)
            for x, dtype in zip((first, second), types, strict=True)
        ]
        constants = self.constants | {"BT": tile, "BF": self.units, "num_warps": 8}
        _backward[heads, programs](q, first, second, d_y, d_q, *shares, tokens, *self.sizes, **constants)
        d_first, d_second = (
            share[0] if programs == 1 else share.sum(0).to(dtype) for share, dtype in zip(shares, types, strict=True)
        )
        return d_q, d_first, d_second


@triton.jit
def _product(a, b, EXACT: tl.constexpr):  # type: ignore[no-untyped-def]
    # the interpreter cannot multiply bfloat16: rounded, but multiplied as float32
    return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee") if EXACT else tl.dot(a, b)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    q, first, second, y, time, H, q_row, q_step, q_head, first_row, first_head, second_row, second_head,
    F: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr, RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    rows, dims = tl.program_id(1).to(tl.int64) * BT + tl.arange(0, BT), tl.arange(0, BD)
    inside = (rows < time)[:, None] & (dims < D)[None, :]
    query = tl.load(q + batch * q_row + head * q_head + rows[:, None] * q_step + dims[None, :], inside, 0.0)
    first += batch * first_row + head * first_head
    second += batch * second_row + head * second_head
    total = query.to(tl.float32) if RESIDUAL else tl.zeros((BT, BD), tl.float32)
    for start in range(0, F, BF):
        units = start + tl.arange(0, BF)
        here = (dims < D)[:, None] & (units < F)[None, :]
        w1 = tl.load(first + dims[:, None] * F + units[None, :], here, 0.0)
        w2 = tl.load(second + units[:, None] * D + dims[None, :], (units < F)[:, None] & (dims < D)[None, :], 0.0)
        value = value_of(_product(query, w1, EXACT), ACTIVATION).to(q.dtype.element_ty)
        total += _product(value, w2, EXACT)
    place = y + (batch * time + rows)[:, None] * (H * D) + head * D + dims[None, :]
    tl.store(place, total.to(y.dtype.element_ty), inside)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    q, first, second, d_y, d_q, d_first, d_second, tokens, time, H, q_row, q_step, q_head, first_row, first_head,
    second_row, second_head, F: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
    RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """A program has all units of a head, goes through `tokens` of its tokens and leaves a share of both matrices'
    gradients. Tiles are [units, tokens]: out of one product, they are in the registers of a factor of the next."""
    batch, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    units, dims = tl.arange(0, BF), tl.arange(0, BD)
    down, up = (dims < D)[:, None] & (units < F)[None, :], (units < F)[:, None] & (dims < D)[None, :]
    q += batch * q_row + head * q_head
    own = batch * time * (H * D) + head * D
    w1 = tl.load(first + batch * first_row + head * first_head + dims[:, None] * F + units[None, :], down, 0.0)
    w2 = tl.load(second + batch * second_row + head * second_head + units[:, None] * D + dims[None, :], up, 0.0)
    d_w1, d_w2 = tl.zeros((BF, BD), tl.float32), tl.zeros((BF, BD), tl.float32)  # the first transposed
    begin = tl.program_id(1) * tokens
    for start in range(begin, tl.minimum(begin + tokens, time), BT):
        rows = (start + tl.arange(0, BT)).to(tl.int64)
        inside = (rows < time)[:, None] & (dims < D)[None, :]
        place = own + rows[:, None] * (H * D) + dims[None, :]
        query = tl.load(q + rows[:, None] * q_step + dims[None, :], inside, 0.0)
        d = tl.load(d_y + place, inside, 0.0)
        value, slope = value_and_slope(_product(tl.trans(w1), tl.trans(query), EXACT), ACTIVATION)
        d_w2 += _product(value.to(q.dtype.element_ty), d, EXACT)
        d_z = (_product(w2, tl.trans(d), EXACT) * slope).to(q.dtype.element_ty)
        d_w1 += _product(d_z, query, EXACT)
        total = tl.trans(_product(w1, d_z, EXACT))
        if RESIDUAL:
            total += d.to(tl.float32)
        tl.store(d_q + place, total.to(d_q.dtype.element_ty), inside)
    share = (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * (D * F)
    w1_place, w2_place = dims[:, None] * F + units[None, :], units[:, None] * D + dims[None, :]
    tl.store(d_first + share + w1_place, tl.trans(d_w1).to(d_first.dtype.element_ty), down)
    tl.store(d_second + share + w2_place, d_w2.to(d_second.dtype.element_ty), up)


@triton.jit
def _backward_queries(  # type: ignore[no-untyped-def]
    q, first, second, d_y, d_q, time, H, q_row, q_step, q_head, first_row, first_head, second_row, second_head,
    F: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr, RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    batch, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    rows, dims = tl.program_id(1).to(tl.int64) * BT + tl.arange(0, BT), tl.arange(0, BD)
    inside = (rows < time)[:, None] & (dims < D)[None, :]
    query = tl.load(q + batch * q_row + head * q_head + rows[:, None] * q_step + dims[None, :], inside, 0.0)
    place = (batch * time + rows)[:, None] * (H * D) + head * D + dims[None, :]
    d = tl.load(d_y + place, inside, 0.0)
    first += batch * first_row + head * first_head
    second += batch * second_row + head * second_head
    total = d.to(tl.float32) if RESIDUAL else tl.zeros((BT, BD), tl.float32)
    for start in range(0, F, BF):
        units = start + tl.arange(0, BF)
        here = (dims < D)[:, None] & (units < F)[None, :]
        w1 = tl.load(first + dims[:, None] * F + units[None, :], here, 0.0)
        w2 = tl.load(second + units[:, None] * D + dims[None, :], (units < F)[:, None] & (dims < D)[None, :], 0.0)
        value, slope = value_and_slope(_product(query, w1, EXACT), ACTIVATION)
        d_z = _product(d, tl.trans(w2), EXACT) * slope
        total += _product(d_z.to(q.dtype.element_ty), tl.trans(w1), EXACT)
    tl.store(d_q + place, total.to(d_q.dtype.element_ty), inside)


@triton.jit
def _backward_matrices(  # type: ignore[no-untyped-def]
    q, first, second, d_y, d_first, d_second, time, H, q_row, q_step, q_head, first_row, first_head, second_row,
    second_head, F: tl.constexpr, D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
    ACTIVATION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """A program has some units of a head and goes through its tokens."""
    batch, head = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    units, dims = tl.program_id(1) * BF + tl.arange(0, BF), tl.arange(0, BD)
    down, up = (dims < D)[:, None] & (units < F)[None, :], (units < F)[:, None] & (dims < D)[None, :]
    q += batch * q_row + head * q_head
    d_y += batch * time * (H * D) + head * D
    w1 = tl.load(first + batch * first_row + head * first_head + dims[:, None] * F + units[None, :], down, 0.0)
    w2 = tl.load(second + batch * second_row + head * second_head + units[:, None] * D + dims[None, :], up, 0.0)
    w2 = tl.trans(w2)
    d_w1, d_w2 = tl.zeros((BD, BF), tl.float32), tl.zeros((BF, BD), tl.float32)
    for start in range(0, time, BT):
        rows = (start + tl.arange(0, BT)).to(tl.int64)
        inside = (rows < time)[:, None] & (dims < D)[None, :]
        query = tl.load(q + rows[:, None] * q_step + dims[None, :], inside, 0.0)
        d = tl.load(d_y + rows[:, None] * (H * D) + dims[None, :], inside, 0.0)
        value, slope = value_and_slope(_product(query, w1, EXACT), ACTIVATION)
        d_w2 += _product(tl.trans(value.to(q.dtype.element_ty)), d, EXACT)
        d_z = (_product(d, w2, EXACT) * slope).to(q.dtype.element_ty)
        d_w1 += _product(tl.trans(query), d_z, EXACT)
    own = tl.program_id(0).to(tl.int64) * (D * F)
    tl.store(d_first + own + dims[:, None] * F + units[None, :], d_w1.to(d_first.dtype.element_ty), down)
    tl.store(d_second + own + units[:, None] * D + dims[None, :], d_w2.to(d_second.dtype.element_ty), up)
