"""`delta_rule` and `gated_delta_rule`: a matrix that replaces what it returned for a key by the key's value."""

from __future__ import annotations

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.backends import chosen_rule_backend
from titanlab.memory_modules.kernels.chunking import from_chunks, pieces, to_chunks
from titanlab.memory_modules.kernels.delta_chunks import delta_chunks
from titanlab.memory_modules.rules.checks import check_sequence, joined, matrix_or_zeros
from titanlab.platform.tensors import Gate, PerHead, at_least_float32


def delta_rule(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    beta: Gate,
    *,
    chunk_size: int,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[PerHead, Tensor]:
    """DeltaNet: a matrix memory that replaces what it returned for a key by the key's value, exact per token.

        S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T        y_t = S_t^T q_t

    Schlag et al. (arXiv 2102.11174), eq. 24, in the chunk form of Yang et al. (arXiv 2406.06484): the chunk length
    changes speed only. Stable for beta in [0, 2] and ||k|| <= 1.

    Args:
        q, k: [b, t, h, key]; v: [b, t, h, value], any floating type; the state is kept in float32 or better.
        beta: [b, t, h], the step.
        chunk_size: tokens solved together.
        state: S [b, h, key, value], as an earlier call returned it; None: zeros.
        backend: auto | torch | triton, of which auto takes Triton's kernels for CUDA tensors where they can compute
            the call: head dimensions 16 to 128, no float64, compute capability 9.0. They choose their own chunk length
            and take every vector in q's type.

    Returns:
        y [b, t, h, value] in q's type, and S after the last token.

    Raises:
        ValueError: naming the argument, its shape and what was expected.
    """
    check_sequence(q, k, v, {"beta": beta}, chunk_size)
    return _run(q, k, v, None, beta, chunk_size, state, backend)


def gated_delta_rule(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    log_decay: Gate,
    beta: Gate,
    *,
    chunk_size: int,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[PerHead, Tensor]:
    """Gated DeltaNet: the memory decays, then the delta rule is applied to what is left; exact per token.

        S' = exp(log_decay_t) S_{t-1}        S_t = S' + beta_t k_t (v_t - S'^T k_t)^T        y_t = S_t^T q_t

    Gated DeltaNet (arXiv 2412.06464), eq. 10. The error is that of the decayed memory, unlike Titans', which is that
    of the memory before the decay. The chunk length changes speed only.

    Args:
        q, k: [b, t, h, key]; v: [b, t, h, value], any floating type; the state is kept in float32 or better.
        log_decay: [b, t, h], at most 0; -inf forgets everything.
        beta: [b, t, h], the step.
        chunk_size: tokens solved together.
        state: S [b, h, key, value], as an earlier call returned it; None: zeros.
        backend: auto | torch | triton, of which auto takes Triton's kernels for CUDA tensors where they can compute
            the call: head dimensions 16 to 128, no float64, compute capability 9.0. They choose their own chunk length
            and take every vector in q's type.

    Returns:
        y [b, t, h, value] in q's type, and S after the last token.

    Raises:
        ValueError: naming the argument, its shape and what was expected.
    """
    check_sequence(q, k, v, {"log_decay": log_decay, "beta": beta}, chunk_size)
    return _run(q, k, v, log_decay, beta, chunk_size, state, backend)


def _run(
    q: PerHead, k: PerHead, v: PerHead, log_decay: Gate | None, beta: Gate, chunk_size: int, state: Tensor | None,
    backend: str,
) -> tuple[PerHead, Tensor]:  # fmt: skip
    dtype = at_least_float32(q.dtype)
    outputs, matrix = [], matrix_or_zeros(state, k, v, dtype)
    with torch.autocast(q.device.type, enabled=False):
        if chosen_rule_backend(backend, (q, k, v)) == "triton":
            from titanlab.memory_modules.kernels.triton_rule_sequences import scalar_sequence

            kept = None if log_decay is None else log_decay.to(dtype).exp()
            y, state = scalar_sequence(q, k, v, kept, None, beta, matrix.unsqueeze(1), solve=True)
            return y, state.squeeze(1).unflatten(0, (q.shape[0], q.shape[2]))
        for piece in pieces(0, q.shape[1], chunk_size):
            rows_q, rows_k, rows_v, rates = (to_chunks(x.to(dtype), piece) for x in (q, k, v, beta))
            keep = None if log_decay is None else to_chunks(log_decay.to(dtype), piece).exp()
            y, matrix = delta_chunks(rows_q, rows_k, rows_v, rates, matrix, keep)
            outputs.append(from_chunks(y, q.shape[0]))
    return joined(outputs, v, q.dtype), matrix.unflatten(0, (q.shape[0], q.shape[2]))
