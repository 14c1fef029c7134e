"""The layer of memories learned by gradient descent: gates, objective, optimizer and controls, around any structure."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from titanlab.memory_modules.gates import GateMode, SigmoidGate, UnitGate, token_gates
from titanlab.memory_modules.gradient_costs import gradient_memory_flops, gradient_memory_read_flops
from titanlab.memory_modules.gradient_form import Form
from titanlab.memory_modules.inert_settings import inert_settings, remark_on
from titanlab.memory_modules.initial_weights import initial_weights
from titanlab.memory_modules.layer import LayerConfig, MemoryLayer
from titanlab.memory_modules.parts.objective import objective_called
from titanlab.memory_modules.parts.structure import Mlp, Normed
from titanlab.memory_modules.polynomial_features import PolynomialFeatures, polynomial_width
from titanlab.memory_modules.rules.deep_memory import (
    DeepMemoryState,
    deep_memory,
    initial_deep_memory,
    read_deep_memory,
)
from titanlab.memory_modules.rules.learned_memory import initial_learned_memory, learned_memory, read_learned_memory
from titanlab.memory_modules.rules.learned_state import Control, LearnedRule, LearnedState, Rate, Rates
from titanlab.platform.config import no_result
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.operations import remembered
from titanlab.platform.shapes import shapes_only
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
    grows without end. Kinds whose answers are normed take more (docs/rules.md), muon 0.2: its moves have a length of
    their own (in `lact`, whose steps weigh gradients before Muon, only their proportions matter)."""
    gates: Literal["head", "channel"] = "head"
    """What keep, momentum and step are one number of: a head, or every output unit of every matrix (slower)."""
    gate_rank: int = Field(16, ge=1)
    """Columns between the two matrices that make channel gates of a token."""
    objective: Literal["l2", "dot", "huber", "lp"] = "l2"
    """What answers are held to: 1/2 squared error, dot product, Huber's loss of the error's length with a threshold of
    the token, or 1/p times the sum of p-th powers."""
    p: float = Field(3.0, ge=2, le=8)
    """The power of lp."""
    threshold_start: float = Field(1.0, gt=0)
    """Huber's threshold at initialisation, half of the largest."""
    optimizer: Literal["momentum", "gradient", "muon"] = "momentum"
    """How gradients are applied: with momentum as `momentum` says; alone, whatever `momentum` says; or Muon, which
    moves the memory once a chunk by the orthogonalised sum of its gradients (with momentum: of all so far)."""
    gradient_at: Literal["undecayed", "decayed"] = "undecayed"
    """Whether gradients are taken at the chunk's first memory (Titans), or at that memory decayed up to the token (at
    chunk_size 1 with one matrix: Gated DeltaNet)."""
    value_norm: Literal["l2", "none"] = "l2"
    """L2-norms values as queries and keys are; none is the paper's layer, whose values grow in training until the
    gradients of a deeper memory overflow."""
    control: Control = "none"
    """Negative controls: ascent (steps up the gradient), keys_as_queries (memory is asked for its keys), frozen (random
    and never written), initial_gradients (all taken at the memory before the first token), last_matrix (only the last
    matrix learns)."""
    backend: Literal["auto", "torch", "triton"] = no_result("auto")
    """What computes the memory: torch; Triton's kernels, which have `titans` and `linear` of up to four matrices with
    their default objective, gates and optimizer; or auto, Triton on the GPUs it was checked on where it can compute the
    call, and torch elsewhere."""

    def inert(self) -> dict[str, str]:
        """Settings other than the defaults that do nothing beside the others, each with the reason."""
        return inert_settings(self, _form_of(self, 16 * self.heads))

    def remark(self) -> str | None:
        return remark_on(self.type_name or type(self).__name__, self.inert())

    def flops(self, dim: int) -> float:
        """Layer, gates, and the products of the rule: `gradient_costs` has the sums."""
        form = _form_of(self, dim)
        return super().flops(dim) if form is None else gradient_memory_flops(self, form, dim)

    def read_flops(self, dim: int) -> float:
        """Layer + 2 in out for every matrix of every head."""
        form = _form_of(self, dim)
        return super().read_flops(dim) if form is None else gradient_memory_read_flops(self, form, dim)


class GradientMemoryState(NamedTuple):
    """Memory and held gates between two tokens."""

    memory: DeepMemoryState | LearnedState
    held: tuple[Tensor, ...]
    """Values that gates in mode `chunk` hold: keep, momentum, step; each [b, h] or [b, 0]."""


