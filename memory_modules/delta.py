"""`delta`: DeltaNet's rule, exact per token for every chunk length."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from titanlab.memory_modules.gates import SigmoidGate, gate_flops, token_gate
from titanlab.memory_modules.kernels.delta_chunks import delta_chunks_flops
from titanlab.memory_modules.matrix_memory import MatrixConfig, MatrixMemory
from titanlab.memory_modules.rules.delta_rule import delta_rule
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.tensors import Hidden, PerHead


@MEMORY_MODULES.register("delta")
class DeltaConfig(MatrixConfig):
    """DeltaNet: a matrix that replaces what it returned for a key by the key's value (2102.11174, 2406.06484)."""

    step: Literal["token", "constant"] = "token"
    """Fraction of the old answer that is replaced (the papers' beta): from each token, or a learned constant."""
    step_base: float = Field(1.0, gt=0, le=2)
    """Largest step; the step starts at half of it. Above 1 a key's answer can be turned around (2411.12537)."""

    def flops(self, dim: int) -> float:
        """Layer + dim (6 d + 8 c) + 2 dim heads for a step from the token."""
        rule = delta_chunks_flops(dim // self.heads, self.chunk_size)
        return self.layer_flops(dim) + self.heads * rule + gate_flops(dim, self.heads, self.step)

    def build(self, dim: int) -> DeltaMemory:
        return DeltaMemory(dim, self)


class DeltaMemory(MatrixMemory):
    """`delta_rule` with a data-dependent step."""

    def __init__(self, dim: int, config: DeltaConfig) -> None:
        super().__init__(dim, config)
        self.step = SigmoidGate(dim, heads=self.heads, mode=config.step, start=0.5, scale=config.step_base)

    def write(self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: Tensor) -> tuple[PerHead, Tensor]:
        beta = token_gate(self.step, x)
        return delta_rule(q, k, v, beta, chunk_size=self.chunk_size, state=state, backend=self.backend)
