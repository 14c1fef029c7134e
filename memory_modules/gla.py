"""`gla`: gated linear attention, a decay for every key channel from the token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from titanlab.memory_modules.decay_gates import LowRank
from titanlab.memory_modules.kernels.linear_chunks import linear_chunks_flops
from titanlab.memory_modules.matrix_memory import MatrixConfig, MatrixMemory
from titanlab.memory_modules.rules.linear_attention import linear_attention
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.tensors import Hidden, PerHead


@MEMORY_MODULES.register("gla")
class GlaConfig(MatrixConfig):
    """Gated linear attention: every key channel decays at a rate of the token's (2312.06635, eq. 3, section 4.4)."""

    gate_rank: int = Field(16, ge=1)
    """Columns between the two matrices that make the decays from the token."""
    gate_temperature: float = Field(16.0, gt=0)
    """The decay is a sigmoid to the power 1 / gate_temperature: the larger, the slower the memory forgets."""
    keep_start: float = Field(0.98, gt=0, lt=1)
    """Fraction of the memory kept at initialisation."""

    def flops(self, dim: int) -> float:
        """Layer + dim (4 d + 3 c + 1) + 4 dim gate_rank for the decays, c at most 16."""
        rule = linear_chunks_flops(dim // self.heads, self.chunk_size, channel_decay=True)
        return self.layer_flops(dim) + self.heads * rule + 4 * dim * self.gate_rank

    def build(self, dim: int) -> GlaMemory:
        return GlaMemory(dim, self)


class GlaMemory(MatrixMemory):
    """`linear_attention` with log_decay = logsigmoid(x A B + bias) / temperature."""

    def __init__(self, dim: int, config: GlaConfig) -> None:
        super().__init__(dim, config)
        self.temperature = config.gate_temperature
        logarithm = math.log(config.keep_start) * config.gate_temperature  # of the sigmoid
        self.decay = LowRank(dim, rank=config.gate_rank, bias=logarithm - math.log(-math.expm1(logarithm)))

    def write(self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: Tensor) -> tuple[PerHead, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            log_decay = F.logsigmoid(self.decay(x)) / self.temperature
        decays = log_decay.unflatten(-1, (self.heads, self.head_dim))
        return linear_attention(q, k, v, decays, chunk_size=self.chunk_size, state=state, backend=self.backend)
