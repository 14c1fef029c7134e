"""`retnet`: linear attention with a fixed decay for every head."""

from __future__ import annotations

import math

from pydantic import Field

from titanlab.memory_modules.fixed_decay import FixedDecayMemory
from titanlab.memory_modules.kernels.linear_chunks import linear_chunks_flops
from titanlab.memory_modules.matrix_memory import MatrixConfig
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("retnet")
class RetNetConfig(MatrixConfig):
    """RetNet's retention: linear attention, head i keeps 1 - 2^(-5-i) of its memory a token (2307.08621, eq. 8)."""

    first_exponent: int = Field(5, ge=1, le=20)
    """The first head keeps 1 - 2^-first_exponent; every further one forgets half as much as the one before."""

    def flops(self, dim: int) -> float:
        """Layer + dim (4 d + 4 c)."""
        return self.layer_flops(dim) + self.heads * linear_chunks_flops(dim // self.heads, self.chunk_size)

    def build(self, dim: int) -> FixedDecayMemory:
        forgotten = [2.0 ** -(self.first_exponent + head) for head in range(self.heads)]
        return FixedDecayMemory(dim, self, log_decay=[math.log1p(-share) for share in forgotten])
