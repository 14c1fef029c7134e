"""`titans`: the long-term memory of Titans, an MLP that learns at test time."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig, hidden_units
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("titans")
class TitansConfig(GradientMemoryConfig):
    """Titans' long-term memory: an MLP written by gradient descent, momentum and forgetting (2501.00663, eq. 8-18)."""

    residual: bool = False
    """Whether the memory is M(x) = x + MLP(x)."""
    depth: int = Field(2, ge=1, le=4)
    """Matrices of the memory's MLP; 1 is a linear memory."""
    expansion: float = Field(2.0, gt=0, le=16)
    """Hidden width of the memory over the head dimension."""
    activation: Literal["gelu", "silu", "relu", "tanh"] = "gelu"
    """Non-linearity between the memory's matrices; gelu is the tanh form."""

    def build(self, dim: int) -> GradientMemory:
        structure = Mlp(self.depth, self.activation, self.residual)
        return GradientMemory(dim, self, form=Form(structure, hidden_units(dim, self.heads, self.expansion)))
