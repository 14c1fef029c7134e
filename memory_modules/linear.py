"""`linear`: Titans' rule on a matrix memory."""

from __future__ import annotations

from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("linear")
class LinearConfig(GradientMemoryConfig):
    """Titans' rule with one matrix as memory (2501.00663, eq. 16-18 with a linear M; the paper's "linear memory")."""

    residual: bool = False
    """Whether the memory is M(x) = x + x W."""

    def build(self, dim: int) -> GradientMemory:
        return GradientMemory(dim, self, form=Form(Mlp(1, residual=self.residual), hidden=1))
