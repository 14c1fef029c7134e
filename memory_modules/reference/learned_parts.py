"""The four exchangeable parts of a learned memory, one token at a time: structure, objective, retention, optimizer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from titanlab.memory_modules.reference.deep_memory import ACTIVATIONS, Memory

Vector = Float[Tensor, "b h d"]
Matrix = Float[Tensor, "b h in out"]
NormParameters = tuple[Float[Tensor, "h d"], Float[Tensor, "h d"]]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


# Structure


def mlp(
    memory: Memory, x: Vector, *, activation: str, residual: bool, bias: bool, norm: NormParameters | None
) -> Vector:
    """The perceptron memories: Titans, MIRAS (arXiv 2504.13173, section 5.3), ATLAS (arXiv 2505.23735, eq. 42), TTT.

        f(x) = act(... act(x W_1) ...) W_L
        M(x) = f(x),   x + f(x) with `residual`,   x + LN(f(x)) with `norm`     (TTT, arXiv 2407.04620, section 2.7)

    With `bias` every matrix has one more row, met by a 1 at the end of its input. `norm` is the layer norm's scale and
    shift, which are not learned at test time.
    """
    hidden = x
    for depth, w in enumerate(memory):
        incoming = ACTIVATIONS[activation](hidden) if depth else hidden
        if bias:
            incoming = torch.cat((incoming, torch.ones_like(incoming[..., :1])), dim=-1)
        hidden = apply(w, incoming)
    if norm is not None:
        scale, shift = norm
        return x + layer_norm(hidden) * scale + shift
    return x + hidden if residual else hidden


def swiglu(memory: Memory, x: Vector) -> Vector:
    """LaCT's fast weights (arXiv 2505.23884): M(x) = (silu(x W_1) * (x W_3)) W_2."""
    w_1, w_2, w_3 = memory
    return apply(w_2, ACTIVATIONS["silu"](apply(w_1, x)) * apply(w_3, x))


def apply(w: Matrix, x: Vector) -> Vector:
    """X W."""
    return torch.einsum("bhi,bhio->bho", x, w)


def layer_norm(x: Vector) -> Vector:
    """Mean 0 and variance 1 over the last axis, eps 1e-6."""
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt()


# Objective


def loss(objective: str, answer: Vector, value: Vector, p: float, threshold: Float[Tensor, "b h"] | None) -> Tensor:
    """The attentional bias of one token, [b, h], with e = answer - value.

    l2      1/2 ||e||^2                                                 Titans, eq. 12
    dot     -<answer, value>                                            LaCT; linear attention
    lp      1/p sum_j |e_j|^p                                           MIRAS, eq. 10, which has no 1/p
    huber   1/2 ||e||^2 up to ||e|| = delta, delta (||e|| - delta / 2) beyond    MIRAS, eq. 13 and 15
    """
    error = answer - value
    match objective:
        case "l2":
            return error.square().sum(-1) / 2
        case "dot":
            return -(answer * value).sum(-1)
        case "lp":
            return error.abs().pow(p).sum(-1) / p
        case "huber":
            if threshold is None:
                raise ValueError("threshold: None; expected [b, t, h] for the huber objective")
            return huber(error.square().sum(-1), threshold)
    raise ValueError(f"objective: {objective!r}; expected l2, dot, lp or huber")


def huber(squared: Float[Tensor, "b h"], threshold: Float[Tensor, "b h"]) -> Float[Tensor, "b h"]:
    """MIRAS, eq. 13, of the square root of its argument; the gradient of the root at 0 is never asked for."""
    near = squared <= threshold.square()
    length = torch.where(near, torch.ones_like(squared), squared).sqrt()
    return torch.where(near, squared / 2, threshold * (length - threshold / 2))


# Retention


def weights_read(retention: str, stored: Memory, anchor: Memory, q: float) -> Memory:
    """The weights W that are read, from the stored A and the A whose non-linear part is in force.

    decay, unit   W = A                             Titans; MIRAS, eq. 26
    lq            W = A / ||anchor||_q^(q - 2)      Moneta: MIRAS, eq. 24; each matrix alone, over all its entries
    softmax       W = softmax(anchor)               Memora: MIRAS, eq. 27, with A = log W up to a constant of a
                                                    column; over the inputs of an output unit, sum 1
    """
    match retention:
        case "decay" | "unit":
            return stored
        case "lq":
            return tuple(a / entry_norm(b, q) ** (q - 2) for a, b in zip(stored, anchor, strict=True))
        case "softmax":
            return tuple(b.softmax(dim=-2) for b in anchor)
    raise ValueError(f"retention: {retention!r}; expected decay, lq, softmax or unit")


def entry_norm(w: Matrix, q: float) -> Float[Tensor, "b h 1 1"]:
    """The q-norm of a matrix taken as one vector."""
    return w.abs().pow(q).sum((-2, -1), keepdim=True) ** (1 / q)


def rescaled(w: Matrix, first: Matrix) -> Matrix:
    """Every output unit's weights brought to the L2 norm they had at first (LaCT's weight normalisation)."""
    return w * (column_norms(first) / column_norms(w))


def column_norms(w: Matrix) -> Float[Tensor, "b h 1 out"]:
    return w.square().sum(-2, keepdim=True).sqrt()


# Optimizer


def newton_schulz(s: Matrix) -> Matrix:
    """Muon's five iterations towards the nearest orthogonal matrix (ATLAS, eq. 32 and 40).

        X = S / (||S||_F + 1e-7);   five times   X <- 3.4445 X - 4.7750 (X X^T) X + 2.0315 (X X^T)^2 X

    on the transpose if S has more rows than columns. Singular values end near 1, within about 0.3, not at 1.
    """
    first, second, third = NEWTON_SCHULZ
    tall = s.shape[-2] > s.shape[-1]
    x = s.mT if tall else s
    x = x / (x.square().sum((-2, -1), keepdim=True).sqrt() + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = first * x + second * gram @ x + third * gram @ gram @ x
    return x.mT if tall else x
