"""`mamba2`: the state space duality form of Mamba-2, linear attention with a decay and an input scale of the token."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from titanlab.memory_modules.decay_gates import TimeStep
from titanlab.memory_modules.kernels.linear_chunks import linear_chunks_flops
from titanlab.memory_modules.matrix_memory import MatrixConfig, MatrixMemory
from titanlab.memory_modules.rules.linear_attention import linear_attention
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.tensors import Hidden, PerHead


@MEMORY_MODULES.register("mamba2")
class Mamba2Config(MatrixConfig):
    """Mamba-2: S_t = exp(-rate dt_t) S_{t-1} + dt_t k_t v_t^T, dt_t from the token, and a skip (2405.21060)."""

    rate_min: float = Field(0.1, gt=0)
    """Decay rate of the first head at initialisation, the paper's -A."""
    rate_max: float = Field(1.6, gt=0)
    """Decay rate of the last head at initialisation; those between lie evenly."""
    step_min: float = Field(0.01, gt=0)
    """Step dt of the last head at initialisation."""
    step_max: float = Field(1.0, gt=0)
    """Step dt of the first head at initialisation; those between lie evenly in their logarithm."""
    skip: bool = True
    """Whether values go past the memory too, y_t + D v_t with a learned D for every head."""

    def flops(self, dim: int) -> float:
        """Layer + dim (4 d + 4 c) + 2 dim heads for dt."""
        rule = linear_chunks_flops(dim // self.heads, self.chunk_size)
        return self.layer_flops(dim) + self.heads * (rule + 2 * dim)

    def build(self, dim: int) -> Mamba2Memory:
        return Mamba2Memory(dim, self)


class Mamba2Memory(MatrixMemory):
    """`linear_attention` with the decay and the step of Mamba-2: B is the key, C the query, x the value."""

    def __init__(self, dim: int, config: Mamba2Config) -> None:
        super().__init__(dim, config)
        places = [head / max(1, self.heads - 1) for head in range(self.heads)]
        self.time = TimeStep(
            dim,
            rates=[config.rate_min + place * (config.rate_max - config.rate_min) for place in places],
            times=[config.step_max * (config.step_min / config.step_max) ** place for place in places],
        )
        self.skip = nn.Parameter(torch.ones(self.heads)) if config.skip else None

    def write(self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: Tensor) -> tuple[PerHead, Tensor]:
        time, log_decay = self.time(x)
        y, state = linear_attention(
            q, k, v * time.unsqueeze(-1), log_decay, chunk_size=self.chunk_size, state=state, backend=self.backend
        )
        return (y if self.skip is None else y + self.skip.to(y.dtype).unsqueeze(-1) * v), state
