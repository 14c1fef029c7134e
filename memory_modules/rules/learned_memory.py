"""`learned_memory`: a memory of any structure, objective, retention and optimizer that learns at test time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.chunking import pieces
from titanlab.memory_modules.rules.checks import joined
from titanlab.memory_modules.rules.learned_checks import check_learned_memory
from titanlab.memory_modules.rules.learned_chunk import ChunkTokens, LearnedChunk, scales
from titanlab.memory_modules.rules.learned_state import LearnedRule, LearnedState, Past, Rates
from titanlab.platform.tensors import PerHead, at_least_float32


def learned_memory(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    rates: Rates,
    weights: Sequence[Tensor],
    rule: LearnedRule,
    *,
    chunk_size: int,
    state: LearnedState | None = None,
) -> tuple[PerHead, LearnedState]:
    """A memory that learns k -> v at test time, of four exchangeable parts (MIRAS, arXiv 2504.13173, section 3).

        g_t = sum of share_i grad l(R; k_i, v_i) over the last `window` tokens i    R: the weights at the chunk's start
        S_t = momentum_t S_{t-1} - step_t g_t
        A_t = keep_t A_{t-1} + S_t          W_t = Phi(A_t)          y_t = M(W_t; q_t)

    What is not linear - Phi of LqNorm, Softmax and UnitNorm, and Muon's A += NewtonSchulz(S) - acts at a chunk's last
    token, whose own read sees it; chunk_size = 1 is the rule of every token. Inside a chunk LqNorm's factor is the one
    at the chunk's start, Softmax's weights are those at the chunk's start, and with Muon the memory only decays. Muon's
    S begins anew with each chunk unless there is momentum; see `LearnedRule.muon_step` for where its step is.

    Args:
        q, k: [b, t, h, m], any floating type; the state is kept in float32 or better.
        v: [b, t, h, d].
        rates: keep, momentum, step, threshold and share.
        weights: A before the first token, one [h, in, out] a matrix of the structure.
        rule: the parts, and which control if any.
        chunk_size: tokens that share one reference memory.
        state: what an earlier call returned; a sequence cut anywhere gives the same as one call.

    Returns:
        y [b, t, h, d] in q's type, and the state after the last token.

    Raises:
        ValueError: naming the argument, its shape and what was expected.
    """
    check_learned_memory(q, k, v, rates, weights, rule, chunk_size, state)
    dtype = at_least_float32(q.dtype)
    if state is None:
        widths, per_unit = (q.shape[3], v.shape[3]), isinstance(rates.keep, tuple)
        momentum = rates.momentum is not None
        state = initial_learned_memory(
            weights, q.shape[0], rule, widths, momentum=momentum, per_unit=per_unit, dtype=dtype
        )
    q = k if rule.control == "keys_as_queries" else q
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        initial = [matrix.to(dtype) for matrix in weights]
        for piece in pieces(int(state.position[0]), q.shape[1], chunk_size):
            for start in range(piece.start, piece.start + piece.chunks * piece.size, piece.size):
                tokens = ChunkTokens.cut(q, k, v, rates, slice(start, start + piece.size), dtype)
                ends = int(state.position[0]) + piece.size == chunk_size
                y, state = LearnedChunk(rule, tokens, state, initial, ends).run()
                outputs.append(y.movedim(1, 2))
    return joined(outputs, v, q.dtype), state


def initial_learned_memory(
    weights: Sequence[Tensor],
    batch: int,
    rule: LearnedRule,
    widths: tuple[int, int],
    *,
    momentum: bool,
    per_unit: bool = False,
    dtype: torch.dtype | None = None,
) -> LearnedState:
    """The state before the first token: every sequence starts from `weights` [h, in, out], with no surprise yet.

    Args:
        weights: A before the first token.
        batch: number of sequences.
        rule: the rule.
        widths: of keys and of values.
        momentum: whether there will be a momentum gate.
        per_unit: whether keep will be a gate of every unit.
        dtype: the state's type; by default that of the weights, at least float32.
    """
    dtype = dtype or at_least_float32(weights[0].dtype)
    initial = [matrix.to(dtype) for matrix in weights]
    stored = tuple(matrix.expand(batch, *matrix.shape) for matrix in initial)
    decay: tuple[Tensor, ...] = ()
    if rule.gradient_at == "decayed":
        decay = tuple(matrix.new_ones(*matrix.shape[:2], 1, matrix.shape[3] if per_unit else 1) for matrix in stored)
    count = (batch, weights[0].shape[0], rule.window - 1)
    sizes = (*((*count, width) for width in widths), count, count)
    return LearnedState(
        stored=stored,
        surprise=tuple(torch.zeros_like(matrix) for matrix in stored) if momentum or rule.optimizer == "muon" else (),
        reference=tuple(rule.retention.weights(matrix, first) for matrix, first in zip(stored, initial, strict=True)),
        scale=scales(rule, stored),
        decay=decay,
        past=Past(*(stored[0].new_zeros(size) for size in sizes)),
        position=torch.zeros(batch, dtype=torch.int64, device="cpu"),
    )


def read_learned_memory(q: PerHead, state: LearnedState, rule: LearnedRule) -> PerHead:
    """M(q) [b, t, h, d] with the memory as it stands, writing nothing."""
    inside = int(state.position[0]) > 0 and not rule.retention.held

    def linear(layer: int, x: Tensor) -> Tensor:
        if not inside or not rule.learns(layer):
            return x @ state.reference[layer]
        y = x @ state.stored[layer]
        return y * state.scale[layer] if state.scale else y

    with torch.autocast(q.device.type, enabled=False):
        y = rule.structure(q.movedim(1, 2).to(state.stored[0].dtype), linear)
    return y.movedim(2, 1).to(q.dtype)
