"""Persistent memory: learned tokens before the first one of every sequence (Titans, arXiv 2501.00663, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from titanlab.platform.memory import MemoryModule
from titanlab.platform.tensors import Hidden, State


class PersistentTokens(nn.Module):
    """`count` >= 0 learned vectors that no input changes; they hold what is true of the task, not of the sequence."""

    tokens: Tensor

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        tokens = torch.empty(count, dim)
        if count:
            self.tokens = nn.Parameter(nn.init.normal_(tokens, std=0.02))
        else:  # an empty parameter would never get a gradient, which data-parallel training refuses
            self.register_buffer("tokens", tokens, persistent=False)

    def forward(self, batch: int) -> Hidden:
        """The same vectors for every sequence: [b, count, dim]."""
        return self.tokens.expand(batch, -1, -1)


def write_first(memory: MemoryModule, tokens: Hidden) -> tuple[Hidden, State]:
    """Writes tokens [b, p, dim] to a fresh memory, as the paper's prepending does.

    Returns what the memory answered, [b, p, dim], and its state, which is the initial one where p = 0.
    """
    state = memory.initial_state(tokens.shape[0])
    return memory(tokens, state) if tokens.shape[1] else (tokens, state)
