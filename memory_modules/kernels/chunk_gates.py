"""What the gates of a chunk's tokens do to it, as four small arrays.

A memory with momentum is a pair (W, S): S_t = momentum_t S_{t-1} - g_t and W_t = keep_t W_{t-1} + S_t, where g_t is
step_t times a gradient taken at the chunk's start. Both are linear in what they start from and in the g_t, so over a
chunk of c tokens

    W_t = a_t W + gamma_t S - sum_{i<=t} C[t, i] grad_i          read = (a, gamma)
    W_c = a_c W + gamma_c S - sum_i C[c, i] grad_i               mix, write = rows of the last token
    S_c =             h_c S - sum_i H[c, i] step_i grad_i

    A[t, s] = prod_{s<j<=t} keep_j         a_t = A[t, 0] keep_0         C = (A @ H) * step
    H[s, i] = prod_{i<j<=s} momentum_j     h_s = H[s, 0] momentum_0     gamma = A @ h

Without momentum the pair is W alone and C = A * step. Products are never formed as quotients or differences of
cumulated sums, so a gate of exactly 0 is as good as any other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from titanlab.platform.first_order import first_order


class ChunkGates(NamedTuple):
    """The gates of chunks of c tokens; p = 2 with momentum (W and S), else 1 (W). Leading axes are free."""

    read: Tensor
    """[..., c, p]: how much of W and S each token reads."""
    inner: Tensor
    """[..., c, c]: C, what each token reads of the gradients of the tokens up to it."""
    write: Tensor
    """[..., c, p]: how much of each token's gradient is in W and S at the chunk's end."""
    mix: Tensor
    """[..., p, p]: W and S at the end from W and S at the start."""


def chunk_gates_flops(c: int) -> float:
    """Operations a token and head with momentum: A H 2 c^2 and A h 2 c; without, no product is formed."""
    return 2 * c * c + 2 * c


def chunk_gates(keep: Tensor | None, momentum: Tensor | None, step: Tensor) -> ChunkGates:
    """The arrays above for gates [..., c]; keep None is 1, momentum None is off."""
    kept = products_within(torch.ones_like(step) if keep is None else keep)
    from_start = kept[..., 0] if keep is None else kept[..., 0] * keep[..., :1]  # a
    if momentum is None:
        inner = kept * step.unsqueeze(-2)
        return ChunkGates(
            read=from_start.unsqueeze(-1),
            inner=inner,
            write=inner[..., -1, :].unsqueeze(-1),
            mix=from_start[..., -1:].unsqueeze(-1),
        )
    carried = products_within(momentum)  # H
    surprise = carried[..., 0] * momentum[..., :1]  # h
    from_surprise = _Product.apply(kept, surprise.unsqueeze(-1)).squeeze(-1)  # gamma
    inner = _Product.apply(kept, carried) * step.unsqueeze(-2)
    last = torch.stack([from_start[..., -1], from_surprise[..., -1]], -1)
    surprise_row = torch.stack([torch.zeros_like(surprise[..., -1]), surprise[..., -1]], -1)
    return ChunkGates(
        read=torch.stack([from_start, from_surprise], -1),
        inner=inner,
        write=torch.stack([inner[..., -1, :], carried[..., -1, :] * step], -1),
        mix=torch.stack([last, surprise_row], -2),
    )


def products_within(gate: Tensor) -> Tensor:
    """P[t, s] = prod_{s<j<=t} gate_j for s <= t, else 0; gate [..., c] gives P [..., c, c]."""
    return _ProductsWithin.apply(gate)


class _ProductsWithin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor) -> Tensor:
        c = gate.shape[-1]
        below = torch.ones(c, c, dtype=torch.bool, device=gate.device).tril(-1)
        factors = torch.where(below, gate.unsqueeze(-1), torch.ones((), dtype=gate.dtype, device=gate.device))
        products = factors.cumprod(-2).tril()
        ctx.save_for_backward(products)
        return products

    @staticmethod
    @first_order
    def backward(ctx: Any, d_products: Tensor) -> Tensor:
        # Leaving factor j out of the product over (s, t] gives P[t, j] P[j-1, s]; no division, so zeros are exact:
        # d gate_j = sum_t P[t, j] sum_s dP[t, s] P[j-1, s]
        (products,) = ctx.saved_tensors
        with torch.autocast(d_products.device.type, enabled=False):
            without = d_products.tril() @ products.mT  # [t, j-1]
        d_gate = torch.zeros(products.shape[:-1], dtype=products.dtype, device=products.device)
        d_gate[..., 1:] = (products[..., 1:] * without[..., :-1]).sum(-2)
        return d_gate


class _Product(torch.autograd.Function):
    """a @ b whose gradient, too, stays in the gates' precision when it is taken inside autocast."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    @first_order
    def backward(ctx: Any, d_product: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        with torch.autocast(d_product.device.type, enabled=False):
            return d_product @ b.mT, a.mT @ d_product
