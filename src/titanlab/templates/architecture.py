"""An architecture of your own: `titanlab sweep run template.yaml --plugin template.py` compares it with another one.

Change how `Template` combines the memory with what stands beside it; `titanlab check template.py` says whether it is
still exact: causal, the same however a sequence is cut, with gradients that reach every weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titanlab import ARCHITECTURES, Architecture, ArchitectureConfig, MemoryConfig
from titanlab.platform.tensors import State


@ARCHITECTURES.register("template")  # the name in YAML: `architecture: {type: template}`
class TemplateConfig(ArchitectureConfig):
    """A memory beside a short causal convolution, which sees the last tokens exactly; the block adds both."""

    # Your settings. Each may be an axis of a sweep (`model.architecture.width: [2, 8]`); the text under it is what
    # `titanlab list architectures template --plugin template.py` shows. All need a default.
    width: int = Field(4, ge=1)
    """Tokens that the convolution sees, the token's own included."""

    def build(self, dim: int, memory: MemoryConfig) -> Template:
        return Template(dim, self, memory)


class TemplateState(NamedTuple):
    """All that is known of the tokens before: tensors whose first axis is the batch."""

    memory: State
    """The memory's own, whatever it is."""
    last: Tensor
    """The last inputs of the convolution [b, width - 1, dim]."""


class Template(Architecture):
    """y = x + M(norm(x)) + convolution(norm(x)); the model adds a feed-forward layer after each block."""

    def __init__(self, dim: int, config: TemplateConfig, memory: MemoryConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim)
        self.memory = memory.build(dim)
        self.taps = nn.Parameter(torch.randn(dim, 1, config.width) * config.width**-0.5)

    def initial_state(self, batch: int) -> TemplateState:
        dim, _, width = self.taps.shape
        return TemplateState(self.memory.initial_state(batch), self.taps.new_zeros(batch, width - 1, dim))

    def forward(self, x: Tensor, state: TemplateState) -> tuple[Tensor, TemplateState]:
        """x [b, t, dim] to y [b, t, dim] and the state after the last token; y_t may use x_0 .. x_t only."""
        inputs = self.norm(x)
        remembered, memory = self.memory(inputs, state.memory)
        seen = torch.cat([state.last.to(inputs.dtype), inputs], 1)
        nearby = F.conv1d(seen.mT, self.taps.to(inputs.dtype), groups=x.shape[-1]).mT
        # Your combination: a gate, a norm, attention, another order.
        y = x + remembered + nearby
        return y, TemplateState(memory, seen[:, seen.shape[1] - state.last.shape[1] :])
