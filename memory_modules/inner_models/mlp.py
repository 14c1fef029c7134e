"""`mlp`: linear layers with biases, the inner model of Titans."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from titanlab.memory_modules.inner_model import INNER_MODELS, InnerModelConfig

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "silu": nn.SiLU, "relu": nn.ReLU, "tanh": nn.Tanh}


@INNER_MODELS.register("mlp")
class MlpConfig(InnerModelConfig):
    """Linear layers with a non-linearity between them; with `bias: false` and gelu, what `titans` computes faster."""

    depth: int = Field(2, ge=1, le=8)
    """Linear layers; 1 is a linear memory."""
    expansion: float = Field(2.0, gt=0, le=16)
    """Hidden width over the head dimension."""
    activation: Literal["gelu", "silu", "relu", "tanh"] = "gelu"
    """Non-linearity between the layers; gelu is the tanh form."""
    bias: bool = True
    """Whether the layers have biases, which are memory like their matrices."""

    def build(self, dim: int) -> nn.Sequential:
        hidden = max(1, round(dim * self.expansion))
        widths = [dim, *[hidden] * (self.depth - 1), dim]
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            linear = nn.Linear(before, after, bias=self.bias)
            # As in `titans`: hidden layers hand on a vector's length, answers start at 0 (small, for one matrix).
            last = index == self.depth - 1
            nn.init.normal_(
                linear.weight, std=(0.1 * dim**-0.5 if self.depth == 1 else 0.0) if last else 2 * after**-0.5
            )
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
            layers += [linear] if last else [linear, self._between()]
        return nn.Sequential(*layers)

    def _between(self) -> nn.Module:
        return nn.GELU(approximate="tanh") if self.activation == "gelu" else _ACTIVATIONS[self.activation]()
