"""Memory as a gate (Titans, arXiv 2501.00663, section 4.2: MAG)."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from titanlab.architectures.attention.backend import AttentionName
from titanlab.architectures.attention.costs import attention_flops, key_value_bytes, mean_window
from titanlab.architectures.attention.layer import KeyValues
from titanlab.architectures.attention.streaming import WindowAttention
from titanlab.architectures.persistent import PersistentTokens, write_first
from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.config import no_result
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.norms import RMSNorm, gated_by
from titanlab.platform.tensors import Hidden, State


@ARCHITECTURES.register("mag")
class MagConfig(ArchitectureConfig):
    """Sliding-window attention, gated by a memory beside it."""

    window: int = Field(32, ge=1)
    """Tokens that attention sees, the token's own included."""
    persistent: int = Field(4, ge=0)
    """Learned tokens that attention always sees and the memory is written with first."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide dim into heads of an even size."""
    attention: AttentionName = no_result("auto")
    """What computes attention: flash (the flash-attn package), flex (FlexAttention), sdpa (torch's own kernels), or
    auto: the fastest of those that were checked here. They differ by rounding only; see docs/attention.md."""

    def build(self, dim: int, memory: MemoryConfig) -> Mag:
        return Mag(dim, self, memory)

    def flops(self, dim: int, memory: MemoryConfig, length: int) -> float:
        """The memory's, for the persistent tokens too, and the window's: 8 dim^2 + 4 w times its mean length."""
        attention = attention_flops(
            dim, self.heads, mean_window(self.window, length), persistent=self.persistent, prefixes_a_token=1 / length
        )
        return memory.flops(dim) * (length + self.persistent) / length + attention

    def state_size(self, dim: int, memory: MemoryConfig, length: int) -> int:
        """The memory's, and keys and values of the window - 1 tokens before the next one."""
        return memory.state_size(dim) + key_value_bytes(dim, min(self.window - 1, length))


class MagState(NamedTuple):
    """The memory's state and the attention's window."""

    memory: State
    window: KeyValues


class Mag(Architecture):
    """Both branches see [persistent | x], the block's output is their gated product (eq. 26-28):

        y = SlidingWindowAttention(norm(x)),  m = M(norm(x)),  out = x + norm_y(y) * sigmoid(norm_m(m))

    The paper norms both with learned vectors and then applies a non-linearity, leaving open which: here a sigmoid, and
    on the memory's branch alone, since the memory is the gate.
    """

    def __init__(self, dim: int, config: MagConfig, memory: MemoryConfig) -> None:
        super().__init__()
        self.persistent = PersistentTokens(dim, config.persistent)
        self.norm = RMSNorm(dim)
        self.attention = WindowAttention(dim, heads=config.heads, window=config.window, attention=config.attention)
        self.memory = memory.build(dim)
        self.attention_norm = RMSNorm(dim)
        self.gate_norm = RMSNorm(dim)

    def initial_state(self, batch: int) -> MagState:
        """An empty window, and the memory once it has been written with the persistent tokens."""
        memory = write_first(self.memory, self.norm(self.persistent(batch)))[1]
        return MagState(memory, self.attention.initial_state(batch))

    def forward(self, x: Hidden, state: MagState) -> tuple[Hidden, MagState]:
        inputs, prefix = self.norm(x), self.norm(self.persistent(x.shape[0]))
        y, window = self.attention(inputs, prefix, state.window)
        m, memory = self.memory(inputs, state.memory)
        return gated_by([self.attention_norm(y)], [m], self.gate_norm, added=x), MagState(memory, window)
