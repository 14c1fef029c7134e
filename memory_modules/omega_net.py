"""`omega_net`: OmegaNet of ATLAS, which writes a window of tokens at each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig, hidden_units
from titanlab.memory_modules.parts.structure import Mlp
from titanlab.platform.memory import MEMORY_MODULES

STEP_FACTORS = {1: 1.0, 2: 2.0, 3: 0.5, 4: 0.25}
"""Largest step times chunk_size by the number of matrices, for windows of up to 4 tokens."""


@MEMORY_MODULES.register("omega_net")
class OmegaNetConfig(GradientMemoryConfig):
    """OmegaNet: every token writes the gradients of the last few, keys are polynomials (ATLAS 2505.23735, eq. 9-10).

    A token's share in the windows it is in is a gate of its own, where the paper allows one for every pair of tokens.
    The memory is x + MLP(phi(x)).
    """

    optimizer: Literal["momentum", "gradient", "muon"] = "gradient"
    """How gradients are applied: alone, with momentum as `momentum` says, or by Muon; see `titans`."""
    window: int = Field(4, ge=1, le=256)
    """Tokens whose gradients every token writes."""
    degree: int = Field(2, ge=1, le=3)
    """Largest power of the polynomial features of keys and queries; 1: the keys and queries themselves."""
    depth: int = Field(2, ge=1, le=4)
    """Matrices of the memory's MLP."""
    expansion: float = Field(4.0, gt=0, le=16)
    """Hidden width of the memory over the head dimension."""

    def build(self, dim: int) -> GradientMemory:
        hidden = hidden_units(dim, self.heads, self.expansion)
        # a token is written `window` times, and an MLP's gradients grow with its depth: else these overflow
        factor = STEP_FACTORS[self.depth] * min(1.0, 4 / self.window)
        form = Form(Mlp(self.depth), hidden, window=self.window, degree=self.degree, around=True, step_factor=factor)
        return GradientMemory(dim, self, form=form)
