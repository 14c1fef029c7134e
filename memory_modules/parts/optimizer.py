"""Optimizer: what is made of a chunk's gradients before they are added to the memory.

`gradient` and `momentum` are linear and act at every token: see kernels/chunk_gates.py. `muon` is not: it collects the
gradients and moves the memory once, at the chunk's last token.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

OptimizerName: TypeAlias = Literal["gradient", "momentum", "muon"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Muon's quintic iteration (Jordan et al., 2024), chosen for speed: singular values end between 0.7 and 1.2."""


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix [..., in, out] with its singular values brought close to 1, by products alone.

    X <- a X + b (X X^T) X + c (X X^T)^2 X from X = matrix / ||matrix||; a matrix of zeros stays zero.
    """
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if wide else matrix  # the smaller side gives the smaller Gram matrix
    x = x / ((x.square().sum((-2, -1), keepdim=True) + 1e-30).sqrt() + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if wide else x
