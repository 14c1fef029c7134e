"""RMS norm that hands the next matrix product what it takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.platform.fused_kernels.choice import kernels_take
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


def gated_by(ys: Sequence[Tensor], ms: Sequence[Tensor], norm: RMSNorm, *, added: Tensor | None = None) -> Tensor:
    """y sigmoid(norm(m)), plus what is added.

    Args:
        ys: y in pieces along time, [b, t_i, dim] each.
        ms: m in the same pieces.
        norm: of m.
        added: [b, t, dim], t the sum of all t_i.
    """
    if kernels_take(*ys, *ms, norm.weight, added) and ys[0].ndim == 3:
        from titanlab.platform.fused_kernels.normed_rows import WIDEST, normed_pieces

        if ms[0].shape[-1] <= WIDEST:
            dtype = torch.promote_types(ys[0].dtype, compute_type(ms[0]))
            dtype = dtype if added is None else torch.promote_types(dtype, added.dtype)
            others, before = [y.unsqueeze(2) for y in ys], None if added is None else added.unsqueeze(2)
            rows = normed_pieces(
                [m.unsqueeze(2) for m in ms], norm.weight, norm.epsilon, dtype, use="sigmoid", others=others,
                added=before,
            )  # fmt: skip
            return rows.squeeze(2)
    y, m = (pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), 1) for pieces in (ys, ms))
    gated = _gated(y, m, norm.weight, norm.epsilon, compute_type(m))
    return gated if added is None else added + gated


def normed(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean x^2 + eps) * weight over the last axis, in `dtype`, sums in float32 or better."""
    with without_autocast(x):
        return F.rms_norm(x.to(dtype), (x.shape[-1],), weight.to(dtype), eps)


_rms_norm_in_torch = fusible(normed)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The same in one pass, where it can be had."""
    if kernels_take(x, weight) and x.ndim == 3:
        from titanlab.platform.fused_kernels.normed_rows import WIDEST, normed_rows

        if x.shape[-1] <= WIDEST:
            return normed_rows(x.unsqueeze(2), weight, eps, dtype).squeeze(2)
    return _rms_norm_in_torch(x, weight, eps, dtype)


@lean
def _gated(y: Tensor, m: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return y * torch.sigmoid(normed(m, weight, eps, dtype))
