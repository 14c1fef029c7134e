"""`ttt_linear`: TTT-Linear, a matrix with a layer norm around it."""

from __future__ import annotations

from titanlab.memory_modules.gates import GateMode
from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("ttt_linear")
class TttLinearConfig(GradientMemoryConfig):
    """TTT-Linear: x + LayerNorm(x W + b) learns by gradient descent in chunks of 16, nothing is forgotten (2407.04620).

    The paper's steps are at most 1, ours 1 / chunk_size, as our keys are unit vectors and their steps add up; its code
    divides by the head's width and a token's place in the chunk. Answers start as long as a query, not sqrt(d) times.
    """

    keep: GateMode = "none"
    """Fraction of the memory kept; none in the paper."""
    momentum: GateMode = "none"
    """Fraction of past surprise kept; none in the paper."""

    def build(self, dim: int) -> GradientMemory:
        return GradientMemory(dim, self, form=Form(Mlp(1, bias=True), hidden=1, normed=True))
