"""`yaad`: Yaad of MIRAS, an objective that outliers do not rule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig, hidden_units
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("yaad")
class YaadConfig(GradientMemoryConfig):
    """Yaad: Huber's loss of the error's length, its threshold from the token; a decay (MIRAS 2504.13173, eq. 15, 26).

    The memory is x + LayerNorm(gelu(x W_1) W_2).
    """

    objective: Literal["l2", "dot", "huber", "lp"] = "huber"
    """What answers are held to: Huber's loss with a threshold of the token, or another; see `titans`."""
    optimizer: Literal["momentum", "gradient", "muon"] = "gradient"
    """How gradients are applied: alone, with momentum as `momentum` says, or by Muon; see `titans`."""
    expansion: float = Field(4.0, gt=0, le=16)
    """Hidden width of the memory over the head dimension."""

    def build(self, dim: int) -> GradientMemory:
        hidden = hidden_units(dim, self.heads, self.expansion)
        return GradientMemory(dim, self, form=Form(Mlp(2), hidden, normed=True, step_factor=8.0))
