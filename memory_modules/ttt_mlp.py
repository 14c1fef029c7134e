"""`ttt_mlp`: TTT-MLP, two matrices with a layer norm around them."""

from __future__ import annotations

from pydantic import Field

from titanlab.memory_modules.gates import GateMode
from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig, hidden_units
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("ttt_mlp")
class TttMlpConfig(GradientMemoryConfig):
    """TTT-MLP: x + LayerNorm(gelu(x W_1 + b_1) W_2 + b_2) by gradient descent in chunks of 16 (2407.04620).

    Steps, and answers at first, as in `ttt_linear`; the paper's largest step is 0.1.
    """

    keep: GateMode = "none"
    """Fraction of the memory kept; none in the paper."""
    momentum: GateMode = "none"
    """Fraction of past surprise kept; none in the paper."""
    expansion: float = Field(4.0, gt=0, le=16)
    """Hidden width of the memory over the head dimension."""

    def build(self, dim: int) -> GradientMemory:
        hidden = hidden_units(dim, self.heads, self.expansion)
        return GradientMemory(dim, self, form=Form(Mlp(2, bias=True), hidden, normed=True, step_factor=4.0))
