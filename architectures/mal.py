"""Memory as a layer before attention (Titans, arXiv 2501.00663, section 4.3: MAL)."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from titanlab.architectures.attention.backend import AttentionName
from titanlab.architectures.attention.costs import FLOAT32, attention_flops, key_value_bytes, mean_window
from titanlab.architectures.attention.layer import KeyValues
from titanlab.architectures.attention.streaming import WindowAttention
from titanlab.architectures.persistent import PersistentTokens, write_first
from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.config import no_result
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.norms import RMSNorm
from titanlab.platform.tensors import Hidden, State


@ARCHITECTURES.register("mal")
class MalConfig(ArchitectureConfig):
    """A memory layer, then sliding-window attention over what it gives."""

    window: int = Field(32, ge=1)
    """Tokens that attention sees, the token's own included."""
    persistent: int = Field(4, ge=0)
    """Learned tokens before the sequence: memory is written with them, attention always sees its answers."""
    heads: int = Field(4, ge=1)
    """Attention heads; must divide dim into heads of an even size."""
    attention: AttentionName = no_result("auto")
    """What computes attention: flash (the flash-attn package), flex (FlexAttention), sdpa (torch's own kernels), or
    auto: the fastest of those that were checked here. They differ by rounding only; see docs/attention.md."""

    def build(self, dim: int, memory: MemoryConfig) -> Mal:
        return Mal(dim, self, memory)

    def flops(self, dim: int, memory: MemoryConfig, length: int) -> float:
        """The memory's, for the persistent tokens too, and the window's: 8 dim^2 + 4 w times its mean length."""
        attention = attention_flops(
            dim, self.heads, mean_window(self.window, length), persistent=self.persistent, prefixes_a_token=1 / length
        )
        return memory.flops(dim) * (length + self.persistent) / length + attention

    def state_size(self, dim: int, memory: MemoryConfig, length: int) -> int:
        """The memory's, its answers to the persistent tokens, and keys and values of the window - 1 last tokens."""
        window = key_value_bytes(dim, min(self.window - 1, length))
        return memory.state_size(dim) + self.persistent * dim * FLOAT32 + window


class MalState(NamedTuple):
    """The memory's state, the persistent tokens after the memory layer [b, p, dim], and the attention's window."""

    memory: State
    persistent: Hidden
    window: KeyValues


class Mal(Architecture):
    """Two layers over [persistent | x] (eq. 29-31), each with its residual, which the paper leaves out:

    z = x + M(norm_m(x)),  out = z + SlidingWindowAttention(norm_a(z))
    """

    def __init__(self, dim: int, config: MalConfig, memory: MemoryConfig) -> None:
        super().__init__()
        self.persistent = PersistentTokens(dim, config.persistent)
        self.memory_norm = RMSNorm(dim)
        self.memory = memory.build(dim)
        self.attention_norm = RMSNorm(dim)
        self.attention = WindowAttention(dim, heads=config.heads, window=config.window, attention=config.attention)

    def initial_state(self, batch: int) -> MalState:
        """An empty window; the memory layer has already seen the persistent tokens."""
        tokens = self.persistent(batch)
        answers, memory = write_first(self.memory, self.memory_norm(tokens))
        return MalState(memory, tokens + answers, self.attention.initial_state(batch))

    def forward(self, x: Hidden, state: MalState) -> tuple[Hidden, MalState]:
        y, memory = self.memory(self.memory_norm(x), state.memory)
        z = x + y
        y, window = self.attention(self.attention_norm(z), self.attention_norm(state.persistent), state.window)
        return z + y, MalState(memory, state.persistent, window)
