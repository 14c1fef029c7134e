"""`delta`: DeltaNet's rule, exact per token for every chunk length."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from titanlab.memory_modules.functional import delta_rule
from titanlab.memory_modules.gates import SigmoidGate
from titanlab.memory_modules.layer import LayerConfig, MemoryLayer
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.tensors import Hidden, PerHead, at_least_float32


@MEMORY_MODULES.register("delta")
class DeltaConfig(LayerConfig):
    """DeltaNet: a matrix that replaces what it returned for a key by the key's value (2102.11174, 2406.06484)."""

    step: Literal["token", "constant"] = "token"
    """Fraction of the old answer that is replaced (the papers' beta): from each token, or a learned constant."""
    step_base: float = Field(1.0, gt=0, le=2)
    """Largest step; the step starts at half of it. Above 1 a key's answer can be turned around (2411.12537)."""

    def build(self, dim: int) -> DeltaMemory:
        return DeltaMemory(dim, self)


class DeltaMemory(MemoryLayer):
    """`delta_rule` with a data-dependent step and a learned initial matrix; the state is S [b, h, key, value]."""

    def __init__(self, dim: int, config: DeltaConfig) -> None:
        super().__init__(dim, config)
        self.chunk_size = config.chunk_size
        self.step = SigmoidGate(dim, heads=self.heads, mode=config.step, start=0.5, scale=config.step_base)
        self.initial_memory = nn.Parameter(torch.zeros(self.heads, self.head_dim, self.head_dim))

    def initial_rule_state(self, batch: int) -> Tensor:
        matrix = self.initial_memory
        return matrix.to(at_least_float32(matrix.dtype)).expand(batch, *matrix.shape)

    def write(self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: Tensor) -> tuple[PerHead, Tensor]:
        beta, _ = self.step(x, self.step.initial_held(x.shape[0]), 0, self.chunk_size)
        return delta_rule(q, k, v, beta, chunk_size=self.chunk_size, state=state)

    def recall(self, q: PerHead, state: Tensor) -> PerHead:
        return torch.einsum("bthk,bhkv->bthv", q.to(state.dtype), state).to(q.dtype)
