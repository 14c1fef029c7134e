"""`linear`: Titans' rule on a matrix memory."""

from __future__ import annotations

from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig, MlpShape
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("linear")
class LinearConfig(GradientMemoryConfig):
    """Titans' rule with one matrix as memory (2501.00663, eq. 16-18 with a linear M; the paper's "linear memory")."""

    def build(self, dim: int) -> GradientMemory:
        return GradientMemory(dim, self, mlp=MlpShape(depth=1, hidden=dim // self.heads, activation="gelu"))
