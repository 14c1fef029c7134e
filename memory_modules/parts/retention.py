"""Retention: how the weights that are read follow from what is stored, beyond the linear decay by `keep`.

What is not linear acts at a chunk's last token, whose own read sees it; inside the chunk the linear part goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


class Retention(ABC):
    """W = Phi(A): A is what decays and is added to, W is what is read and where gradients are taken."""

    linear: ClassVar[bool] = False
    """Whether W = A."""
    held: ClassVar[bool] = False
    """Whether reads inside a chunk see the chunk's first W, because no part of Phi is linear."""

    @abstractmethod
    def weights(self, stored: Tensor, initial: Tensor) -> Tensor:
        """W [b, h, in, out] of A; `initial` [h, in, out] is A before the first token."""

    def scale(self, stored: Tensor) -> Tensor | None:
        """Where W = A * scale inside a chunk: the scale [b, h, 1, 1] from A at the chunk's start."""
        return None

    def restored(self, stored: Tensor, weights: Tensor) -> Tensor:
        """A after the chunk; by default it is as it was."""
        return stored


@dataclass(frozen=True)
class Decay(Retention):
    """W = A: `keep` is all there is."""

    linear: ClassVar[bool] = True

    def weights(self, stored: Tensor, initial: Tensor) -> Tensor:
        return stored


@dataclass(frozen=True)
class LqNorm(Retention):
    """W = A / ||A||_q^(q - 2): Moneta (MIRAS, arXiv 2504.13173, eq. 24) with q = 4. The norm is of all entries."""

    q: float

    def weights(self, stored: Tensor, initial: Tensor) -> Tensor:
        return stored * self.scale(stored)

    def scale(self, stored: Tensor) -> Tensor:
        return (stored.abs().pow(self.q).sum((-2, -1), keepdim=True) + 1e-30).pow((2 - self.q) / self.q)


@dataclass(frozen=True)
class Softmax(Retention):
    """W = mass softmax(A) over each unit's inputs, A = log(W / mass): Memora (MIRAS, arXiv 2504.13173, eq. 27).

    Retention by relative entropy: keep log W - step grad instead of keep W - step grad. MIRAS normalises slices of a
    network's weights without naming them, to a constant it does not give (eq. 21).
    """

    mass: float = 1.0
    held: ClassVar[bool] = True

    def weights(self, stored: Tensor, initial: Tensor) -> Tensor:
        return self.mass * torch.softmax(stored, -2)

    def restored(self, stored: Tensor, weights: Tensor) -> Tensor:
        return torch.log_softmax(stored, -2)


@dataclass(frozen=True)
class UnitNorm(Retention):
    """Each unit's weights keep the length they had at first: LaCT (arXiv 2505.23884, section 3.1)."""

    def weights(self, stored: Tensor, initial: Tensor) -> Tensor:
        length = initial.to(stored.dtype).norm(dim=-2, keepdim=True)
        return stored * (length / (stored.square().sum(-2, keepdim=True) + 1e-30).sqrt())

    def restored(self, stored: Tensor, weights: Tensor) -> Tensor:
        return weights
