"""`module`: any torch module as a memory that learns at test time, by Titans' rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch.nn.functional as F
from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor, nn

from titanlab.memory_modules.gates import GateMode, SigmoidGate, build_gate
from titanlab.memory_modules.inner_model import INNER_MODELS, InnerModelConfig
from titanlab.memory_modules.layer import LayerConfig, MemoryLayer
from titanlab.memory_modules.rules.module_memory import (
    ModuleMemoryState,
    initial_module_memory,
    module_memory,
    read_module_memory,
)
from titanlab.memory_modules.rules.module_trial import try_module
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.tensors import Gate, Hidden, PerHead, at_least_float32


@MEMORY_MODULES.register("module")
class ModuleMemoryConfig(LayerConfig):
    """Titans' rule on any torch module: an inner model by name here, one of your own in Python (2501.00663, eq. 8-18).

    In Python: `ModuleMemory(dim, ModuleMemoryConfig(), inner=lambda d: nn.Sequential(nn.Linear(d, d), nn.Tanh()))`.
    """

    chunk_exact: ClassVar[bool] = False  # gradients are taken at the chunk's start

    inner: Annotated[SerializeAsAny[InnerModelConfig], BeforeValidator(INNER_MODELS.resolve)] = Field(
        default_factory=lambda: INNER_MODELS.resolve({"type": "mlp"})
    )
    """The module that is the memory, by name; `titanlab list inner_models` shows them, a plug-in adds its own."""
    keep: GateMode = "token"
    """Fraction of the memory kept: from each token, from each chunk's first token, a learned constant, or none (1)."""
    momentum: GateMode = "token"
    """Fraction of past surprise kept: token, chunk, constant, or none (0)."""
    step: Literal["token", "chunk", "constant"] = "token"
    """Inner learning rate: token, chunk or constant; never none."""
    keep_start: float = Field(0.999, gt=0, lt=1)
    """Value of keep at initialisation."""
    momentum_start: float = Field(0.12, gt=0, lt=1)
    """Value of momentum at initialisation."""
    step_base: float | None = Field(None, gt=0)
    """Largest step; the step starts at half of it, and with momentum each token's is scaled by 1 - momentum. By default
    1 / (2 chunk_size), since the steps of a chunk add up along one key; a module with steeper gradients wants less."""
    value_norm: Literal["l2", "none"] = "l2"
    """L2-norms values as queries and keys are, or leaves them."""

    def build(self, dim: int) -> ModuleMemory:
        return ModuleMemory(dim, self)

    def remark(self) -> str:
        return (
            "memory 'module' is 4 to 12 times slower than a rule with a formula of its own (on a CPU): it forms every "
            "token's gradient and parameters"
        )


class ModuleMemoryLayerState(NamedTuple):
    """Memory and held gates between two tokens."""

    memory: ModuleMemoryState
    held: tuple[Tensor, ...]
    """Values that gates in mode `chunk` hold: keep, momentum, step; each [b, h] or [b, 0]."""


class ModuleMemory(MemoryLayer):
    """`module_memory` with data-dependent gates; the inner modules' own parameters are the learned initial memory.

    Args:
        inner: (width of a head) -> a module that maps [.., width] to [.., width], called once for each head; by default
            what `config.inner` names.

    Raises:
        ValueError: the module cannot be a memory; says why.
    """

    def __init__(
        self, dim: int, config: ModuleMemoryConfig, *, inner: Callable[[int], nn.Module] | None = None
    ) -> None:
        super().__init__(dim, config)
        self.chunk_size, self.value_norm = config.chunk_size, config.value_norm
        base = config.step_base or 0.5 / config.chunk_size
        self.keep = build_gate(dim, heads=self.heads, mode=config.keep, start=config.keep_start)
        self.momentum = build_gate(dim, heads=self.heads, mode=config.momentum, start=config.momentum_start)
        self.step = SigmoidGate(dim, heads=self.heads, mode=config.step, start=0.5, scale=base)
        build = inner or config.inner.build
        modules = [build(self.head_dim) for _ in range(self.heads)]
        try_module(modules, self.head_dim)
        self.inner = nn.ModuleList(modules)

    def initial_rule_state(self, batch: int) -> ModuleMemoryLayerState:
        dtype = at_least_float32(self.gate.weight.dtype)
        memory = initial_module_memory(self.inner, batch, self.heads, self.momentum is not None, dtype)
        gates = (self.keep, self.momentum, self.step)
        held = (gate.initial_held(batch) if gate else self.gate.weight.new_zeros(batch, 0) for gate in gates)
        return ModuleMemoryLayerState(memory, tuple(held))

    def write(
        self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: ModuleMemoryLayerState
    ) -> tuple[PerHead, ModuleMemoryLayerState]:
        position = int(state.memory.position[0])

        def rate(gate: SigmoidGate | None, held: Tensor) -> tuple[Gate | None, Tensor]:
            return (None, held) if gate is None else gate(x, held, position, self.chunk_size)

        keep, held_keep = rate(self.keep, state.held[0])
        momentum, held_momentum = rate(self.momentum, state.held[1])
        step, held_step = self.step(x, state.held[2], position, self.chunk_size)
        if momentum is not None:
            step = step * (1 - momentum)  # a surprise is felt 1 / (1 - momentum) times: its whole weight stays `step`
        v = F.normalize(v, dim=-1, eps=1e-6) if self.value_norm == "l2" else v
        y, memory = module_memory(
            q, k, v, keep, momentum, step, self.inner, chunk_size=self.chunk_size, state=state.memory
        )
        return y, ModuleMemoryLayerState(memory, (held_keep, held_momentum, held_step))

    def recall(self, q: PerHead, state: ModuleMemoryLayerState) -> PerHead:
        return read_module_memory(q, state.memory, self.inner)
