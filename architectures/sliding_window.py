"""The baseline with windowed attention: MAG and MAL without their memory and persistent tokens."""

from __future__ import annotations

from pydantic import Field

from titanlab.architectures.attention.backend import AttentionName
from titanlab.architectures.attention.costs import attention_flops, key_value_bytes, mean_window
from titanlab.architectures.attention.layer import KeyValues
from titanlab.architectures.attention.streaming import WindowAttention
from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.config import no_result
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.norms import RMSNorm
from titanlab.platform.tensors import Hidden


@ARCHITECTURES.register("sliding_window")
class SlidingWindowConfig(ArchitectureConfig):
    """Baseline: sliding-window attention, no memory (a given one is ignored)."""

    window: int = Field(32, ge=1)
    """Tokens that attention sees, the token's own included."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide dim into heads of an even size."""
    attention: AttentionName = no_result("auto")
    """What computes attention: flash (the flash-attn package), flex (FlexAttention), sdpa (torch's own kernels), or
    auto: the fastest of those that were checked here. They differ by rounding only; see docs/attention.md."""

    def build(self, dim: int, memory: MemoryConfig) -> SlidingWindow:
        return SlidingWindow(dim, self)

    def flops(self, dim: int, memory: MemoryConfig, length: int) -> float:
        """8 dim^2 + 4 dim times the mean of min(t + 1, window)."""
        return attention_flops(dim, self.heads, keys=mean_window(self.window, length))

    def state_size(self, dim: int, memory: MemoryConfig, length: int) -> int:
        """Keys and values of the window - 1 tokens before the next one."""
        return key_value_bytes(dim, min(self.window - 1, length))


class SlidingWindow(Architecture):
    """y = x + WindowAttention(norm(x)); the state is the window's keys and values."""

    def __init__(self, dim: int, config: SlidingWindowConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)
        self.attention = WindowAttention(dim, heads=config.heads, window=config.window, attention=config.attention)

    def initial_state(self, batch: int) -> KeyValues:
        """The window before the first token."""
        return self.attention.initial_state(batch)

    def forward(self, x: Hidden, state: KeyValues) -> tuple[Hidden, KeyValues]:
        y, state = self.attention(self.norm(x), x[:, :0], state)
        return x + y, state
