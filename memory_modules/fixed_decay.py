"""Linear attention whose decays are fixed before training: what `linear_attention`, `retnet` and `lightning` share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titanlab.memory_modules.matrix_memory import MatrixConfig, MatrixMemory
from titanlab.memory_modules.rules.linear_attention import linear_attention
from titanlab.platform.tensors import Hidden, PerHead


class FixedDecayMemory(MatrixMemory):
    """`linear_attention` with one constant decay a head.

    Args:
        dim: the model's width.
        config: the layer's settings.
        log_decay: one a head, at most 0; None: no decay.
    """

    log_decay: Tensor | None

    def __init__(self, dim: int, config: MatrixConfig, *, log_decay: Sequence[float] | None = None) -> None:
        super().__init__(dim, config)
        # not in the state_dict: it follows from the settings
        self.register_buffer("log_decay", None if log_decay is None else torch.tensor(log_decay), persistent=False)

    def write(self, x: Hidden, q: PerHead, k: PerHead, v: PerHead, state: Tensor) -> tuple[PerHead, Tensor]:
        decay = None if self.log_decay is None else self.log_decay.expand(*q.shape[:3])
        return linear_attention(q, k, v, decay, chunk_size=self.chunk_size, state=state, backend=self.backend)
