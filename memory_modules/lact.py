"""`lact`: LaCT, large chunks and SwiGLU fast weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from titanlab.memory_modules.gates import GateMode
from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.gradient_memory import GradientMemory, GradientMemoryConfig, hidden_units
from titanlab.memory_modules.parts.retention import UnitNorm
from titanlab.memory_modules.parts.structure import SwiGlu
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("lact")
class LactConfig(GradientMemoryConfig):
    """LaCT: (silu(x W_1) * (x W_3)) W_2, dot product, Muon, weights of constant length, large chunks (2505.23884).

    Within a chunk the memory does not move, its last token sees the move; the paper's sees it one token later. Put it
    in `mag` or `mal` for the window attention that covers a chunk. Momentum is a token's, the paper's a chunk's mean.
    """

    objective: Literal["l2", "dot", "huber", "lp"] = "dot"
    """What answers are held to: the dot product with the value, or another; see `titans`."""
    optimizer: Literal["momentum", "gradient", "muon"] = "muon"
    """How gradients are applied: by Muon, alone, or with momentum as `momentum` says; see `titans`."""
    keep: GateMode = "none"
    """Fraction of the memory kept; none in the paper, whose weights keep their length."""
    momentum: GateMode = "none"
    """Fraction of past gradients kept; with Muon, none begins anew with each chunk."""
    chunk_size: int = Field(2048, ge=1, le=1_048_576)
    """Tokens that the memory is moved by at once: in shorter rows it never moves."""
    expansion: float = Field(2.0, gt=0, le=16)
    """Hidden width of the memory over the head dimension."""

    def build(self, dim: int) -> GradientMemory:
        hidden = hidden_units(dim, self.heads, self.expansion)
        form = Form(SwiGlu(), hidden, retention=UnitNorm(), muon_step="inside")
        return GradientMemory(dim, self, form=form)