class GradientMemory(MemoryLayer):
    """`deep_memory`, or for what it does not cover `learned_memory`, with gates and a learned initial memory."""

    def __init__(self, dim: int, config: GradientMemoryConfig, *, form: Form) -> None:
        super().__init__(dim, config)
        if config.gradient_at == "decayed" and form.window > 1:
            message = f"expected undecayed with a window of {form.window}: its tokens' gradients are written at several"
            raise ConfigError(Problem(f"{message} decays", "model.memory.gradient_at"))
        self.config, self.form, self.chunk_size = config, form, config.chunk_size
        self.plain = form.is_plain(config)
        if config.backend == "triton" and not self.plain:
            message = "expected auto or torch: Triton's kernels do not have this memory (docs/rules.md)"
            raise ConfigError(Problem(message, "model.memory.backend"))
        self.norms_values = config.value_norm == "l2"
        self.asked = 1 if config.control == "keys_as_queries" else 0
        width = polynomial_width(self.head_dim, form.degree) if form.degree > 1 else self.head_dim
        self.features = PolynomialFeatures(self.head_dim, form.degree) if form.degree > 1 else None
        shapes = form.structure.shapes(width, form.hidden, self.head_dim)
        self.initial_memory = initial_weights(self.heads, shapes, form, config)
        if form.normed:
            # an answer is as long as a normed query, where LayerNorm alone would make it sqrt(d) times that
            self.scale = nn.Parameter(torch.full((self.heads, self.head_dim), self.head_dim**-0.5))
            self.shift = nn.Parameter(torch.zeros(self.heads, self.head_dim))
        self._add_gates(dim, [out for _, out in shapes])

    def _add_gates(self, dim: int, units: list[int]) -> None:
        config, depth = self.config, self.form.structure.matrices
        frozen = config.control == "frozen"  # nothing is written: gates would be parameters without a gradient

        def gate(mode: GateMode, start: float, scale: float = 1.0) -> SigmoidGate | UnitGate | None:
            if mode == "none" or frozen:
                return None
            if config.gates == "head":
                return SigmoidGate(dim, heads=self.heads, mode=mode, start=start, scale=scale)
            rank = config.gate_rank
            return UnitGate(dim, heads=self.heads, units=units, rank=rank, mode=mode, start=start, scale=scale)

        factor = self.form.step_factor or 2.0 ** (1 - depth)
        base = 0.2 if config.optimizer == "muon" else factor / config.chunk_size
        self.keep = gate(config.keep, config.keep_start or (0.98 if depth == 1 else 0.999))
        self.momentum = gate("none" if config.optimizer == "gradient" else config.momentum, config.momentum_start)
        self.step = gate(config.step, 0.5, config.step_base or base)
        self.threshold = self.share = None
        if config.objective == "huber" and not frozen:
            start = 2 * config.threshold_start
            self.threshold = SigmoidGate(dim, heads=self.heads, mode="token", start=0.5, scale=start)
        if self.form.window > 1 and not frozen:
            self.share = SigmoidGate(dim, heads=self.heads, mode="token", start=0.5)

    def initial_rule_state(self, batch: int) -> GradientMemoryState:
        gates = (self.keep, self.momentum, self.step)
        held = tuple(gate.initial_held(batch) if gate else self.gate.weight.new_zeros(batch, 0) for gate in gates)
        weights = list(self.initial_memory)
        if self.plain:
            return GradientMemoryState(initial_deep_memory(weights, batch, self.momentum is not None), held)
        width = self.initial_memory[0].shape[1] - self._bias
        momentum, per_unit = self.momentum is not None, isinstance(self.keep, UnitGate)
        memory = initial_learned_memory(
            weights, batch, self._rule(), (width, self.head_dim), momentum=momentum, per_unit=per_unit
        )
        return GradientMemoryState(memory, held)

    def write(
        self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: GradientMemoryState
    ) -> tuple[PerHead, GradientMemoryState]:
        rates, held = self._rates(x, state)
        weights = list(self.initial_memory)
        if self.plain:
            assert isinstance(self.form.structure, Mlp) and isinstance(state.memory, DeepMemoryState)
            assert not any(isinstance(rate, tuple) for rate in rates)
            gates = cast(tuple[Gate | None, Gate | None, Gate], (rates.keep, rates.momentum, rates.step))
            y, deep = deep_memory(
                q, k, v, *gates, weights, chunk_size=self.chunk_size, residual=self.form.structure.residual,
                activation=self.form.structure.activation, state=state.memory, backend=self.config.backend,
            )  # fmt: skip
            return y, GradientMemoryState(deep, held)
        assert isinstance(state.memory, LearnedState)
        asked = k if self.asked else q
        # what f(phi(k)) of M(k) = k + f(phi(k)) is held to; the dot product with v is linear, so k leaves nothing there
        target = v - k if self.form.around and self.config.objective != "dot" else v
        y, memory = learned_memory(
            self._featured(q), self._featured(k), target, rates, weights, self._rule(), chunk_size=self.chunk_size,
            state=state.memory,
        )  # fmt: skip
        if torch.is_grad_enabled() and (self.config.optimizer == "muon" or self.form.retention.held):
            y = y + _not_yet_read(memory, rates).to(y.dtype)
        return (y + asked if self.form.around else y), GradientMemoryState(memory, held)

    def recall(self, q: PerHead, state: GradientMemoryState) -> PerHead:
        if isinstance(state.memory, DeepMemoryState):
            assert isinstance(self.form.structure, Mlp)
            residual, activation = self.form.structure.residual, self.form.structure.activation
            backend = self.config.backend
            return read_deep_memory(q, state.memory, residual=residual, activation=activation, backend=backend)
        y = read_learned_memory(self._featured(q), state.memory, self._rule())
        return y + q if self.form.around else y

    def _featured(self, x: PerHead) -> PerHead:
        return x if self.features is None else self.features(x)

    @property
    def _bias(self) -> int:
        structure = self.form.structure
        return int(isinstance(structure, Mlp) and structure.bias)

    def _rule(self) -> LearnedRule:
        form, config = self.form, self.config
        return LearnedRule(
            structure=Normed(form.structure, self.scale, self.shift) if form.normed else form.structure,
            objective=objective_called(config.objective, config.p),
            retention=form.retention,
            optimizer=config.optimizer,
            gradient_at=config.gradient_at,
            muon_step=form.muon_step,
            window=form.window,
            control=config.control,
        )

    def _rates(self, x: Hidden, state: GradientMemoryState) -> tuple[Rates, tuple[Tensor, ...]]:
        position = int(state.memory.position[0])
        gates = (self.keep, self.momentum, self.step, self.threshold, self.share)
        together = [gate for gate in gates if isinstance(gate, SigmoidGate) and gate.mode == "token"]
        number: dict[nn.Module | None, int] = {gate: place for place, gate in enumerate(together)}
        spreads = self.config.optimizer == "momentum"  # one surprise over time
        both = spreads and self.step in number and self.momentum in number
        without = (number[self.step], number[self.momentum]) if both else None
        known = dict(zip(together, token_gates(x, together, without), strict=True)) if together else {}

        def rate(gate: SigmoidGate | UnitGate | None, held: Tensor) -> tuple[Rate | None, Tensor]:
            if gate is None or gate in known:
                return (None if gate is None else known[gate]), held
            return gate(x, held, position, self.chunk_size)

        keep, held_keep = rate(self.keep, state.held[0])
        momentum, held_momentum = rate(self.momentum, state.held[1])
        step, held_step = rate(self.step, state.held[2])
        if step is None:  # frozen
            step = x.new_zeros(*x.shape[:2], self.heads)
        elif momentum is not None and spreads and not both:
            step = _without(step, momentum)
        threshold, share = (None if gate is None else known[gate] for gate in (self.threshold, self.share))
        return Rates(step, keep, momentum, threshold, share), (held_keep, held_momentum, held_step)


