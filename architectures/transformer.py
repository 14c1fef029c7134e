"""The baseline with full attention: a pre-norm transformer block with rotary positions."""

from __future__ import annotations

from pydantic import Field

from titanlab.architectures.attention.backend import AttentionName
from titanlab.architectures.attention.costs import attention_flops, key_value_bytes
from titanlab.architectures.attention.layer import KeyValues
from titanlab.architectures.attention.streaming import CausalAttention
from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.config import no_result
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.norms import RMSNorm
from titanlab.platform.tensors import Hidden


@ARCHITECTURES.register("transformer")
class TransformerConfig(ArchitectureConfig):
    """Baseline: causal attention over the whole past, no memory (a given one is ignored)."""

    heads: int = Field(4, ge=1)
    """Attention heads; must divide dim into heads of an even size."""
    attention: AttentionName = no_result("auto")
    """What computes attention: flash (the flash-attn package), flex (FlexAttention), sdpa (torch's own kernels), or
    auto: the fastest of those that were checked here. They differ by rounding only; see docs/attention.md."""

    def build(self, dim: int, memory: MemoryConfig) -> Transformer:
        return Transformer(dim, self)

    def flops(self, dim: int, memory: MemoryConfig, length: int) -> float:
        """8 dim^2 + 4 dim (length + 1) / 2: the token at position t sees t + 1 keys."""
        return attention_flops(dim, self.heads, keys=(length + 1) / 2)

    def state_size(self, dim: int, memory: MemoryConfig, length: int) -> int:
        """Keys and values of the whole row."""
        return key_value_bytes(dim, length)


class Transformer(Architecture):
    """y = x + Attention(norm(x)); the state is the cache of all keys and values."""

    def __init__(self, dim: int, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)
        self.attention = CausalAttention(dim, heads=config.heads, attention=config.attention)

    def initial_state(self, batch: int) -> KeyValues:
        """The cache before the first token."""
        return self.attention.initial_state(batch)

    def forward(self, x: Hidden, state: KeyValues) -> tuple[Hidden, KeyValues]:
        y, state = self.attention(self.norm(x), state)
        return x + y, state
