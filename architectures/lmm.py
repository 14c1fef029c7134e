"""Memory alone, as a sequence model (Titans, arXiv 2501.00663, section 4.3: LMM)."""

from __future__ import annotations

from pydantic import Field

from titanlab.architectures.persistent import PersistentTokens, write_first
from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.norms import RMSNorm
from titanlab.platform.tensors import Hidden, State


@ARCHITECTURES.register("lmm")
class LmmConfig(ArchitectureConfig):
    """Memory only, no attention."""

    persistent: int = Field(4, ge=0)
    """Learned tokens that the memory is written with before the first token of a sequence."""

    def build(self, dim: int, memory: MemoryConfig) -> Lmm:
        return Lmm(dim, self, memory)

    def flops(self, dim: int, memory: MemoryConfig, length: int) -> float:
        """The memory's, for the persistent tokens too."""
        return memory.flops(dim) * (length + self.persistent) / length

    def state_size(self, dim: int, memory: MemoryConfig, length: int) -> int:
        """The memory's."""
        return memory.state_size(dim)


class Lmm(Architecture):
    """y = x + M(norm(x)), the memory M having seen the persistent tokens first.

    The paper's ablation takes the persistent tokens away from LMM, so LMM has them; how many it does not say.
    """

    def __init__(self, dim: int, config: LmmConfig, memory: MemoryConfig) -> None:
        super().__init__()
        self.persistent = PersistentTokens(dim, config.persistent)
        self.norm = RMSNorm(dim)
        self.memory = memory.build(dim)

    def initial_state(self, batch: int) -> State:
        """The memory's state once it has been written with the persistent tokens."""
        return write_first(self.memory, self.norm(self.persistent(batch)))[1]

    def forward(self, x: Hidden, state: State) -> tuple[Hidden, State]:
        y, state = self.memory(self.norm(x), state)
        return x + y, state
