"""A memory of one's own, complete: sweep it with `--plugin examples/ema_memory.py` as `memory: {type: ema}`."""

import torch
from pydantic import Field
from torch import nn

from titanlab import MEMORY_MODULES, MemoryConfig, MemoryModule


@MEMORY_MODULES.register("ema")
class EmaConfig(MemoryConfig):
    """A vector that follows what it is shown: state = keep state + (1 - keep) x."""

    keep: float = Field(0.9, ge=0, le=1)
    """Fraction of the state kept at each token."""

    def build(self, dim: int) -> "EmaMemory":
        return EmaMemory(dim, self)


class EmaMemory(MemoryModule):
    def __init__(self, dim: int, config: EmaConfig) -> None:
        super().__init__()
        self.config, self.write, self.out = config, nn.Linear(dim, dim), nn.Linear(dim, dim)

    def initial_state(self, batch: int) -> torch.Tensor:
        return self.write.weight.new_zeros(batch, self.write.out_features)

    def forward(self, x, state):
        reads = []
        for x_t in self.write(x).unbind(1):
            state = self.config.keep * state + (1 - self.config.keep) * x_t
            reads.append(state)
        return self.out(torch.stack(reads, 1)), state

    def read(self, x, state):
        return self.out(state[:, None].expand(-1, x.shape[1], -1))
