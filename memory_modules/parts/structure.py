"""Structure: which function of its matrices a memory is.

A structure is written once, with `linear(l, x)` standing for x W_l. The rule decides what W_l is: the reference memory
where gradients are taken, or, for a query, the memory as it stands at the query's own token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = Callable[[int, Tensor], Tensor]
"""linear(l, x [b, h, c, in]) -> x W_l [b, h, c, out]."""


class Structure(ABC):
    """A function of L matrices."""

    @property
    @abstractmethod
    def matrices(self) -> int:
        """L."""

    @property
    def last(self) -> int:
        """Which matrix gives the answer."""
        return self.matrices - 1

    @abstractmethod
    def shapes(self, width: int, hidden: int, dim: int) -> list[tuple[int, int]]:
        """[in, out] of each matrix for inputs of `width`, `hidden` units and answers of `dim`."""

    @abstractmethod
    def __call__(self, x: Tensor, linear: Linear) -> Tensor:
        """M(x) [b, h, c, d]."""


@dataclass(frozen=True)
class Mlp(Structure):
    """f(.. f(x W_1) ..) W_L, plus x with `residual`; with `bias` each matrix has a last row that a 1 is fed to."""

    depth: int
    activation: str = "gelu"
    residual: bool = False
    bias: bool = False

    @property
    def matrices(self) -> int:
        return self.depth

    def shapes(self, width: int, hidden: int, dim: int) -> list[tuple[int, int]]:
        widths = [width, *[hidden] * (self.depth - 1), dim]
        return [(before + self.bias, after) for before, after in zip(widths[:-1], widths[1:], strict=True)]

    def __call__(self, x: Tensor, linear: Linear) -> Tensor:
        y = x
        for layer in range(self.depth):
            y = _activated(self.activation, y) if layer else y
            y = linear(layer, _with_one(y) if self.bias else y)
        return x + y if self.residual else y


@dataclass(frozen=True)
class Normed(Structure):
    """x + LayerNorm(f(x)) of another structure f (TTT, arXiv 2407.04620, section 2.7).

    Scale and shift [h, d] are not learned at test time.
    """

    inner: Structure
    scale: Tensor
    shift: Tensor

    @property
    def matrices(self) -> int:
        return self.inner.matrices

    @property
    def last(self) -> int:
        return self.inner.last

    def shapes(self, width: int, hidden: int, dim: int) -> list[tuple[int, int]]:
        return self.inner.shapes(width, hidden, dim)

    def __call__(self, x: Tensor, linear: Linear) -> Tensor:
        y = F.layer_norm(self.inner(x, linear), self.scale.shape[-1:], eps=1e-6)
        return x + y * self.scale.to(y.dtype).unsqueeze(1) + self.shift.to(y.dtype).unsqueeze(1)


@dataclass(frozen=True)
class SwiGlu(Structure):
    """(silu(x W_1) * (x W_3)) W_2, the fast weights of LaCT (arXiv 2505.23884, eq. 5)."""

    @property
    def matrices(self) -> int:
        return 3

    @property
    def last(self) -> int:
        return 1

    def shapes(self, width: int, hidden: int, dim: int) -> list[tuple[int, int]]:
        return [(width, hidden), (hidden, dim), (width, hidden)]

    def __call__(self, x: Tensor, linear: Linear) -> Tensor:
        return linear(1, F.silu(linear(0, x)) * linear(2, x))


def _activated(name: str, x: Tensor) -> Tensor:
    # torch's own, whose second derivatives autograd knows
    return F.gelu(x, approximate="tanh") if name == "gelu" else getattr(torch, name)(x) if name != "silu" else F.silu(x)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1)
