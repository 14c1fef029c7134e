"""The layer around every rule: projections, causal convolution, normed queries and keys, output norm and gate.

Titans (arXiv 2501.00663), section 4.4: q, k and v are linear projections, each followed by a depthwise convolution
and SiLU; q and k are L2-normed; the output is normed, gated and projected. Where the paper is silent we take an
RMS norm a head, a SiLU gate from the layer's input, and no biases.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import reduce
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.fused_kernels.choice import kernels_take
from titanlab.platform.made_once import made_once
from titanlab.platform.memory import MemoryConfig, MemoryModule
from titanlab.platform.norms import RMSNorm, normed
from titanlab.platform.recomputation import lean
from titanlab.platform.tensors import Hidden, PerHead, State, compute_type


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


class Question(NamedTuple):
    """What a read asks for."""

    q: PerHead
    gate: Hidden
    """Of the answer."""


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
        self.norms_values = False
        """Whether values are L2-normed as queries and keys are."""
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.taps = nn.Parameter(torch.empty(3 * dim, 1, config.convolution)) if config.convolution > 1 else None
        if self.taps is not None:
            nn.init.uniform_(self.taps, -(config.convolution**-0.5), config.convolution**-0.5)
        self.norm = RMSNorm(self.head_dim, eps=1e-6)
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
        q, k, v, newest = _queries_keys_values(self.qkv(x), state.convolution, self.taps, self.heads, self.norms_values)
        y, rule = self.write(x, q, k, v, state.rule)
        return self._output(y, self.gate(x)), LayerState(newest, rule)

    def read(self, x: Hidden, state: LayerState) -> Hidden:
        return self.answer(self.question(x), state)

    def question(self, x: Hidden) -> Question:
        # Each token is a query of its own, so its convolution sees nothing before it: the last tap alone.
        width = self.heads * self.head_dim
        asked = slice(self.asked * width, (self.asked + 1) * width)
        tap = None if self.taps is None else self.taps[asked, 0, -1]
        return Question(_queries(F.linear(x, self.qkv.weight[asked]), tap, self.heads), self.gate(x))

    def answer(self, question: Question, state: LayerState) -> Hidden:
        return self._output(self.recall(question.q, state.rule), question.gate)

    def projected_answer(self, question: Question, state: LayerState, weight: Tensor) -> Hidden:
        is_plain = type(self).answer is MemoryLayer.answer and type(self)._output is MemoryLayer._output
        if not (is_plain and _is_worth_composing(question.gate, weight, self.out)):
            return super().projected_answer(question, state, weight)
        y, own = self._gated(self.recall(question.q, state.rule), question.gate), self.out.weight
        return F.linear(y, made_once(lambda: weight @ own, [weight, own], compute_type(y)))

    def _output(self, y: PerHead, gate: Hidden) -> Hidden:
        return cast(Hidden, self.out(self._gated(y, gate)))

    def _gated(self, y: PerHead, gate: Hidden) -> Hidden:
        weight = self.norm.weight
        return _gated_output(y, gate, weight, self.norm.epsilon, compute_type(weight))


def _is_worth_composing(x: Hidden, weight: Tensor, layer: nn.Module) -> bool:
    """Whether (weight W) x is faster than weight (W x), W being the layer's: the product of the matrices costs as much
    as W x of so many tokens as weight has rows, and is made once for all pieces."""
    if type(layer) is not nn.Linear or layer.bias is not None:
        return False
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return not any(hooks) and x.shape[:2].numel() >= weight.shape[0] and kernels_take(x, weight)


def unit(x: Tensor) -> Tensor:
    """x / max(||x||, 1e-6) over the last axis, in x's type and contiguous; the length in float32 or better."""
    if x.dtype in (torch.float32, torch.float64):
        return F.normalize(x, dim=-1, eps=1e-6)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x / length.clamp_min(1e-6)).to(x.dtype, memory_format=torch.contiguous_format)


