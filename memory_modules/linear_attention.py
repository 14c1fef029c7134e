"""`linear_attention`: a matrix that outer products of keys and values are added to."""

from __future__ import annotations

from titanlab.memory_modules.fixed_decay import FixedDecayMemory
from titanlab.memory_modules.kernels.linear_chunks import linear_chunks_flops
from titanlab.memory_modules.matrix_memory import MatrixConfig
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("linear_attention")
class LinearAttentionConfig(MatrixConfig):
    """Linear attention: S_t = S_{t-1} + k_t v_t^T, nothing is forgotten (2006.16236, eq. 18-20)."""

    def flops(self, dim: int) -> float:
        """Layer + dim (4 d + 4 c)."""
        return self.layer_flops(dim) + self.heads * linear_chunks_flops(dim // self.heads, self.chunk_size)

    def build(self, dim: int) -> FixedDecayMemory:
        return FixedDecayMemory(dim, self)
