"""`momentum_delta_rule`: Titans' rule for a matrix memory, exact per token at every chunk length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.backends import chosen_rule_backend
from titanlab.memory_modules.kernels.chunk_gates import chunk_gates
from titanlab.memory_modules.kernels.chunking import from_chunks, pieces, to_chunks
from titanlab.memory_modules.kernels.momentum_delta_chunks import momentum_delta_chunks
from titanlab.memory_modules.rules.checks import check_sequence, joined, matrix_or_zeros
from titanlab.platform.tensors import Gate, PerHead, at_least_float32


class MomentumDeltaState(NamedTuple):
    """The rule between two tokens."""

    memory: Tensor
    """S [b, h, key, value]."""
    momentum: Tensor
    """P [b, h, key, value], past surprise."""


def momentum_delta_rule(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    keep: Gate | None,
    momentum: Gate | None,
    step: Gate,
    *,
    chunk_size: int,
    state: MomentumDeltaState | tuple[Tensor, Tensor] | None = None,
    backend: str = "auto",
) -> tuple[PerHead, MomentumDeltaState]:
    """The delta rule with momentum and decay, exact per token.

        P_t = momentum_t P_{t-1} - step_t k_t (S_{t-1}^T k_t - v_t)^T
        S_t = keep_t S_{t-1} + P_t                                        y_t = S_t^T q_t

    Titans (arXiv 2501.00663), eq. 13-14, for a memory of one matrix and with the gradient at the memory before the
    token, whatever the chunk length: that changes speed only. `deep_memory` with one matrix takes its gradients at
    the chunk's start; at a chunk length of 1 the two are the same.

    Args:
        q, k: [b, t, h, key]; v: [b, t, h, value], any floating type; the state is kept in float32 or better.
        keep: [b, t, h] in [0, 1], the fraction of the memory kept; None: 1.
        momentum: [b, t, h] in [0, 1), the fraction of past surprise kept; None: 0.
        step: [b, t, h], the inner learning rate.
        chunk_size: tokens solved together.
        state: (S, P), each [b, h, key, value], as an earlier call returned them; None: zeros.
        backend: auto | torch | triton, of which auto takes Triton's kernels for CUDA tensors where they can compute
            the call: head dimensions 16 to 128, no float64, compute capability 9.0. They choose their own chunk length
            and take every vector in q's type.

    Returns:
        y [b, t, h, value] in q's type, and the state after the last token.

    Raises:
        ValueError: naming the argument, its shape and what was expected.
    """
    check_sequence(q, k, v, {"keep": keep, "momentum": momentum, "step": step}, chunk_size)
    dtype, carried = at_least_float32(q.dtype), torch.zeros_like(step) if momentum is None else momentum
    memory, surprise = (None, None) if state is None else state
    parts = torch.stack(
        [
            matrix_or_zeros(memory, k, v, dtype, "state.memory"),
            matrix_or_zeros(surprise, k, v, dtype, "state.momentum"),
        ],
        1,
    )
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        if chosen_rule_backend(backend, (q, k, v)) == "triton":
            from titanlab.memory_modules.kernels.triton_rule_sequences import scalar_sequence

            y, parts = scalar_sequence(q, k, v, keep, carried, step, parts, solve=True)
            return y, _split(parts, q)
        for piece in pieces(0, q.shape[1], chunk_size):
            rows_q, rows_k, rows_v, pushed, rates = (to_chunks(x.to(dtype), piece) for x in (q, k, v, carried, step))
            gates = chunk_gates(None if keep is None else to_chunks(keep.to(dtype), piece), pushed, rates)
            y, parts = momentum_delta_chunks(rows_q, rows_k, rows_v, gates, parts)
            outputs.append(from_chunks(y, q.shape[0]))
    return joined(outputs, v, q.dtype), _split(parts, q)


def _split(parts: Tensor, q: Tensor) -> MomentumDeltaState:
    """[b h, 2, key, value] as the state of sequences like q."""
    after = parts.unflatten(0, (q.shape[0], q.shape[2]))
    return MomentumDeltaState(after[:, :, 0], after[:, :, 1])
