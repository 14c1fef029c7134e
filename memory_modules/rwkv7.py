"""`rwkv7`: RWKV-7's time mixing, with its token shift, low-rank gates and bonus."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from titanlab.memory_modules.decay_gates import LowRank
from titanlab.memory_modules.kernels.rwkv7_chunks import rwkv7_chunks_flops
from titanlab.memory_modules.layer import width_of_head
from titanlab.memory_modules.matrix_memory import initial_matrix, read_matrix
from titanlab.memory_modules.rules.rwkv7 import rwkv7
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig, MemoryModule
from titanlab.platform.tensors import Hidden, PerHead


@MEMORY_MODULES.register("rwkv7")
class Rwkv7Config(MemoryConfig):
    """RWKV-7: a decay for every key channel, and a rate at which what a key returned is removed (2503.14456).

    With the paper's token shift, low-rank gates and bonus; its value residual between layers is left out.
    """

    heads: int = Field(2, ge=1)
    """Memories side by side, each on its share of the width; must divide the model's dim."""
    chunk_size: int = Field(16, ge=1, le=4096)
    """Tokens computed together, at most 16 at a time."""
    gate_rank: int = Field(16, ge=1)
    """Columns between the two matrices of decay, learning rate and output gate."""
    backend: Literal["auto", "torch", "triton"] = "auto"
    """What computes the rule: torch; Triton's kernels, which choose their own chunk length; or auto, Triton on the GPUs
    it was checked on where it can compute the call, and torch elsewhere."""

    def flops(self, dim: int) -> float:
        """8 dim^2 (projections) + 12 dim gate_rank (low-rank maps) + dim (8 d + 12 c + 4), c at most 16."""
        rule = rwkv7_chunks_flops(dim // self.heads, self.chunk_size)
        return 8 * dim**2 + 12 * dim * self.gate_rank + self.heads * rule

    def read_flops(self, dim: int) -> float:
        """4 dim^2 + 4 dim gate_rank + 2 dim d."""
        return 4 * dim**2 + 4 * dim * self.gate_rank + 2 * dim * (dim // self.heads)

    def build(self, dim: int) -> Rwkv7Memory:
        return Rwkv7Memory(dim, self)


class Rwkv7State(NamedTuple):
    """The layer between two tokens."""

    last: Tensor
    """The last input, [b, dim], for the token shift."""
    memory: Tensor
    """S [b, h, key, value]."""


class _Written(NamedTuple):
    """What the rule is given, each [b, t, h, d]."""

    log_w: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor


class Rwkv7Memory(MemoryModule):
    """The rule `rwkv7` in the paper's layer.

    Every projection sees its own learned mix of the token and the one before. With removal key kappa (normed a head)
    and learning rate eta, both from the token, a = -kappa and b = eta kappa; k (1 + (eta - 1) alpha) is written.
    The answer is layer-normed a head, the token's own value is added by the weight r . (rho k), and the sum is gated.

    Raises:
        ConfigError: `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, config: Rwkv7Config) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, width_of_head(dim, config.heads)
        self.chunk_size, self.backend, rank = config.chunk_size, config.backend, config.gate_rank
        self.shift = nn.Parameter(torch.full((6, dim), 0.5))  # shares of the token before in r, w, k, v, eta, gate
        self.receptance, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.decay = LowRank(dim, rank=rank, bias=_spread(self.heads, self.head_dim), activation=torch.tanh)
        self.rate = LowRank(dim, rank=rank, bias=0.0)
        self.gate = LowRank(dim, rank=rank, bias=None, activation=torch.sigmoid, spread=rank**-0.5)
        self.removal_scale = nn.Parameter(torch.full((self.heads, self.head_dim), 0.85))
        self.rate_share = nn.Parameter(torch.ones(self.heads, self.head_dim))  # alpha
        self.bonus = nn.Parameter(torch.zeros(self.heads, self.head_dim))  # rho
        self.norm_scale = nn.Parameter(torch.ones(self.heads, self.head_dim))
        self.norm_shift = nn.Parameter(torch.zeros(self.heads, self.head_dim))
        self.initial_memory = nn.Parameter(torch.zeros(self.heads, self.head_dim, self.head_dim))

    def initial_state(self, batch: int) -> Rwkv7State:
        last = self.shift.new_zeros(batch, self.shift.shape[1])
        return Rwkv7State(last, initial_matrix(self.initial_memory, batch))

    def forward(self, x: Hidden, state: Rwkv7State) -> tuple[Hidden, Rwkv7State]:
        seen = torch.cat([state.last.to(x.dtype).unsqueeze(1), x], 1)
        mixed = self._shifted(x, seen[:, :-1])
        r, w = self._heads(self.receptance(mixed[0])), self._written(mixed)
        y, memory = rwkv7(r, *w, chunk_size=self.chunk_size, state=state.memory, backend=self.backend)
        weight = (r * self.bonus.to(r.dtype) * w.k.to(r.dtype)).sum(-1, keepdim=True)
        return self._output(mixed[5], y, weight * w.v), Rwkv7State(seen[:, -1], memory)

    def read(self, x: Hidden, state: Rwkv7State) -> Hidden:
        # Each token is a query of its own, so it has none before it, and nothing of its own is written or added.
        mixed = self._shifted(x, torch.zeros_like(x))
        y = read_matrix(self._heads(self.receptance(mixed[0])), state.memory)
        return self._output(mixed[5], y, torch.zeros_like(y))

    def _shifted(self, x: Hidden, before: Hidden) -> list[Hidden]:
        return [torch.lerp(x, before, share.to(x.dtype)) for share in self.shift]

    def _written(self, mixed: list[Hidden]) -> _Written:
        k, v = self._heads(self.key(mixed[2])), self._heads(self.value(mixed[3]))
        with torch.autocast(k.device.type, enabled=False):
            # between exp(-exp(-1/2)) = 0.55 and 1
            log_w = -math.exp(-0.5) * torch.sigmoid(self._heads(self.decay(mixed[1])))
            rate = torch.sigmoid(self._heads(self.rate(mixed[4])))
            removed = F.normalize(k.to(rate.dtype) * self.removal_scale, dim=-1, eps=1e-6)
            k = k.to(rate.dtype) * torch.lerp(torch.ones_like(rate), rate, self.rate_share)
        return _Written(log_w, k, v, -removed, removed * rate)

    def _heads(self, x: Hidden) -> PerHead:
        return x.unflatten(-1, (self.heads, self.head_dim))

    def _output(self, x: Hidden, y: PerHead, own: PerHead) -> Hidden:
        normed = F.layer_norm(y.to(self.norm_scale.dtype), (self.head_dim,), eps=1e-5)
        answer = normed * self.norm_scale + self.norm_shift + own
        return self.out(answer.flatten(-2) * self.gate(x))


def _spread(heads: int, width: int) -> list[float]:
    """Decay biases at initialisation: in every head from channels that keep 0.999 a token to some that keep 0.9."""
    return [-6.5 + 5.0 * channel / max(1, width - 1) for channel in range(width)] * heads
