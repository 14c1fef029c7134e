"""The layer around every rule: projections, causal convolution, normed queries and keys, output norm and gate.

Titans (arXiv 2501.00663), section 4.4: q, k and v are linear projections, each followed by a depthwise convolution
and SiLU; q and k are L2-normed; the output is normed, gated and projected. Where the paper is silent we take an
RMS norm a head, a SiLU gate from the layer's input, and no biases.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.memory import MemoryConfig, MemoryModule
from titanlab.platform.tensors import Hidden, PerHead, State


def width_of_head(dim: int, heads: int) -> int:
    """dim / heads.

    Raises:
        ConfigError: `heads` does not divide `dim`.
    """
    if dim % heads:
        fitting = [count for count in range(1, dim + 1) if dim % count == 0 and count <= 64]
        message = f"{heads} heads do not divide dim {dim}; {', '.join(map(str, fitting))} would"
        raise ConfigError(Problem(message, "model.memory.heads"))
    return dim // heads


class LayerConfig(MemoryConfig):
    """Settings that every rule's layer has."""

    heads: int = Field(2, ge=1)
    """Memories side by side, each on its share of the width; must divide the model's dim."""
    chunk_size: int = Field(16, ge=1, le=4096)
    """Tokens computed together."""
    convolution: int = Field(4, ge=1, le=64)
    """Width of the causal convolution on queries, keys and values; 1 leaves it out."""

    def layer_flops(self, dim: int) -> float:
        """Operations a token around the rule: five projections 10 dim^2, three convolutions 6 dim convolution."""
        return 10 * dim**2 + (6 * dim * self.convolution if self.convolution > 1 else 0)

    def layer_read_flops(self, dim: int) -> float:
        """Operations a token around a read: query, gate and output projection, 6 dim^2."""
        return 6 * dim**2


class LayerState(NamedTuple):
    """A layer between two tokens."""

    convolution: Tensor
    """The last inputs of the convolution, [b, convolution - 1, 3 dim]."""
    rule: State
    """The rule's own state."""


class MemoryLayer(MemoryModule):
    """The layer; a rule adds what it writes and reads by `initial_rule_state`, `write` and `recall`.

    Raises:
        ConfigError: `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, config: LayerConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, width_of_head(dim, config.heads)
        self.asked = 0
        """Which of the projections q, k, v the memory is asked for; 1 is a control that asks for the keys."""
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.taps = nn.Parameter(torch.empty(3 * dim, 1, config.convolution)) if config.convolution > 1 else None
        if self.taps is not None:
            nn.init.uniform_(self.taps, -(config.convolution**-0.5), config.convolution**-0.5)
        self.norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.gate = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    @abstractmethod
    def initial_rule_state(self, batch: int) -> State:
        """The rule's state before the first token."""

    @abstractmethod
    def write(self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: State) -> tuple[PerHead, State]:
        """The rule over a stretch of tokens; x [b, t, dim] is what data-dependent gates look at."""

    @abstractmethod
    def recall(self, q: PerHead, state: State) -> PerHead:
        """What the rule's state answers to queries, nothing written."""

    def initial_state(self, batch: int) -> LayerState:
        width = 0 if self.taps is None else self.taps.shape[-1] - 1
        return LayerState(
            self.qkv.weight.new_zeros(batch, width, self.qkv.out_features), self.initial_rule_state(batch)
        )

    def forward(self, x: Hidden, state: LayerState) -> tuple[Hidden, LayerState]:
        qkv, cache = self._convolve(self.qkv(x), state.convolution)
        q, k, v = self._heads(qkv)
        y, rule = self.write(x, q, k, v, state.rule)
        return self._output(x, y), LayerState(cache, rule)

    def read(self, x: Hidden, state: LayerState) -> Hidden:
        # Each token is a query of its own, so its convolution sees nothing before it: the last tap alone.
        width = self.heads * self.head_dim
        asked = slice(self.asked * width, (self.asked + 1) * width)
        q = F.linear(x, self.qkv.weight[asked])
        if self.taps is not None:
            q = q * self.taps[asked, 0, -1]
        q = F.normalize(F.silu(q).unflatten(-1, (self.heads, self.head_dim)), dim=-1, eps=1e-6)
        return self._output(x, self.recall(q, state.rule))

    def _convolve(self, qkv: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Depthwise causal convolution and SiLU; the cache takes the place of the tokens before."""
        if self.taps is None or not qkv.shape[1]:
            return F.silu(qkv), cache
        seen = torch.cat([cache.to(qkv.dtype), qkv], 1)
        mixed = F.conv1d(seen.mT, self.taps.to(qkv.dtype), groups=qkv.shape[-1]).mT
        return F.silu(mixed), seen[:, seen.shape[1] - cache.shape[1] :]

    def _heads(self, qkv: Tensor) -> tuple[PerHead, PerHead, PerHead]:
        q, k, v = qkv.unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        return F.normalize(q, dim=-1, eps=1e-6), F.normalize(k, dim=-1, eps=1e-6), v

    def _output(self, x: Hidden, y: PerHead) -> Hidden:
        return self.out(self.norm(y.to(self.norm.weight.dtype)).flatten(-2) * F.silu(self.gate(x)))