def _queries_keys_values(
    qkv: Tensor, before: Tensor, taps: Tensor | None, heads: int, norms_values: bool
) -> tuple[PerHead, PerHead, PerHead, Tensor]:
    """What the rule sees, in qkv's type: convolved after the tokens `before`, through SiLU, normed; and the newest
    tokens, to come before the next ones."""
    if kernels_take(qkv, taps):
        from titanlab.platform.fused_kernels.projected_heads import fits, projected_heads

        rows = None if taps is None else taps.flatten(1)
        if fits(qkv.shape[-1] // (3 * heads), rows):
            normed_parts = (True, True, norms_values)
            q, k, v, *newest = projected_heads(qkv, before if before.shape[1] else None, rows, heads, normed_parts)
            return q, k, v, newest[0] if newest else before
    return _queries_keys_values_in_torch(qkv, before, taps, heads, norms_values)


@lean
def _queries_keys_values_in_torch(
    qkv: Tensor, before: Tensor, taps: Tensor | None, heads: int, norms_values: bool
) -> tuple[PerHead, PerHead, PerHead, Tensor]:
    with torch.autocast(qkv.device.type, enabled=False):  # it would norm in float32 and hand that on
        if taps is not None and qkv.shape[1]:
            qkv, before = _convolved(before.to(qkv.dtype), qkv, taps.to(qkv.dtype))
        parts = F.silu(qkv).unflatten(-1, (3, heads, -1)).movedim(2, 0)
        q, k = unit(parts[:2]).unbind(0)
        # not of one storage with them, which the gradient of most rules keeps without the values
        return q, k, unit(parts[2]) if norms_values else parts[2], before


def _convolved(before: Tensor, x: Tensor, taps: Tensor) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution of x [b, t, dim] after `before` [b, width - 1, dim]; and the newest of both."""
    count, time = before.shape[1], x.shape[1]
    # cut, not sliced: the gradient of a slice is a whole array of zeros
    older, last = x.split([max(time - count, 0), min(count, time)], 1)
    newest = torch.cat([before, last], 1)[:, last.shape[1] :]
    if not torch.compiler.is_compiling():
        return F.conv1d(torch.cat([before, older, last], 1).mT, taps, groups=len(taps)).mT, newest
    # Sums of padded tokens become one kernel with what follows; a convolution, or putting tokens together, does not.
    seen = F.pad(before, (0, 0, 0, time)) + F.pad(x, (0, 0, count, 0))
    return reduce(torch.add, (seen[:, tap : tap + time] * taps[:, 0, tap] for tap in range(count + 1))), newest


def _queries(q: Tensor, tap: Tensor | None, heads: int) -> PerHead:
    if kernels_take(q, tap):
        from titanlab.platform.fused_kernels.projected_heads import fits, projected_heads

        if fits(q.shape[-1] // heads, None):
            return projected_heads(q, None, None if tap is None else tap[:, None], heads, (True,))[0]
    return _queries_in_torch(q, tap, heads)


@lean
def _queries_in_torch(q: Tensor, tap: Tensor | None, heads: int) -> PerHead:
    with torch.autocast(q.device.type, enabled=False):
        q = q if tap is None else q * tap.to(q.dtype)
        return unit(F.silu(q).unflatten(-1, (heads, -1)))


def _gated_output(y: PerHead, gate: Hidden, weight: Tensor, eps: float, dtype: torch.dtype) -> Hidden:
    if kernels_take(y, gate, weight):
        from titanlab.platform.fused_kernels.normed_rows import WIDEST, normed_rows

        if y.shape[-1] <= WIDEST:
            beside, result = gate.unflatten(-1, y.shape[2:]), torch.promote_types(dtype, gate.dtype)
            return normed_rows(y, weight, eps, result, use="silu", other=beside).flatten(-2)
    return _gated_output_in_torch(y, gate, weight, eps, dtype)


@lean
def _gated_output_in_torch(y: PerHead, gate: Hidden, weight: Tensor, eps: float, dtype: torch.dtype) -> Hidden:
    return normed(y, weight, eps, dtype).flatten(-2) * F.silu(gate)
