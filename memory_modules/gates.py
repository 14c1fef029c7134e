"""Gates: keep, momentum and step as functions of the token, of the chunk, as a learned constant, or off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.platform.fused_kernels.choice import kernels_take
from titanlab.platform.fusion import fusible
from titanlab.platform.made_once import made_once
from titanlab.platform.tensors import Gate, Hidden, compute_type

GateMode: TypeAlias = Literal["token", "chunk", "constant", "none"]


class SigmoidGate(nn.Module):
    """scale * sigmoid(x W + bias), one scalar per head (Titans section 3.1-3.2: the gates depend on the data).

    `token`: from each token; `chunk`: from the chunk's first token and held, since pooling over the chunk would see
    the future; `constant`: a learned scalar a head.

    Args:
        dim: width of x.
        heads: number of heads.
        mode: token | chunk | constant.
        start: value at initialisation, before `scale`, in (0, 1).
        scale: the largest value.
    """

    def __init__(self, dim: int, *, heads: int, mode: GateMode, start: float, scale: float = 1.0) -> None:
        super().__init__()
        self.mode, self.scale = mode, scale
        self.bias = nn.Parameter(torch.full((heads,), math.log(start / (1 - start))))
        self.weight = None if mode == "constant" else nn.Parameter(torch.empty(heads, dim))
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)

    def initial_held(self, batch: int) -> Tensor:
        """What `chunk` holds before the first token, [b, h]; empty [b, 0] for the other modes."""
        return self.bias.new_zeros(batch, self.bias.numel() if self.mode == "chunk" else 0)

    def forward(self, x: Hidden, held: Tensor, position: int, chunk_size: int) -> tuple[Gate, Tensor]:
        """The gate [b, t, h] in float32 or better, and what to hold for the next call."""
        with torch.autocast(x.device.type, enabled=False):
            if self.weight is None:
                return (torch.sigmoid(self.bias) * self.scale).expand(*x.shape[:2], -1), held
        (values,) = _values_in_torch(product(x, self.weight), self.bias, (self.scale,))
        if self.mode == "token" or not x.shape[1]:
            return values, held
        # Column 0 is the chunk under way when the call begins; a column's chunk starts at the column itself at best.
        time = torch.arange(x.shape[1], device=x.device)
        first = (time - (time + position) % chunk_size).clamp(min=-1) + 1
        values = torch.cat([held.unsqueeze(1), values], 1)[:, first]
        return values, values[:, -1]


class UnitGate(nn.Module):
    """A gate for every output unit of every matrix of a memory: f(x A) through few columns (MIRAS, section 5.4).

    Args:
        dim: width of x.
        heads: number of heads.
        units: output units of each matrix.
        rank: columns of A.
        mode, start, scale: as of `SigmoidGate`.
    """

    def __init__(
        self, dim: int, *, heads: int, units: Sequence[int], rank: int, mode: GateMode, start: float, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.heads, self.units = heads, list(units)
        self.down = None if mode == "constant" else nn.Linear(dim, rank, bias=False)
        self.up = SigmoidGate(rank, heads=heads * sum(units), mode=mode, start=start, scale=scale)

    def initial_held(self, batch: int) -> Tensor:
        """What `chunk` holds before the first token, [b, h * units]; empty [b, 0] for the other modes."""
        return self.up.initial_held(batch)

    def forward(self, x: Hidden, held: Tensor, position: int, chunk_size: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """A gate [b, t, h, out] for each matrix, and what to hold for the next call."""
        with torch.autocast(x.device.type, enabled=False):
            features = x if self.down is None else self.down(x.to(self.down.weight.dtype))
        values, held = self.up(features, held, position, chunk_size)
        return values.unflatten(-1, (self.heads, sum(self.units))).split(self.units, -1), held


def product(x: Hidden, weight: Tensor) -> Tensor:
    """x W of W [out, dim] as a gate's formula goes on with it: in the weight's type; under autocast x and W are in the
    lower type, sums are not."""
    return _lower_product(x, weight).to(weight.dtype)


def _lower_product(x: Hidden, weight: Tensor) -> Tensor:
    """The same in the type that it is computed in."""
    dtype = compute_type(weight)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype), weight.to(dtype))


@fusible
def _values_in_torch(
    products: Tensor, bias: Tensor, scales: Sequence[float], without: tuple[int, int] | None = None
) -> tuple[Gate, ...]:
    """scale * sigmoid(product + bias) of several gates, whose heads stand side by side; see `token_gates`."""
    values = torch.sigmoid(products + bias).chunk(len(scales), -1)
    made = [value if scale == 1.0 else value * scale for value, scale in zip(values, scales, strict=True)]
    if without is not None:
        step, momentum = without
        made[step] = made[step] * (1 - made[momentum])
    return tuple(made)


def _values(
    products: Tensor, bias: Tensor, scales: Sequence[float], without: tuple[int, int] | None
) -> tuple[Gate, ...]:
    """The same of products as they come out of `_lower_product`, by one kernel where there is one."""
    if bias.dtype == torch.float32 and kernels_take(products, bias):
        from titanlab.memory_modules.kernels.triton_token_gates import token_gates_on_gpu

        return token_gates_on_gpu(products, bias, scales, without)
    return _values_in_torch(products.to(bias.dtype), bias, scales, without)


def token_gates(x: Hidden, gates: Sequence[SigmoidGate], without: tuple[int, int] | None = None) -> tuple[Gate, ...]:
    """Gates of mode `token`, by one product for all of them.

    Args:
        x: what they look at.
        gates: the gates.
        without: numbers of a step and of a momentum among them; the step is multiplied by 1 - momentum.
    """
    weights: list[Tensor] = [gate.weight for gate in gates if gate.weight is not None]
    dtype = compute_type(weights[0])

    def side_by_side() -> tuple[Tensor, Tensor]:
        return torch.cat(weights).to(dtype), torch.cat([gate.bias for gate in gates])

    weight, bias = made_once(side_by_side, [*weights, *(gate.bias for gate in gates)], dtype)
    return _values(_lower_product(x, weight), bias, tuple(gate.scale for gate in gates), without)


def build_gate(dim: int, *, heads: int, mode: GateMode, start: float, scale: float = 1.0) -> SigmoidGate | None:
    """The gate of a setting; None where the setting is `none`."""
    return None if mode == "none" else SigmoidGate(dim, heads=heads, mode=mode, start=start, scale=scale)


def gate_flops(dim: int, heads: int, *modes: GateMode) -> float:
    """Operations a token: 2 dim heads for every gate that looks at the data."""
    return 2 * dim * heads * sum(mode in ("token", "chunk") for mode in modes)


def token_gate(gate: SigmoidGate, x: Hidden) -> Gate:
    """A gate that looks at its own token only (mode `token` or `constant`): nothing is held between calls."""
    return gate(x, gate.initial_held(x.shape[0]), 0, 1)[0]