@remembered
def _form_of(config: GradientMemoryConfig, dim: int) -> Form | None:
    """The form of the memory that is built; None where that is of a class derived from `GradientMemory`."""
    with shapes_only():
        memory = config.build(dim)
    return memory.form if type(memory) is GradientMemory else None


def _without(step: Rate, momentum: Rate) -> Rate:
    """step (1 - momentum): a surprise is felt 1 / (1 - momentum) times, so its whole weight stays `step`."""
    if isinstance(step, Tensor) and isinstance(momentum, Tensor):
        return step * (1 - momentum)
    return tuple(rate * (1 - carried) for rate, carried in zip(step, momentum, strict=True))


def _not_yet_read(memory: LearnedState, rates: Rates) -> Tensor:
    """0 [b, 1, 1, 1] made of all that acts at a chunk's last token only: without one in the call, weights' gradients
    are 0 and not absent, as data-parallel training asks for."""
    steps = rates.step if isinstance(rates.step, tuple) else (rates.step,)
    parts = (*memory.stored, *memory.surprise, *steps)
    return sum((0 * part.flatten(1).sum(1) for part in parts), start=torch.zeros(()))[:, None, None, None]


def hidden_units(dim: int, heads: int, expansion: float) -> int:
    """Units between two matrices: the head's width times `expansion`, rounded, at least one."""
    return max(1, round(dim // heads * expansion))
