"""The smallest memory that answers to everything it is shown: what architectures are checked with."""

from __future__ import annotations

import torch
from torch import nn

from titanlab.platform.memory import MemoryConfig, MemoryModule
from titanlab.platform.tensors import Hidden, State


class ProbeConfig(MemoryConfig):
    """A vector that follows what it is shown; not registered."""

    def build(self, dim: int) -> ProbeMemory:
        return ProbeMemory(dim, self)


class ProbeMemory(MemoryModule):
    """s_t = 0.8 s_{t-1} + 0.2 W x_t;  y_t = O (tanh(Q x_t) * s_t), with a learned s_0; the state is s [b, dim]."""

    def __init__(self, dim: int, config: ProbeConfig) -> None:
        super().__init__()
        self.write, self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.initial = nn.Parameter(torch.zeros(dim))

    def initial_state(self, batch: int) -> State:
        return self.initial.expand(batch, -1)

    def forward(self, x: Hidden, state: State) -> tuple[Hidden, State]:
        states = []
        for x_t in self.write(x).unbind(1):
            state = 0.8 * state + 0.2 * x_t
            states.append(state)
        return self._answer(x, torch.stack(states, 1)), state

    def read(self, x: Hidden, state: State) -> Hidden:
        return self._answer(x, state[:, None])

    def _answer(self, x: Hidden, states: Hidden) -> Hidden:
        return self.out(self.query(x).tanh() * states)
