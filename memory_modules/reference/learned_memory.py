"""The whole family of learned memories token by token: any structure, objective, retention and optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from titanlab.memory_modules.reference.deep_memory import Memory, gate_for_matrix
from titanlab.memory_modules.reference.learned_parts import (
    NormParameters,
    loss,
    mlp,
    newton_schulz,
    rescaled,
    swiglu,
    weights_read,
)
from titanlab.platform.tensors import Gate, PerHead

Gates = Gate | Sequence[Float[Tensor, "b t h out"]] | None
"""One value a token and head; or for every matrix one a token, head and output unit; or the neutral value."""

CONTROLS = ("none", "ascent", "keys_as_queries", "frozen", "initial_gradients", "last_matrix")


def learned_memory_by_token(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    *,
    keep: Gates,
    momentum: Gates,
    step: Gates,
    weights: Sequence[Float[Tensor, "h in out"]],
    chunk_size: int,
    structure: str = "mlp",
    activation: str = "gelu",
    residual: bool = False,
    bias: bool = False,
    norm: NormParameters | None = None,
    objective: str = "l2",
    p: float = 3.0,
    threshold: Gate | None = None,
    retention: str = "decay",
    norm_order: float = 4.0,
    optimizer: str = "gradient",
    muon_step: str = "outside",
    share: Gate | None = None,
    window: int = 1,
    gradient_at: str = "undecayed",
    control: str = "none",
) -> tuple[PerHead, list[Tensor], list[Tensor]]:
    """A memory that learns by its own objective: MIRAS (arXiv 2504.13173, section 3-5) with ATLAS's window and Muon.

        g_t = sum_{i = t - window + 1 .. t} share_i grad l(R; k_i, v_i)          the Omega rule: ATLAS, eq. 9-10
        S_t = momentum_t S_{t-1} - step_t g_t                                    Titans, eq. 14
        A_t = keep_t A_{t-1} + S_t                                               Titans, eq. 13; MIRAS, eq. 24, 26, 27
        y_t = M(W_t; q_t),   W_t = Phi(A_t)                                      Phi: `weights_read`

    R is W at the start of the token's chunk (MIRAS, eq. 28; ATLAS, eq. 15; TTT, eq. 6), with `gradient_at` "decayed"
    that times the product of keep from the chunk's first token to t, for the whole window of t. What is not linear
    happens at a chunk's last token, whose own read sees it: Phi is renewed (lq, softmax), columns are rescaled (unit),
    and with the optimizer "muon" S is orthogonalised and added:

        S_t = momentum_t S_{t-1} - g_t              without momentum: S_{t-1} - g_t, from 0 at every chunk's start
        A_t = keep_t A_{t-1} + step_t NS5(S_t)      at the chunk's last token; without the sum elsewhere

    or, with `muon_step` "inside", S_t = .. - step_t g_t and A_t = .. + NS5(S_t) (LaCT). The papers differ: ATLAS (eq.
    32-33) orthogonalises every token's S, LaCT reads before it writes, and Memora's chunk (MIRAS, eq. 30-32) starts
    with its softmax.

    Args:
        q, k: [b, t, h, m].
        v: [b, t, h, d].
        keep, momentum, step: [b, t, h], or a [b, t, h, out] for every matrix. None is 1, 0 and 1. Momentum is not
            read by the optimizer "gradient".
        weights: A_0 as matrices [h, in, out], the same for every sequence. For "swiglu" in the order W_1, W_2, W_3.
        chunk_size: Tokens that share a reference R, at least 1.
        structure: "mlp" (with `activation`, `residual`, `bias`, `norm`: see `mlp`) or "swiglu".
        objective: "l2", "dot", "lp" (of order `p`) or "huber" (with `threshold`): see `loss`.
        retention: "decay", "lq" (of order `norm_order`), "softmax" or "unit": see `weights_read` and `rescaled`.
        optimizer: "gradient", "momentum" or "muon".
        muon_step: "outside" or "inside".
        threshold, share: [b, t, h], of the token that is written; share None is 1.
        window: Tokens whose gradients are summed, at least 1; there are none before the first.
        gradient_at: "undecayed" or "decayed".
        control: "none"; "ascent" (step -> -step); "keys_as_queries"; "frozen" (nothing is written, nothing decays);
            "initial_gradients" (R = Phi(A_0) for ever); "last_matrix" (the others keep A_0).

    Returns:
        y [b, t, h, d], then A_T and S_T as matrices [b, h, in, out] each. Without momentum S_T is no state, only
        -step_T g_T.
    """
    check_names(structure, optimizer, gradient_at, control)
    batch, time = k.shape[:2]
    ones = torch.ones_like(k[..., 0])
    shares = ones if share is None else share
    keep, step = (ones if gates is None else gates for gates in (keep, step))
    q = k if control == "keys_as_queries" else q
    written = writable(structure, len(weights), control)

    def answer(memory: Memory, x: Float[Tensor, "b h m"]) -> Float[Tensor, "b h d"]:
        if structure == "swiglu":
            return swiglu(memory, x)
        return mlp(memory, x, activation=activation, residual=residual, bias=bias, norm=norm)

    def windowed_loss(memory: Memory, t: int) -> Tensor:
        # Summed over sequences and heads: none shares a weight, so each one's gradient is that of its own loss.
        total = torch.zeros_like(shares[:, t])
        for i in range(max(0, t - window + 1), t + 1):
            delta = None if threshold is None else threshold[:, i]
            total = total + shares[:, i] * loss(objective, answer(memory, k[:, i]), v[:, i], p, delta)
        return total.sum()

    first = tuple(w.expand(batch, *w.shape) for w in weights)
    read_first = weights_read(retention, first, first, norm_order)
    stored, read = first, read_first
    surprise = zeros_like(first)
    outputs = []
    for t in range(time):
        starts, ends = t % chunk_size == 0, (t + 1) % chunk_size == 0
        if starts:
            anchor = stored
            reference = read_first if control == "initial_gradients" else read
            surprise = zeros_like(first) if optimizer == "muon" and momentum is None else surprise
        keep_t = at_token(keep, t, len(first))
        step_t = at_token(step, t, len(first))
        if control == "ascent":
            step_t = tuple(-s for s in step_t)
        if gradient_at == "decayed":
            reference = choose(written, scaled(keep_t, reference), reference)
        gradient = torch.func.grad(windowed_loss)(reference, t)

        carried = None if momentum is None else at_token(momentum, t, len(first))
        inside = None if optimizer == "muon" and muon_step == "outside" else step_t
        surprise = surprise_after(optimizer, surprise, gradient, carried, inside)
        surprise = choose(written, surprise, zeros_like(first))

        new = scaled(keep_t, stored)
        if optimizer != "muon":
            new = sum_of(new, surprise)
        elif ends:
            moved = tuple(newton_schulz(s) for s in surprise)
            new = sum_of(new, scaled(step_t, moved) if muon_step == "outside" else moved)
        if retention == "unit" and ends:
            new = tuple(rescaled(w, w_0) for w, w_0 in zip(new, first, strict=True))
        stored = choose(written, new, first)
        read = weights_read(retention, stored, stored if ends else anchor, norm_order)
        outputs.append(answer(read, q[:, t]))
    return torch.stack(outputs, dim=1), list(stored), list(surprise)


def check_names(structure: str, optimizer: str, gradient_at: str, control: str) -> None:
    """Refuses names that no branch would meet."""
    for argument, name, known in (
        ("structure", structure, ("mlp", "swiglu")),
        ("optimizer", optimizer, ("gradient", "momentum", "muon")),
        ("gradient_at", gradient_at, ("undecayed", "decayed")),
        ("control", control, CONTROLS),
    ):
        if name not in known:
            raise ValueError(f"{argument}: {name!r}; expected one of {', '.join(known)}")


def surprise_after(
    optimizer: str,
    surprise: Memory,
    gradient: Memory,
    momentum: tuple[Tensor, ...] | None,
    step: tuple[Tensor, ...] | None,
) -> Memory:
    """S_t from S_{t-1} and g_t. Muon without momentum forgets nothing within a chunk; None is a step of 1."""
    moved = negative(gradient) if step is None else scaled(step, negative(gradient))
    if optimizer == "gradient" or (optimizer == "momentum" and momentum is None):
        return moved
    return sum_of(surprise if momentum is None else scaled(momentum, surprise), moved)


def writable(structure: str, count: int, control: str) -> tuple[bool, ...]:
    """Which matrices change at all; the last to act in a SwiGLU is W_2, the second of three."""
    if control == "frozen":
        return (False,) * count
    if control == "last_matrix":
        last = 1 if structure == "swiglu" else count - 1
        return tuple(index == last for index in range(count))
    return (True,) * count


def at_token(gates: Gate | Sequence[Tensor], t: int, count: int) -> tuple[Tensor, ...]:
    """The gates of one token, shaped to scale each of `count` matrices: [b, h, 1, 1], or [b, h, 1, out]."""
    if isinstance(gates, Tensor):
        return (gate_for_matrix(gates[:, t]),) * count
    return tuple(gate[:, t, :, None, :] for gate in gates)


def scaled(gates: tuple[Tensor, ...], memory: Memory) -> Memory:
    return tuple(gate * w for gate, w in zip(gates, memory, strict=True))


def sum_of(left: Memory, right: Memory) -> Memory:
    return tuple(x + y for x, y in zip(left, right, strict=True))


def negative(memory: Memory) -> Memory:
    return tuple(-w for w in memory)


def zeros_like(memory: Memory) -> Memory:
    return tuple(torch.zeros_like(w) for w in memory)


def choose(written: tuple[bool, ...], yes: Memory, no: Memory) -> Memory:
    return tuple(a if choice else b for choice, a, b in zip(written, yes, no, strict=True))
