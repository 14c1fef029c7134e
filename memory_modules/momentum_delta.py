"""`momentum_delta`: the delta rule with momentum and decay, exact per token for every chunk length."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from titanlab.memory_modules.gates import SigmoidGate, build_gate, gate_flops, token_gate
from titanlab.memory_modules.kernels.momentum_delta_chunks import momentum_delta_chunks_flops
from titanlab.memory_modules.layer import MemoryLayer
from titanlab.memory_modules.matrix_memory import MatrixConfig, initial_matrix, read_matrix
from titanlab.memory_modules.rules.momentum_delta_rule import MomentumDeltaState, momentum_delta_rule
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.tensors import Gate, Hidden, PerHead


@MEMORY_MODULES.register("momentum_delta")
class MomentumDeltaConfig(MatrixConfig):
    """The delta rule with momentum and decay: `linear` with the gradient of each token (2501.00663, eq. 13-14)."""

    keep: Literal["token", "constant", "none"] = "token"
    """Fraction of the memory kept: from each token, a learned constant, or none (1)."""
    momentum: Literal["token", "constant", "none"] = "token"
    """Fraction of past surprise kept: token, constant, or none (0)."""
    step: Literal["token", "constant"] = "token"
    """Inner learning rate: token or constant."""
    keep_start: float = Field(0.98, gt=0, lt=1)
    """Value of keep at initialisation."""
    momentum_start: float = Field(0.12, gt=0, lt=1)
    """Value of momentum at initialisation."""
    step_base: float = Field(1.0, gt=0, le=2)
    """Largest step before `bounded`; the step starts at half of it."""
    bounded: bool = True
    """Whether the step is multiplied by 1 - momentum: beyond about 2 (1 - momentum) the memory grows without bound,
    since past surprise adds up to step / (1 - momentum)."""

    def flops(self, dim: int) -> float:
        """Layer + dim (12 d + 8 d / c + 9 c) + heads (2 c^2 + 2 c) + 2 dim heads for every gate from the token."""
        rule = momentum_delta_chunks_flops(dim // self.heads, self.chunk_size)
        gates = gate_flops(dim, self.heads, self.keep, self.momentum, self.step)
        return self.layer_flops(dim) + self.heads * rule + gates

    def build(self, dim: int) -> MomentumDeltaMemory:
        return MomentumDeltaMemory(dim, self)


class MomentumDeltaMemory(MemoryLayer):
    """`momentum_delta_rule` with data-dependent gates and a learned initial matrix."""

    def __init__(self, dim: int, config: MomentumDeltaConfig) -> None:
        super().__init__(dim, config)
        self.chunk_size, self.backend, self.bounded = config.chunk_size, config.backend, config.bounded
        self.keep = build_gate(dim, heads=self.heads, mode=config.keep, start=config.keep_start)
        self.momentum = build_gate(dim, heads=self.heads, mode=config.momentum, start=config.momentum_start)
        self.step = SigmoidGate(dim, heads=self.heads, mode=config.step, start=0.5, scale=config.step_base)
        self.initial_memory = nn.Parameter(torch.zeros(self.heads, self.head_dim, self.head_dim))

    def initial_rule_state(self, batch: int) -> MomentumDeltaState:
        memory = initial_matrix(self.initial_memory, batch)
        return MomentumDeltaState(memory, torch.zeros_like(memory))

    def write(
        self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: MomentumDeltaState
    ) -> tuple[PerHead, MomentumDeltaState]:
        def rate(gate: SigmoidGate | None) -> Gate | None:
            return None if gate is None else token_gate(gate, x)

        keep, momentum, step = rate(self.keep), rate(self.momentum), token_gate(self.step, x)
        if self.bounded and momentum is not None:
            step = step * (1 - momentum)
        return momentum_delta_rule(
            q, k, v, keep, momentum, step, chunk_size=self.chunk_size, state=state, backend=self.backend
        )

    def recall(self, q: PerHead, state: MomentumDeltaState) -> PerHead:
        return read_matrix(q, state.memory)
