"""Objective: what a memory's answer to a key is held to, a loss whose gradient is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Objective(ABC):
    """l(M(k), v), one number a token."""

    @abstractmethod
    def __call__(self, answer: Tensor, value: Tensor, threshold: Tensor | None) -> Tensor:
        """The loss [...] of answers and values [..., d]; `threshold` [...] is Huber's."""


@dataclass(frozen=True)
class SquaredError(Objective):
    """1/2 ||M(k) - v||^2: delta rules, TTT, Titans."""

    def __call__(self, answer: Tensor, value: Tensor, threshold: Tensor | None) -> Tensor:
        return (answer - value).square().sum(-1) / 2


@dataclass(frozen=True)
class DotProduct(Objective):
    """-<M(k), v>: linear attention and its kin, LaCT. Its gradient does not see what is stored already."""

    def __call__(self, answer: Tensor, value: Tensor, threshold: Tensor | None) -> Tensor:
        return -(answer * value).sum(-1)


@dataclass(frozen=True)
class Huber(Objective):
    """1/2 ||e||^2 up to a threshold of the token, beyond it threshold (||e|| - threshold / 2), e = M(k) - v.

    An outlier is felt no more than a token at the threshold. MIRAS (arXiv 2504.13173), eq. 15; its Yaad (eq. 26) takes
    threshold times the gradient of ||e||_1 beyond it, which jumps at the threshold and is no loss's gradient.
    """

    def __call__(self, answer: Tensor, value: Tensor, threshold: Tensor | None) -> Tensor:
        assert threshold is not None
        square = (answer - value).square().sum(-1)
        outlier = square > threshold.square()
        norm = torch.where(outlier, square, torch.ones_like(square)).sqrt()  # no square root of 0 under the gradient
        return torch.where(outlier, threshold * (norm - threshold / 2), square / 2)


@dataclass(frozen=True)
class Lp(Objective):
    """1/p sum_j |M(k)_j - v_j|^p: Moneta with p = 3 (MIRAS, eq. 10); p = 2 is the squared error.

    MIRAS has no 1/p; with it the size of a step does not change with p.
    """

    p: float

    def __call__(self, answer: Tensor, value: Tensor, threshold: Tensor | None) -> Tensor:
        return (answer - value).abs().pow(self.p).sum(-1) / self.p


def objective_called(name: str, p: float) -> Objective:
    """The objective of a setting: l2 | dot | huber | lp."""
    return {"l2": SquaredError(), "dot": DotProduct(), "huber": Huber(), "lp": Lp(p)}[name]
