"""`gated_delta`: Gated DeltaNet, decay and then the delta rule."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from titanlab.memory_modules.decay_gates import TimeStep
from titanlab.memory_modules.delta import DeltaConfig, DeltaMemory
from titanlab.memory_modules.gates import gate_flops, token_gate
from titanlab.memory_modules.rules.delta_rule import gated_delta_rule
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.tensors import Hidden, PerHead


@MEMORY_MODULES.register("gated_delta")
class GatedDeltaConfig(DeltaConfig):
    """Gated DeltaNet: the memory decays by a rate of the token's, then follows the delta rule (2412.06464, eq. 10)."""

    keep: Literal["token", "constant"] = "token"
    """Fraction of the memory kept (the paper's alpha): from each token, or a learned constant. `delta` has none."""
    keep_start: float = Field(0.98, gt=0, lt=1)
    """Fraction of the memory kept at initialisation."""

    def flops(self, dim: int) -> float:
        """That of `delta` + 2 dim heads for a keep from the token."""
        return super().flops(dim) + gate_flops(dim, self.heads, self.keep)

    def build(self, dim: int) -> GatedDeltaMemory:
        return GatedDeltaMemory(dim, self)


class GatedDeltaMemory(DeltaMemory):
    """`gated_delta_rule` with Mamba-2's decay, exp(-rate softplus(x W + bias)), and a sigmoid step."""

    def __init__(self, dim: int, config: GatedDeltaConfig) -> None:
        super().__init__(dim, config)
        times = [-math.log(config.keep_start)] * self.heads
        self.keep = TimeStep(dim, rates=[1.0] * self.heads, times=times, from_token=config.keep == "token")

    def write(self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: Tensor) -> tuple[PerHead, Tensor]:
        _, log_decay = self.keep(x)
        beta = token_gate(self.step, x)
        return gated_delta_rule(q, k, v, log_decay, beta, chunk_size=self.chunk_size, state=state, backend=self.backend)
