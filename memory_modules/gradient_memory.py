"""The layer of memories learned by gradient descent with gates: what `titans` and `linear` share."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titanlab.memory_modules.functional import DeepMemoryState, deep_memory, initial_deep_memory, read_deep_memory
from titanlab.memory_modules.gates import GateMode, SigmoidGate, build_gate
from titanlab.memory_modules.layer import LayerConfig, MemoryLayer
from titanlab.platform.tensors import Gate, Hidden, PerHead


class GradientMemoryConfig(LayerConfig):
    """Settings of a memory with keep, momentum and step."""

    chunk_exact: ClassVar[bool] = False  # gradients are taken at the chunk's start

    keep: GateMode = "token"
    """Fraction of the memory kept, the paper's 1 - alpha: from each token, from each chunk's first token, a learned
    constant, or none (1)."""
    momentum: GateMode = "token"
    """Fraction of past surprise kept, the paper's eta: token, chunk, constant, or none (0)."""
    step: Literal["token", "chunk", "constant"] = "token"
    """Inner learning rate, the paper's theta: token, chunk or constant; never none."""
    keep_start: float | None = Field(None, gt=0, lt=1)
    """Value of keep at initialisation. By default 0.98 for a matrix and 0.999 for a deeper memory, whose matrices
    would otherwise all decay to 0, where their gradients are 0 too."""
    momentum_start: float = Field(0.12, gt=0, lt=1)
    """Value of momentum at initialisation."""
    step_base: float | None = Field(None, gt=0)
    """Largest step; the step starts at half of it, and with momentum each token's is scaled by 1 - momentum, so that
    momentum spreads a surprise over time and does not enlarge it. By default 1 / chunk_size, halved with each matrix
    after the first: the steps of a chunk add up along one key, and beyond a bound that falls with depth the memory
    grows without end."""
    value_norm: Literal["l2", "none"] = "l2"
    """L2-norms values as queries and keys are; none is the paper's layer, whose values grow in training until the
    gradients of a deeper memory overflow."""
    residual: bool = False
    """Whether the memory is M(x) = x + MLP(x)."""


class MlpShape(NamedTuple):
    """The inner model: `depth` matrices with `hidden` units between them."""

    depth: int
    hidden: int
    activation: str


class GradientMemoryState(NamedTuple):
    """Memory and held gates between two tokens."""

    memory: DeepMemoryState
    held: tuple[Tensor, ...]
    """Values that gates in mode `chunk` hold: keep, momentum, step; each [b, h] or [b, 0]."""


class GradientMemory(MemoryLayer):
    """`deep_memory` with data-dependent gates and a learned initial memory."""

    def __init__(self, dim: int, config: GradientMemoryConfig, *, mlp: MlpShape) -> None:
        super().__init__(dim, config)
        self.chunk_size, self.residual, self.activation = config.chunk_size, config.residual, mlp.activation
        self.value_norm = config.value_norm
        base = config.step_base or 2.0 ** (1 - mlp.depth) / config.chunk_size
        keep_start = config.keep_start or (0.98 if mlp.depth == 1 else 0.999)
        self.keep = build_gate(dim, heads=self.heads, mode=config.keep, start=keep_start)
        self.momentum = build_gate(dim, heads=self.heads, mode=config.momentum, start=config.momentum_start)
        self.step = SigmoidGate(dim, heads=self.heads, mode=config.step, start=0.5, scale=base)
        self.initial_memory = _initial_memory(self.heads, self.head_dim, mlp)

    def initial_rule_state(self, batch: int) -> GradientMemoryState:
        memory = initial_deep_memory(list(self.initial_memory), batch, self.momentum is not None)
        gates = (self.keep, self.momentum, self.step)
        held = (gate.initial_held(batch) if gate else self.gate.weight.new_zeros(batch, 0) for gate in gates)
        return GradientMemoryState(memory, tuple(held))

    def write(
        self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: GradientMemoryState
    ) -> tuple[PerHead, GradientMemoryState]:
        position = int(state.memory.position[0])

        def rate(gate: SigmoidGate | None, held: Tensor) -> tuple[Gate | None, Tensor]:
            return (None, held) if gate is None else gate(x, held, position, self.chunk_size)

        keep, held_keep = rate(self.keep, state.held[0])
        momentum, held_momentum = rate(self.momentum, state.held[1])
        step, held_step = self.step(x, state.held[2], position, self.chunk_size)
        if momentum is not None:
            step = step * (1 - momentum)  # a surprise is felt 1 / (1 - momentum) times: its whole weight stays `step`
        v = F.normalize(v, dim=-1, eps=1e-6) if self.value_norm == "l2" else v
        y, memory = deep_memory(
            q, k, v, keep, momentum, step, list(self.initial_memory), chunk_size=self.chunk_size,
            residual=self.residual, activation=self.activation, state=state.memory,
        )  # fmt: skip
        return y, GradientMemoryState(memory, (held_keep, held_momentum, held_step))

    def recall(self, q: PerHead, state: GradientMemoryState) -> PerHead:
        return read_deep_memory(q, state.memory, residual=self.residual, activation=self.activation)


def _initial_memory(heads: int, dim: int, mlp: MlpShape) -> nn.ParameterList:
    """The learned M_0: hidden layers hand on a unit vector's length (GELU and SiLU halve it), answers start small.

    For an MLP the last matrix starts at 0, so that what the first tokens write is all that is read.
    """
    widths = [dim, *[mlp.hidden] * (mlp.depth - 1), dim]
    spread = [2 * after**-0.5 for after in widths[1:-1]] + [0.1 * dim**-0.5 if mlp.depth == 1 else 0.0]
    return nn.ParameterList(
        nn.init.normal_(torch.empty(heads, *shape), std=std)
        for shape, std in zip(zip(widths[:-1], widths[1:], strict=True), spread, strict=True)
    )
