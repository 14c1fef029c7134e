"""The deep memory of Titans token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from titanlab.platform.tensors import Gate, PerHead

Memory = tuple[Tensor, ...]  # L matrices [b, h, in, out]: every sequence and head owns a memory

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def deep_memory_by_token(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    keep: Gate | None,
    momentum: Gate | None,
    step: Gate,
    weights: Sequence[Float[Tensor, "h in out"]],
    *,
    chunk_size: int,
    residual: bool = False,
    activation: str = "gelu",
) -> tuple[PerHead, list[Tensor], list[Tensor]]:
    """The long-term memory of Titans (arXiv 2501.00663, eq. 8-18).

        l(M; k, v) = 1/2 ||M(k) - v||^2                               eq. 12; the 1/2 is that of appendix C
        S_t = momentum_t S_{t-1} - step_t grad l(M_ref; k_t, v_t)     eq. 14 (eq. 10); S_0 = 0
        M_t = keep_t M_{t-1} + S_t                                    eq. 13
        y_t = M_t(q_t)                                                eq. 15

    M_ref is the memory at the start of token t's chunk (eq. 16-17); with `chunk_size` 1 it is M_{t-1}, the undecayed
    memory of eq. 14. In the paper's letters keep is 1 - alpha, momentum is eta, step is theta.

    Args:
        q, k, v: [b, t, h, d].
        keep: [b, t, h], or None for 1.
        momentum: [b, t, h], or None for no momentum.
        step: [b, t, h].
        weights: M_0 as L matrices [h, in, out], the same for every sequence.
        chunk_size: Tokens that share a reference memory, at least 1.
        residual: M(x) = x + MLP(x) in place of MLP(x).
        activation: A name in `ACTIVATIONS`; between the matrices, not after the last.

    Returns:
        y [b, t, h, d], then M_T and S_T as L matrices [b, h, in, out] each. Without momentum S_T is no state, only
        -step_T times the last gradient.
    """
    act = ACTIVATIONS[activation]

    def loss(memory: Memory, k_t: Tensor, v_t: Tensor) -> Tensor:
        # Summed over sequences and heads: none shares a weight, so each one's gradient is that of its own loss.
        return 0.5 * (apply_memory(memory, k_t, act, residual) - v_t).square().sum()

    batch = q.shape[0]
    memory: Memory = tuple(w.expand(batch, *w.shape) for w in weights)
    surprise: Memory = tuple(torch.zeros_like(w) for w in memory)
    reference = memory
    outputs = []
    for t in range(q.shape[1]):
        if t % chunk_size == 0:
            reference = memory
        gradient = torch.func.grad(loss)(reference, k[:, t], v[:, t])
        keep_t = torch.ones_like(step[:, t]) if keep is None else keep[:, t]
        momentum_t = torch.zeros_like(step[:, t]) if momentum is None else momentum[:, t]
        surprise = tuple(
            gate_for_matrix(momentum_t) * s - gate_for_matrix(step[:, t]) * g
            for s, g in zip(surprise, gradient, strict=True)
        )
        memory = tuple(gate_for_matrix(keep_t) * m + s for m, s in zip(memory, surprise, strict=True))
        outputs.append(apply_memory(memory, q[:, t], act, residual))
    return torch.stack(outputs, dim=1), list(memory), list(surprise)


def apply_memory(
    memory: Memory, x: Float[Tensor, "b h d"], act: Callable[[Tensor], Tensor], residual: bool
) -> Float[Tensor, "b h d"]:
    """M(x) = act(... act(x W_1) ...) W_L, with x added when `residual`."""
    hidden = x
    for depth, w in enumerate(memory):
        hidden = torch.einsum("bhi,bhio->bho", act(hidden) if depth else hidden, w)
    return x + hidden if residual else hidden


def gate_for_matrix(value: Float[Tensor, "b h"]) -> Float[Tensor, "b h 1 1"]:
    """One scalar per sequence and head, shaped to scale a matrix."""
    return value[..., None, None]
