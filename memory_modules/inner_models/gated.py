"""`gated`: a SwiGLU, the structure of LaCT's memory (arXiv 2505.23884)."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titanlab.memory_modules.inner_model import INNER_MODELS, InnerModelConfig


@INNER_MODELS.register("gated")
class GatedConfig(InnerModelConfig):
    """SwiGLU without biases: M(x) = W_3 (silu(W_1 x) * W_2 x) (Shazeer, arXiv 2002.05202, eq. 5)."""

    expansion: float = Field(2.0, gt=0, le=16)
    """Hidden width over the head dimension."""

    def build(self, dim: int) -> Gated:
        return Gated(dim, self)


class Gated(nn.Module):
    """The three matrices; answers start at 0, so that what the first tokens write is all that is read."""

    def __init__(self, dim: int, config: GatedConfig) -> None:
        super().__init__()
        hidden = max(1, round(dim * config.expansion))
        self.gate, self.value = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, dim, bias=False)
        for linear in (self.gate, self.value):
            nn.init.normal_(linear.weight, std=2 * hidden**-0.5)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[.., dim] to [.., dim]."""
        return self.out(F.silu(self.gate(x)) * self.value(x))
