"""One row of the layer benchmark: a function of tensors, how it is set up, and its exact form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Sizes:
    """What every row is measured at."""

    batch: int
    tokens: int
    """Of each sequence."""
    heads: int
    head_dim: int
    expansion: float
    """Hidden width of a deep memory over the head dimension."""
    chunk_size: int
    dtype: torch.dtype
    """Of queries, keys and values; gates and the first memory are float32, as in the layers."""

    @property
    def dim(self) -> int:
        """Width of all heads."""
        return self.heads * self.head_dim

    @property
    def hidden(self) -> int:
        """Hidden units of a deep memory."""
        return max(1, round(self.head_dim * self.expansion))

    def __str__(self) -> str:
        heads = f"{self.heads} heads of {self.head_dim}, hidden {self.hidden}, chunk {self.chunk_size}"
        return f"B{self.batch} T{self.tokens}, {heads}, {str(self.dtype).removeprefix('torch.')}"


class Draw:
    """Random tensors of a case: on its device, the same ones every time."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        """Float32, standard normal."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def per_head(self, *, normed: bool = True) -> Tensor:
        """[b, t, h, d] in the type of the sizes, of length 1 or standard normal."""
        s = self.sizes
        x = self.normal(s.batch, s.tokens, s.heads, s.head_dim)
        return (F.normalize(x, dim=-1) if normed else x).to(s.dtype)

    def gate(self) -> Tensor:
        """[b, t, h] in float32, uniform in [0, 1)."""
        s = self.sizes
        return torch.rand(s.batch, s.tokens, s.heads, generator=self.generator, device=self.device)


class Prepared(NamedTuple):
    """A case at some sizes, ready to be called."""

    call: Callable[..., Tensor]
    """Of `leaves`."""
    leaves: list[Tensor]
    """What gradients are taken of: inputs, then weights."""


@dataclass(frozen=True)
class Case:
    """A row. What it raises when it is prepared or called becomes its remark."""

    name: str
    package: str
    """Who wrote it."""
    prepare: Callable[[Draw], Prepared]
    exact: Callable[..., Tensor] | None
    """The same function of the same leaves in float64; None: there is none to hold it against."""
    flops: float | None
    """Operations a token of the forward pass, from the project's cost functions; None: it has no formula."""
    backend: str = "torch"
    remark: str = ""


def of_function(rule: Callable[..., Tensor], inputs: Callable[[Draw], Sequence[Tensor]]) -> Callable[[Draw], Prepared]:
    """Prepares a function whose leaves are all of its arguments."""

    def prepare(draw: Draw) -> Prepared:
        return Prepared(rule, [x.detach().requires_grad_() for x in inputs(draw)])

    return prepare
