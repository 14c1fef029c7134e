"""One softmax over keys that were attended to in parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from titanlab.architectures.attention.backend import Queries
from titanlab.platform.fused_kernels.choice import kernels_take
from titanlab.platform.fusion import fusible


class Part(NamedTuple):
    """What a query gets from some of its keys, and the logarithm of the sum of their exponentiated scores."""

    out: Queries
    log_sum: Float[Tensor, "b h t"]


def merged(parts: Sequence[Part]) -> Queries:
    """The output over the keys of all parts, which have none in common:

        out = sum_i w_i out_i,  w = softmax_i(log_sum_i)

    Exact, and differentiable in outputs and sums; the sums' gradient is not small and must reach the scores.
    """
    outs, log_sums = [part.out for part in parts], [part.log_sum for part in parts]
    if kernels_take(*outs, *log_sums):
        from titanlab.platform.fused_kernels.weighted_parts import fits, weighted_parts

        if fits(outs):
            return weighted_parts(outs, log_sums)
    return _weighted(outs, torch.stack(log_sums))


def merged_part(parts: Sequence[Part]) -> Part:
    """The output over the keys of all parts, and the logarithm of the sum over them; without a gradient."""
    outs, log_sums = [part.out for part in parts], [part.log_sum for part in parts]
    if kernels_take(*outs, *log_sums):
        from titanlab.platform.fused_kernels.weighted_parts import fits, weighted_with_sum

        if fits(outs):
            return Part(*weighted_with_sum(outs, log_sums))
    stacked = torch.stack(log_sums)
    return Part(_weighted(outs, stacked), torch.logsumexp(stacked, 0))


@fusible
def _weighted(outs: Sequence[Queries], log_sums: Float[Tensor, "n b h t"]) -> Queries:
    weights = log_sums.softmax(0)
    total = outs[0] * weights[0, ..., None]
    for out, weight in zip(outs[1:], weights[1:], strict=True):
        total = total + out * weight[..., None]
    return total.to(outs[0].dtype)
