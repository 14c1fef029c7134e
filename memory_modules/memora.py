"""`memora`: Memora of MIRAS, whose weights are kept positive and of equal sums."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig, hidden_units
from titanlab.memory_modules.parts.retention import Softmax
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("memora")
class MemoraConfig(GradientMemoryConfig):
    """Memora: W = softmax(keep log W - step grad) over each unit's inputs, squared error (MIRAS 2504.13173, eq. 27).

    The memory is x + LayerNorm(gelu(x W_1) W_2). The softmax acts at a chunk's last token, with gradients at its start;
    the paper's at its first, with the others' gradients after it (eq. 30-32). Which weights sum up, and to what, it
    leaves open.
    """

    optimizer: Literal["momentum", "gradient", "muon"] = "gradient"
    """How gradients are applied: alone, with momentum as `momentum` says, or by Muon; see `titans`."""
    chunk_size: int = Field(8, ge=1, le=4096)
    """Tokens computed together; within a chunk no weight moves."""
    mass: float = Field(4.0, gt=0)
    """What the weights of a unit sum to."""
    expansion: float = Field(4.0, gt=0, le=16)
    """Hidden width of the memory over the head dimension."""

    def build(self, dim: int) -> GradientMemory:
        hidden = hidden_units(dim, self.heads, self.expansion)
        return GradientMemory(
            dim, self, form=Form(Mlp(2), hidden, normed=True, retention=Softmax(self.mass), step_factor=8.0)
        )
