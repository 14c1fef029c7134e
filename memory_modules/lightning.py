"""`lightning`: the lightning attention of MiniMax-01, a fixed decay for every head and layer."""

from __future__ import annotations

from pydantic import Field

from titanlab.memory_modules.fixed_decay import FixedDecayMemory
from titanlab.memory_modules.kernels.linear_chunks import linear_chunks_flops
from titanlab.memory_modules.matrix_memory import MatrixConfig
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("lightning")
class LightningConfig(MatrixConfig):
    """MiniMax-01's lightning attention: a fixed decay, slower in later heads and layers (2501.08313)."""

    place: float | None = Field(None, ge=0, le=1)
    """The layer's place in the stack, 0 first, 1 last: log_decay = -2^(-8 (head + 1) / heads) (1 - place + 1e-5).
    By default each layer's own."""

    def for_layer(self, index: int, layers: int) -> LightningConfig:
        if self.place is not None:
            return self
        return self.model_copy(update={"place": index / (layers - 1) if layers > 1 else 0.0})

    def flops(self, dim: int) -> float:
        """Layer + dim (4 d + 4 c)."""
        return self.layer_flops(dim) + self.heads * linear_chunks_flops(dim // self.heads, self.chunk_size)

    def build(self, dim: int) -> FixedDecayMemory:
        share = 1 - (self.place or 0.0) + 1e-5
        slopes = [2.0 ** (-8 * (head + 1) / self.heads) for head in range(self.heads)]
        return FixedDecayMemory(dim, self, log_decay=[-slope * share for slope in slopes])
