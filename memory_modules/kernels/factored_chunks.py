"""The chunkwise dual form for a memory of any structure: no weight per token is formed, autograd gives the gradients.

All gradients of a chunk are taken at one reference memory R. The gradient of matrix l for token i is an outer product
X_i^T D_i of what went into the matrix and of the loss's gradient at what came out, so a token reads

    x W_l(t) = sum_p read[t, p] (x W_l[p]) - sum_i inner[t, i] (x . X_i) D_i          W[p]: the memory, and the momentum

for every matrix in turn, whatever the structure does between them. `dual_form` is the same for an MLP, by hand and
faster; this one serves every other structure, objective and gate. See chunk_gates for the arrays.

Shapes: b h c (tokens), r (tokens with a gradient: the chunk's, and before them those of the window), p parts of the
state, and o: 1, or the units of the matrix where every unit has gates of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.chunk_gates import chunk_gates
from titanlab.memory_modules.parts.objective import Objective
from titanlab.memory_modules.parts.structure import Structure


class Factors(NamedTuple):
    """The gradient of matrix l for token i is inputs[l]_i^T errors[l]_i."""

    inputs: list[Tensor]
    """X_l [b, h, r, in]."""
    errors: list[Tensor]
    """D_l [b, h, r, out]."""


def factored_gradients(
    structure: Structure,
    objective: Objective,
    keys: Tensor,
    values: Tensor,
    threshold: Tensor | None,
    reference: list[Tensor],
    decayed: list[Tensor] | None,
) -> Factors:
    """The factors of every token's gradient, themselves differentiable.

    Args:
        structure, objective: what is differentiated.
        keys, values: [b, h, r, m], [b, h, r, d].
        threshold: [b, h, r] or None.
        reference: L matrices [b, h, in, out].
        decayed: what each token's reference is multiplied by, L tensors [b, h, r, o]; None: nothing.
    """
    if torch.is_inference_mode_enabled():
        message = "this memory learns by autograd, which torch.inference_mode() turns off: use torch.no_grad() instead"
        raise RuntimeError(message)
    differentiable = torch.is_grad_enabled()
    factors = Factors([torch.empty(0)] * structure.matrices, [])
    answers: list[Tensor] = [torch.empty(0)] * structure.matrices

    def linear(layer: int, x: Tensor) -> Tensor:
        z = x @ reference[layer]
        z = z if decayed is None else z * decayed[layer]
        factors.inputs[layer] = x
        answers[layer] = z if z.requires_grad else z.requires_grad_()
        return answers[layer]

    with torch.enable_grad():
        loss = objective(structure(keys, linear), values, threshold).sum()
        factors.errors.extend(torch.autograd.grad(loss, answers, create_graph=differentiable))
    if not differentiable:
        factors.inputs[:] = [x.detach() for x in factors.inputs]
    return factors


class Coefficients(NamedTuple):
    """What the gates of a chunk's tokens do to one matrix."""

    read: Tensor
    """[b, h, p, c, o]."""
    inner: Tensor
    """[b, h, o, c, r]."""
    write: Tensor
    """[b, h, p, r, o]."""
    mix: Tensor
    """[b, h, p, p, o]: part p at the end from each part at the start."""

    def answers(self, x: Tensor, parts: Tensor, inputs: Tensor, errors: Tensor) -> Tensor:
        """x W(t) [b, h, c, out] of queries x [b, h, c, in] to the memory `parts` [b, h, p, in, out] as it goes by."""
        from_start = (self.read * (x.unsqueeze(2) @ parts)).sum(2)
        overlaps = x @ inputs.mT
        if self.inner.shape[2] == 1:
            return from_start - (self.inner.squeeze(2) * overlaps) @ errors
        return from_start - torch.einsum("bhocr,bhcr,bhro->bhco", self.inner, overlaps, errors)

    def written(self, parts: Tensor, inputs: Tensor, errors: Tensor) -> Tensor:
        """The parts [b, h, p, in, out] after the chunk."""
        kept = (self.mix.unsqueeze(4) * parts.unsqueeze(2)).sum(3)
        return kept - inputs.mT.unsqueeze(2) @ (self.write * errors.unsqueeze(2))


def coefficients(keep: Tensor | None, momentum: Tensor | None, step: Tensor, shares: Tensor | None) -> Coefficients:
    """The arrays for gates [b, h, c, o].

    Args:
        keep: None: 1.
        momentum: None: off.
        step: the inner learning rate.
        shares: [b, h, c, r], how much of each token's gradient every token of the chunk writes; None: only its own.
    """
    last = (None if gate is None else gate.mT for gate in (keep, momentum, step))  # b h o c
    gates = chunk_gates(*last)  # type: ignore[arg-type]
    inner, write = gates.inner, gates.write
    if shares is not None:
        inner, write = inner @ shares.unsqueeze(2), shares.mT.unsqueeze(2) @ write
    return Coefficients(
        read=gates.read.movedim(2, -1).movedim(3, 2),
        inner=inner,
        write=write.movedim(2, -1).movedim(3, 2),
        mix=gates.mix.movedim(2, -1),
    )


def window_shares(share: Tensor, window: int) -> Tensor:
    """[b, h, c, r]: token s writes the gradients of itself and of the window - 1 tokens before it, each by its share.

    Args:
        share: [b, h, r], r = window - 1 + c: the chunk's tokens after those before it; 0 where there was none.
        window: tokens whose gradients a token writes.
    """
    count = share.shape[-1]
    column = torch.arange(count, device=share.device)
    row = column[: count - window + 1].unsqueeze(-1)
    return share.unsqueeze(-2) * ((column >= row) & (column < row + window)).to(share.dtype)
