"""The interface of a memory: what a researcher implements to plug her own rule into every architecture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from titanlab.platform.config import Config
from titanlab.platform.debugging import debugging, watched
from titanlab.platform.operations import memory_work, remembered
from titanlab.platform.registry import Registry
from titanlab.platform.shapes import shapes_only
from titanlab.platform.tensors import Hidden, State, check_batch, float32_bytes


class MemoryConfig(Config, ABC):
    """Settings of a memory; register the subclass and it can be named in YAML as `memory: {type: ...}`."""

    chunk_exact: ClassVar[bool] = True
    """Whether a setting `chunk_size`, if there is one, changes speed only. A rule that the chunk length is a part of
    says False; `titanlab check` holds the others to it."""

    @abstractmethod
    def build(self, dim: int) -> MemoryModule:
        """The module for a model of width `dim` (divisible by 16); must work from the default settings."""

    def for_layer(self, index: int, layers: int) -> MemoryConfig:
        """The settings of layer `index` of `layers`; a rule whose settings depend on depth overrides it."""
        return self

    def state_size(self, dim: int) -> int:
        """Bytes that one sequence's state takes in float32, convolution caches included."""
        return _initial_bytes(self, dim)

    def flops(self, dim: int) -> float:
        """Floating-point operations of `forward` a token, averaged over whole chunks: two for each multiply-add of
        matrix products and convolutions (see `operations`). Counted by a run; a rule may override it by a formula."""
        return memory_work(self, dim).forward

    def read_flops(self, dim: int) -> float:
        """The same of `read`."""
        return memory_work(self, dim).read

    def remark(self) -> str | None:
        """One sentence that whoever plans a sweep with these settings should read; None for nothing to say."""
        return None


@remembered
def _initial_bytes(config: MemoryConfig, dim: int) -> int:
    with shapes_only():
        return float32_bytes(config.build(dim).initial_state(1))


class MemoryModule(nn.Module, ABC):
    """A memory that is written and read as a sequence goes by.

    The state is an explicit value: any pytree of tensors whose first axis is the batch. Nothing about a sequence is
    kept on the module, so one module serves any number of sequences.
    """

    def __call__(self, x: Hidden, state: State) -> tuple[Hidden, State]:
        """`forward`, for a state of as many sequences as x; any other is refused with a ValueError."""
        check_batch(x, state)
        if debugging():
            return watched(self, super().__call__, x, state)
        return super().__call__(x, state)

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state before the first token, for `batch` sequences."""

    @abstractmethod
    def forward(self, x: Hidden, state: State) -> tuple[Hidden, State]:
        """Writes and reads x [b, t, dim] token by token.

        Returns y [b, t, dim], where y_t sees what x_0 .. x_t wrote, nothing later and nothing of another sequence, and
        the state after the last token. Cutting a sequence into calls anywhere gives the same as one call.
        """

    @abstractmethod
    def read(self, x: Hidden, state: State) -> Hidden:
        """Reads [b, t, dim] without writing: each token of x is a query of its own to the state as it stands."""

    def question(self, x: Hidden) -> State:
        """What of `read` depends on x alone, so that a long row is asked for in stretches, of states not yet known.

        A pytree of tensors whose first axes are batch and time, cut anywhere along time; x itself by default.
        """
        return x

    def answer(self, question: State, state: State) -> Hidden:
        """`read` [b, t, dim], given the question of t tokens; whoever overrides `question` overrides this."""
        return self.read(question, state)

    def projected_answer(self, question: State, state: State, weight: Float[Tensor, "out dim"]) -> Hidden:
        """`answer` times weight^T, [b, t, out], for whoever sees nothing else of it: a memory whose answer is a product
        itself may multiply the two matrices first."""
        return F.linear(self.answer(question, state), weight)


MEMORY_MODULES: Registry[MemoryConfig] = Registry("memory_modules", MemoryConfig, "titanlab.memory_modules")
"""Every memory by name."""
