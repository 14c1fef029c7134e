"""`linear_attention`: a matrix that outer products of keys and values are added to."""

from __future__ import annotations

from titanlab.memory_modules.fixed_decay import FixedDecayMemory
from titanlab.memory_modules.layer import LayerConfig
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("linear_attention")
class LinearAttentionConfig(LayerConfig):
    """Linear attention: S_t = S_{t-1} + k_t v_t^T, nothing is forgotten (2006.16236, eq. 18-20)."""

    def build(self, dim: int) -> FixedDecayMemory:
        return FixedDecayMemory(dim, self)
