"""RMS norm that hands the next matrix product what it takes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.platform.fusion import fusible
from titanlab.platform.recomputation import lean
from titanlab.platform.tensors import compute_type, without_autocast


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm`, but under autocast its result is in the lower type.

    torch's own answers in float32 there, and every product of that result makes a copy of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon, compute_type(x))

    @property
    def epsilon(self) -> float:
        """What is added to the mean square, torch's own number where none is set: that of the weight's type."""
        return torch.finfo(self.weight.dtype).eps if self.eps is None else self.eps


def gated_by(y: Tensor, m: Tensor, norm: RMSNorm) -> Tensor:
    """y sigmoid(norm(m))."""
    return _gated(y, m, norm.weight, norm.epsilon, compute_type(m))


def normed(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean x^2 + eps) * weight over the last axis, in `dtype`, sums in float32 or better."""
    with without_autocast(x):
        return F.rms_norm(x.to(dtype), (x.shape[-1],), weight.to(dtype), eps)


rms_norm = fusible(normed)


@lean
def _gated(y: Tensor, m: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return y * torch.sigmoid(normed(m, weight, eps, dtype))
