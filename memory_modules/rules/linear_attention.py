"""`linear_attention`: a matrix that decays and is added to: RetNet, lightning attention, GLA, Mamba-2 by its decay."""

from __future__ import annotations

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.backends import chosen_rule_backend
from titanlab.memory_modules.kernels.channel_decay import SUB_CHUNK
from titanlab.memory_modules.kernels.chunking import from_chunks, pieces, to_chunks
from titanlab.memory_modules.kernels.linear_chunks import linear_chunks
from titanlab.memory_modules.rules.checks import check_sequence, joined, matrix_or_zeros, shape_of
from titanlab.platform.debugging import refuse_nonfinite
from titanlab.platform.tensors import Gate, PerHead, at_least_float32


def linear_attention(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    log_decay: Gate | PerHead | None = None,
    *,
    chunk_size: int,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[PerHead, Tensor]:
    """Linear attention with or without decay, one for a head or one for every key channel; exact per token.

        S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T        y_t = S_t^T q_t

    Without decay: Katharopoulos et al. (arXiv 2006.16236), eq. 18-20, without feature map and normaliser. A fixed
    scalar: RetNet (arXiv 2307.08621), eq. 6, and lightning attention; a scalar of the token: Mamba-2 (arXiv
    2405.21060); a vector of the token: GLA (arXiv 2312.06635), eq. 3. q is not scaled. The chunk length changes speed
    only; with a decay for every channel chunks longer than 16 are computed as chunks of 16.

    Args:
        q, k: [b, t, h, key]; v: [b, t, h, value], any floating type; the state is kept in float32 or better.
        log_decay: [b, t, h] or [b, t, h, key], at most 0; -inf forgets everything; None: no decay.
        chunk_size: tokens computed together.
        state: S [b, h, key, value], as an earlier call returned it; None: zeros.
        backend: auto | torch | triton, of which auto takes Triton's kernels for CUDA tensors where they can compute
            the call: head dimensions 16 to 128, no float64, compute capability 9.0. They choose their own chunk length
            and take every vector in q's type.

    Returns:
        y [b, t, h, value] in q's type, and S after the last token.

    Raises:
        ValueError: naming the argument, its shape and what was expected.
    """
    check_sequence(q, k, v, {}, chunk_size)
    _check_decay(log_decay, q)
    refuse_nonfinite({"log_decay": log_decay})
    dtype = at_least_float32(q.dtype)
    if log_decay is not None and log_decay.ndim == 4:
        chunk_size = min(chunk_size, SUB_CHUNK)
    outputs, matrix = [], matrix_or_zeros(state, k, v, dtype)
    with torch.autocast(q.device.type, enabled=False):
        if chosen_rule_backend(backend, (q, k, v)) == "triton":
            y, matrix = _by_kernels(q, k, v, log_decay, matrix)
            return y, matrix.unflatten(0, (q.shape[0], q.shape[2]))
        for piece in pieces(0, q.shape[1], chunk_size):
            rows_q, rows_k, rows_v = (to_chunks(x.to(dtype), piece) for x in (q, k, v))
            decay = None if log_decay is None else to_chunks(log_decay.to(dtype), piece)
            y, matrix = linear_chunks(rows_q, rows_k, rows_v, decay, matrix)
            outputs.append(from_chunks(y, q.shape[0]))
    return joined(outputs, v, q.dtype), matrix.unflatten(0, (q.shape[0], q.shape[2]))


def _by_kernels(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, matrix: Tensor) -> tuple[Tensor, Tensor]:
    from titanlab.memory_modules.kernels.triton_rule_sequences import decaying_sequence, scalar_sequence

    if log_decay is not None and log_decay.ndim == 4:
        return decaying_sequence(q, k, v, log_decay, matrix)
    keep = None if log_decay is None else log_decay.to(matrix.dtype).exp()
    y, state = scalar_sequence(q, k, v, keep, None, None, matrix.unsqueeze(1), solve=False)
    return y, state.squeeze(1)


def _check_decay(log_decay: Tensor | None, q: Tensor) -> None:
    if log_decay is None:
        return
    if log_decay.shape not in (q.shape[:3], q.shape) or not log_decay.is_floating_point():
        raise ValueError(
            f"log_decay: has shape {shape_of(log_decay)} and type {log_decay.dtype}; expected floating "
            f"{list(q.shape[:3])} (b, t, h of q) or {shape_of(q)} (a decay for every key channel)"
        )
