"""`moneta`: Moneta of MIRAS, an l_p objective and l_q retention."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig, hidden_units
from titanlab.memory_modules.parts.retention import LqNorm
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("moneta")
class MonetaConfig(GradientMemoryConfig):
    """Moneta: A = keep A - step grad of an l_p loss at W, W = A / ||A||_q^(q - 2) (MIRAS 2504.13173, eq. 24).

    The memory is x + LayerNorm(gelu(x W_1) W_2). The norm is taken at chunk ends (eq. 28-29), over each matrix by
    itself, which the paper leaves open.
    """

    objective: Literal["l2", "dot", "huber", "lp"] = "lp"
    """What answers are held to: 1/p times the sum of p-th powers, or another; see `titans`."""
    optimizer: Literal["momentum", "gradient", "muon"] = "gradient"
    """How gradients are applied: alone, with momentum as `momentum` says, or by Muon; see `titans`."""
    q: float = Field(4.0, ge=2, le=8)
    """Power of the retention's norm; 2 is no norm. Above 3 weights grow as what is stored shrinks: keep near 1."""
    expansion: float = Field(4.0, gt=0, le=16)
    """Hidden width of the memory over the head dimension."""

    def build(self, dim: int) -> GradientMemory:
        hidden = hidden_units(dim, self.heads, self.expansion)
        return GradientMemory(
            dim, self, form=Form(Mlp(2), hidden, normed=True, retention=LqNorm(self.q), step_factor=8.0)
        )
