"""Decays in their logarithm: a rate times a time of the token (Mamba-2, Gated DeltaNet), and maps of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.memory_modules.gates import product
from titanlab.platform.fusion import fusible
from titanlab.platform.tensors import Gate, Hidden


class TimeStep(nn.Module):
    """time = softplus(x W + bias) and log_decay = -rate * time, one of each a head.

    Mamba-2 (arXiv 2405.21060) writes A for -rate and dt for time.

    Args:
        dim: width of x.
        rates: the rates at initialisation, one a head.
        times: the times at initialisation, one a head.
        from_token: whether times come from the token; else they are learned constants.
    """

    def __init__(self, dim: int, *, rates: Sequence[float], times: Sequence[float], from_token: bool = True) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor([math.log(rate) for rate in rates]))
        self.bias = nn.Parameter(torch.tensor([_softplus_undone(time) for time in times]))
        self.weight = nn.Parameter(torch.empty(len(rates), dim)) if from_token else None
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Hidden) -> tuple[Gate, Gate]:
        """Time and log decay [b, t, h] in float32 or better."""
        if self.weight is None:
            time = F.softplus(self.bias).expand(*x.shape[:2], -1)
            return time, -self.log_rate.exp() * time
        return _time_and_decay(product(x, self.weight), self.bias, self.log_rate)


@fusible
def _time_and_decay(products: Tensor, bias: Tensor, log_rate: Tensor) -> tuple[Gate, Gate]:
    time = F.softplus(products + bias)
    return time, -log_rate.exp() * time


class LowRank(nn.Module):
    """f(x A) B + bias in float32 or better, with few columns between A and B.

    Args:
        dim: width of x and of the result.
        rank: columns of A.
        bias: values of the bias at initialisation, one for every channel or one for all; None: no bias.
        activation: f; None: none.
        spread: standard deviation of B at initialisation.
    """

    def __init__(
        self,
        dim: int,
        *,
        rank: int,
        bias: float | Sequence[float] | None,
        activation: Callable[[Tensor], Tensor] | None = None,
        spread: float = 0.02,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.down, self.up = nn.Parameter(torch.empty(rank, dim)), nn.Parameter(torch.empty(dim, rank))
        nn.init.normal_(self.down, std=dim**-0.5)
        nn.init.normal_(self.up, std=spread)
        values = [bias] * dim if isinstance(bias, float) else bias
        self.bias = None if values is None else nn.Parameter(torch.tensor(values))

    def forward(self, x: Hidden) -> Hidden:
        hidden = product(x, self.down)
        with torch.autocast(x.device.type, enabled=False):
            hidden = hidden if self.activation is None else self.activation(hidden)
            return F.linear(hidden, self.up, self.bias)


def _softplus_undone(y: float) -> float:
    """log(exp(y) - 1), also where exp(y) overflows."""
    return y + math.log(-math.expm1(-y))
