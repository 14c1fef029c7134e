"""A memory of your own: `titanlab sweep run template.yaml --plugin template.py` compares it with another one.

Change the equation in `Template` and its settings in `TemplateConfig`; `titanlab check template.py` says whether it is
still exact: causal, the same however a sequence is cut, with gradients that reach every weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titanlab import MEMORY_MODULES, MemoryConfig, MemoryModule


@MEMORY_MODULES.register("template")  # the name in YAML: `memory: {type: template}`
class TemplateConfig(MemoryConfig):
    """A matrix that learns which token follows which, and forgets a little at each token."""

    # Your settings. Each may be an axis of a sweep (`model.memory.keep: [0.9, 1.0]`); the text under it is what
    # `titanlab list memory_modules template --plugin template.py` shows. All need a default.
    keep: float = Field(0.99, gt=0, le=1)
    """Fraction of the matrix kept at each token."""

    def build(self, dim: int) -> Template:
        return Template(dim, self)


class TemplateState(NamedTuple):
    """All that is known of the tokens before: tensors whose first axis is the batch."""

    matrix: Tensor
    """S [b, dim, dim], from keys to values."""
    last: Tensor
    """The token before [b, dim], whose key the next value is written under."""


class Template(MemoryModule):
    """S_t = keep S_{t-1} + step_t k_{t-1} (v_t - S_{t-1}^T k_{t-1})^T;  y_t = S_t^T q_t."""

    def __init__(self, dim: int, config: TemplateConfig) -> None:
        super().__init__()
        self.keep = config.keep
        self.query_key = nn.Linear(dim, dim, bias=False)  # one map for both, so that a token finds what followed it
        self.value = nn.Linear(dim, dim, bias=False)
        self.step = nn.Linear(dim, 1)
        self.out = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> TemplateState:
        dim = self.out.in_features
        return TemplateState(self.out.weight.new_zeros(batch, dim, dim), self.out.weight.new_zeros(batch, dim))

    def forward(self, x: Tensor, state: TemplateState) -> tuple[Tensor, TemplateState]:
        """x [b, t, dim] to y [b, t, dim] and the state after the last token; y_t may use x_0 .. x_t only."""
        before = torch.cat([state.last.unsqueeze(1), x], 1)
        queries, keys = self._directions(x), self._directions(before[:, :-1])
        values, steps = self.value(x), torch.sigmoid(self.step(x))
        matrix, reads = state.matrix, []
        # Your rule, one token after another: slow, but it reads as the equation does.
        for q, k, v, step in zip(queries.unbind(1), keys.unbind(1), values.unbind(1), steps.unbind(1), strict=True):
            error = v - torch.einsum("bkv,bk->bv", matrix, k)
            matrix = self.keep * matrix + torch.einsum("bk,bv->bkv", step * k, error)
            reads.append(torch.einsum("bkv,bk->bv", matrix, q))
        return self.out(torch.stack(reads, 1)), TemplateState(matrix, before[:, -1])

    def read(self, x: Tensor, state: TemplateState) -> Tensor:
        """What the memory answers to x [b, t, dim] as it stands, nothing written; the architecture `mac` asks so."""
        return self.out(torch.einsum("bkv,btk->btv", state.matrix, self._directions(x)))

    def _directions(self, x: Tensor) -> Tensor:
        return F.normalize(self.query_key(x), dim=-1, eps=1e-6)
