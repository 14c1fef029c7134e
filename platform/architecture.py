"""The interface of an architecture: how one block of a model combines a memory with attention."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from titanlab.platform.config import Config
from titanlab.platform.debugging import debugging, watched
from titanlab.platform.memory import MemoryConfig
from titanlab.platform.operations import block_bytes, block_flops
from titanlab.platform.registry import Registry
from titanlab.platform.tensors import Hidden, State, check_batch


class ArchitectureConfig(Config, ABC):
    """Settings of an architecture; register the subclass and it can be named as `architecture: {type: ...}`."""

    @abstractmethod
    def build(self, dim: int, memory: MemoryConfig) -> Architecture:
        """One block of a model of width `dim` around the given memory (baselines without a memory ignore it)."""

    def flops(self, dim: int, memory: MemoryConfig, length: int) -> float:
        """Floating-point operations of a block a token, averaged over a row of `length` tokens; what `initial_state`
        computes is part of the row. Counted by a run (see `operations`); may be overridden by a formula."""
        return block_flops(self, dim, memory, length)

    def state_size(self, dim: int, memory: MemoryConfig, length: int) -> int:
        """The most bytes that a block's state takes between two tokens of a row of `length`, in float32: the memory's
        state, keys and values, and whatever else it holds."""
        return block_bytes(self, dim, memory, length)


class Architecture(nn.Module, ABC):
    """One block of the stack, its norms and residuals inside; the model adds the feed-forward layer after it."""

    def __call__(self, x: Hidden, state: State) -> tuple[Hidden, State]:
        """`forward`, for a state of as many sequences as x; any other is refused with a ValueError."""
        check_batch(x, state)
        if debugging():
            return watched(self, super().__call__, x, state)
        return super().__call__(x, state)

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state before the first token: any pytree of tensors, batch first."""

    @abstractmethod
    def forward(self, x: Hidden, state: State) -> tuple[Hidden, State]:
        """Maps x [b, t, dim] to y [b, t, dim], exactly causal, and hands back the state after the last token."""


ARCHITECTURES: Registry[ArchitectureConfig] = Registry("architectures", ArchitectureConfig, "titanlab.architectures")
"""Every architecture by name."""
