"""The layer of rules whose memory is one matrix a head."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from titanlab.memory_modules.layer import LayerConfig, MemoryLayer
from titanlab.platform.config import no_result
from titanlab.platform.tensors import PerHead, at_least_float32


class MatrixConfig(LayerConfig):
    """Settings of a rule whose memory is one matrix of d x d a head, d = dim / heads."""

    backend: Literal["auto", "torch", "triton"] = no_result("auto")
    """What computes the rule: torch; Triton's kernels, which choose their own chunk length; or auto, Triton on the GPUs
    it was checked on where it can compute the call, and torch elsewhere."""

    def read_flops(self, dim: int) -> float:
        """Layer + 2 dim d."""
        return self.layer_read_flops(dim) + 2 * dim * (dim // self.heads)


class MatrixMemory(MemoryLayer):
    """A learned initial matrix, from zero; the state is S [b, h, key, value] and a query is answered by S^T q."""

    def __init__(self, dim: int, config: MatrixConfig) -> None:
        super().__init__(dim, config)
        self.chunk_size, self.backend = config.chunk_size, config.backend
        self.initial_memory = nn.Parameter(torch.zeros(self.heads, self.head_dim, self.head_dim))

    def initial_rule_state(self, batch: int) -> Tensor:
        return initial_matrix(self.initial_memory, batch)

    def recall(self, q: PerHead, state: Tensor) -> PerHead:
        return read_matrix(q, state)


def initial_matrix(matrix: Tensor, batch: int) -> Tensor:
    """A learned matrix [h, key, value] as the state of every sequence, [b, h, key, value]."""
    return matrix.to(at_least_float32(matrix.dtype)).expand(batch, *matrix.shape)


def read_matrix(q: PerHead, state: Tensor) -> PerHead:
    """S^T q in q's type, computed in the state's."""
    with torch.autocast(q.device.type, enabled=False):
        return torch.einsum("bthk,bhkv->bthv", q.to(state.dtype), state).to(q.dtype)
