"""Polynomial features of keys and queries, whose products are a polynomial of the keys' and queries' own."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from functools import cache

import torch
from torch import Tensor, nn

from titanlab.platform.tensors import PerHead


def polynomial_width(dim: int, degree: int) -> int:
    """Number of features of vectors of width `dim`: all monomials up to `degree` (at most 3), the constant too."""
    return sum(math.comb(dim + power - 1, power) for power in range(degree + 1))


class PolynomialFeatures(nn.Module):
    """phi(x) with phi(q) . phi(k) = sum_i a_i (q . k)^i / sum_i a_i (ATLAS, arXiv 2505.23735, eq. 4-5 and 22).

    Every monomial of degree i stands once, weighted by the root of how often it occurs. The a_i > 0 are learned and
    start at 1 / i!, the series of exp. Divided by their sum, features of a unit vector are a unit vector; the paper
    does not divide.

    Args:
        dim: width of keys and queries.
        degree: the largest power, 2 or 3.
    """

    weights: list[Tensor]

    def __init__(self, dim: int, degree: int) -> None:
        super().__init__()
        self.degree = degree
        self.log_coefficients = nn.Parameter(-torch.tensor([math.lgamma(i + 1) for i in range(degree + 1)]))
        for power in range(2, degree + 1):
            index, often = _monomials(dim, power)
            self.register_buffer(f"index_{power}", torch.tensor(index), persistent=False)
            self.register_buffer(f"often_{power}", torch.tensor(often).sqrt(), persistent=False)

    def forward(self, x: PerHead) -> PerHead:
        """[b, t, h, d] -> [b, t, h, polynomial_width(d, degree)], in float32 or better."""
        x = x.to(torch.promote_types(x.dtype, self.log_coefficients.dtype))
        scales = torch.softmax(self.log_coefficients, 0).sqrt()
        features = [torch.ones_like(x[..., :1]) * scales[0], x * scales[1]]
        for power in range(2, self.degree + 1):
            index, often = self.get_buffer(f"index_{power}"), self.get_buffer(f"often_{power}")
            features.append(x[..., index].prod(-1) * often.to(x.dtype) * scales[power])
        return torch.cat(features, -1)


@cache
def _monomials(dim: int, power: int) -> tuple[list[tuple[int, ...]], list[float]]:
    """The factors of every monomial of a degree, and how often it occurs in the power of a sum of `dim` terms."""
    index = list(itertools.combinations_with_replacement(range(dim), power))
    often = (math.factorial(power) // math.prod(map(math.factorial, Counter(one).values())) for one in index)
    return index, [float(count) for count in often]
