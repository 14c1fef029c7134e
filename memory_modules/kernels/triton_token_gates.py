"""The gates of tokens from their products, in one pass forward and one backward.

gate = scale sigmoid(product + bias)      step = scale sigmoid(product + bias) (1 - momentum)

Only what runs on a GPU imports this, where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.platform.first_order import first_order
from titanlab.platform.fused_kernels.summed_shares import summed_shares

HEADS = 16
"""Of each gate that a program takes: 32 bytes of a token's products, the least that is fetched."""
NUMBERS = 512
"""Of each gate: with so many heads 32 tokens, whose gates of one head are a line of 128 bytes."""


def token_gates_on_gpu(
    products: Tensor, bias: Tensor, scales: Sequence[float], without: tuple[int, int] | None
) -> tuple[Tensor, ...]:
    """The functions above.

    Args:
        products: [b, t, gates h], of any type.
        bias: [gates h], float32.
        scales: one a gate.
        without: numbers of a step and of a momentum among the gates; None: no gate is such a step.

    Returns:
        The gates, [b, t, h] in float32, where tokens lie side by side: what is cut into chunks of each head is a view.
    """
    return _TokenGates.apply(products.contiguous(), bias, tuple(scales), without or (-1, -1))


class _TokenGates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, products: Tensor, bias: Tensor, scales: tuple[float, ...], without: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        call = _Call(products, scales, without)
        gates = tuple(call.by_head() for _ in scales)
        _forward[call.grid](products, bias, scales, gates, *call.sizes, **call.constants)
        ctx.save_for_backward(products, bias)
        ctx.call, ctx.scales = call, scales
        return gates

    @staticmethod
    @first_order
    def backward(ctx: Any, *d_gates: Tensor) -> tuple[Tensor | None, ...]:
        products, bias = ctx.saved_tensors
        call: _Call = ctx.call
        d_products, d_bias = torch.empty_like(products), call.shares()
        by_head = tuple(d_gate.mT.contiguous() for d_gate in d_gates)  # which those of chunks are already
        _backward[call.grid](
            products, bias, ctx.scales, by_head, d_products, d_bias, *call.sizes, **call.constants
        )  # fmt: skip
        return d_products, summed_shares(d_bias), None, None


class _Call:
    """Sizes and arguments that both kernels share."""

    def __init__(self, products: Tensor, scales: tuple[float, ...], without: tuple[int, int]) -> None:
        self.batch, self.time, self.columns = products.shape
        self.heads, self.device = self.columns // len(scales), products.device
        heads = min(HEADS, triton.next_power_of_2(self.heads))
        tokens = NUMBERS // heads
        self.grid = (triton.cdiv(self.time, tokens), self.batch, triton.cdiv(self.heads, heads))
        self.sizes = (self.time, self.heads)
        step, momentum = without
        self.constants = {"COUNT": len(scales), "STEP": step, "MOMENTUM": momentum, "BT": tokens, "BH": heads}

    def by_head(self) -> Tensor:
        """A gate [b, t, h], stored as [b, h, t]."""
        sizes, strides = (self.batch, self.time, self.heads), (self.heads * self.time, 1, self.time)
        return torch.empty_strided(sizes, strides, dtype=torch.float32, device=self.device)

    def shares(self) -> Tensor:
        """What each program adds to the gradient of its heads' biases."""
        return torch.empty(self.batch * self.grid[0], self.columns, dtype=torch.float32, device=self.device)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    products, bias, scales, gates, T, H,
    COUNT: tl.constexpr, STEP: tl.constexpr, MOMENTUM: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """Some tokens and heads of all gates a program; a tile turns on its way from rows of tokens to rows of heads."""
    by_token, by_head, head, inside = _places(T, H, COUNT, BT, BH)
    for gate in tl.static_range(COUNT):
        value, _ = _sigmoid(products, bias, gate, by_token, head, inside, H)
        value *= scales[gate]
        if gate == STEP:
            momentum, _ = _sigmoid(products, bias, MOMENTUM, by_token, head, inside, H)
            value *= 1.0 - scales[MOMENTUM] * momentum
        tl.store(gates[gate] + by_head, value, inside)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    products, bias, scales, d_gates, d_products, d_bias, T, H,
    COUNT: tl.constexpr, STEP: tl.constexpr, MOMENTUM: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    """The same the other way round; of the biases' gradient each program leaves the share of its tokens."""
    by_token, by_head, head, inside = _places(T, H, COUNT, BT, BH)
    share = (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * (COUNT * H) + head
    for gate in tl.static_range(COUNT):
        _, slope = _sigmoid(products, bias, gate, by_token, head, inside, H)
        d = tl.load(d_gates[gate] + by_head, inside, 0.0)
        if gate == STEP:
            momentum, _ = _sigmoid(products, bias, MOMENTUM, by_token, head, inside, H)
            d *= 1.0 - scales[MOMENTUM] * momentum
        if gate == MOMENTUM:
            step, _ = _sigmoid(products, bias, STEP, by_token, head, inside, H)
            d -= tl.load(d_gates[STEP] + by_head, inside, 0.0) * (scales[STEP] * step)
        d *= scales[gate] * slope
        tl.store(d_products + by_token + gate * H, d.to(d_products.dtype.element_ty), inside)
        tl.store(d_bias + share + gate * H, tl.sum(d, 0), head < H)


@triton.jit
def _places(T, H, COUNT: tl.constexpr, BT: tl.constexpr, BH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where a program's tokens and heads [BT, BH] stand in the products and in a gate, its heads, and which there
    are."""
    batch = tl.program_id(1).to(tl.int64)
    token, head = tl.program_id(0) * BT + tl.arange(0, BT), tl.program_id(2) * BH + tl.arange(0, BH)
    by_token = (batch * T + token)[:, None] * (COUNT * H) + head[None, :]
    by_head = (batch * H + head)[None, :] * T + token[:, None]
    return by_token, by_head, head, (token < T)[:, None] & (head < H)[None, :]


@triton.jit
def _sigmoid(products, bias, gate: tl.constexpr, by_token, head, inside, H):  # type: ignore[no-untyped-def]
    """sigmoid(product + bias) and its slope, exact where the value is next to 1, as that of `keep` is."""
    product = tl.load(products + by_token + gate * H, inside, 0.0).to(tl.float32)
    x = product + tl.load(bias + gate * H + head, head < H, 0.0)[None, :]
    rest = tl.exp(-x)
    value = 1.0 / (1.0 + rest)
    return value, tl.where(rest == float("inf"), 0.0, rest * value * value)
