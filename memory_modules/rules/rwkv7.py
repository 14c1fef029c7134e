"""`rwkv7`: a matrix whose key channels decay each at its own rate, and from which one direction is moved or removed."""

from __future__ import annotations

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.backends import chosen_rule_backend
from titanlab.memory_modules.kernels.channel_decay import SUB_CHUNK
from titanlab.memory_modules.kernels.chunking import from_chunks, pieces, to_chunks
from titanlab.memory_modules.kernels.rwkv7_chunks import rwkv7_chunks
from titanlab.memory_modules.rules.checks import check_sequence, joined, matrix_or_zeros
from titanlab.platform.tensors import PerHead, at_least_float32


def rwkv7(
    r: PerHead,
    log_w: PerHead,
    k: PerHead,
    v: PerHead,
    a: PerHead,
    b: PerHead,
    *,
    chunk_size: int,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[PerHead, Tensor]:
    """RWKV-7's generalised delta rule, exact per token.

        S_t = diag(exp(log_w_t)) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T        y_t = S_t^T r_t

    RWKV-7 (arXiv 2503.14456), section 4; the paper's state is the transposed one. There a = -kappa and
    b = kappa * learning rate, with kappa the normed removal key. a_t reads the memory before the decay. The chunk
    length changes speed only; chunks longer than 16 are computed as chunks of 16.

    Args:
        r, k, a, b: [b, t, h, key]; v: [b, t, h, value], any floating type; the state is kept in float32 or better.
        log_w: [b, t, h, key], at most 0; -inf forgets a channel.
        chunk_size: tokens solved together.
        state: S [b, h, key, value], as an earlier call returned it; None: zeros.
        backend: auto | torch | triton, of which auto takes Triton's kernels for CUDA tensors where they can compute
            the call: head dimensions 16 to 128, no float64, compute capability 9.0. They choose their own chunk length
            and take every vector in r's type.

    Returns:
        y [b, t, h, value] in r's type, and S after the last token.

    Raises:
        ValueError: naming the argument, its shape and what was expected.
    """
    check_sequence(r, k, v, {}, chunk_size, query="r", channels={"log_w": log_w, "a": a, "b": b})
    dtype = at_least_float32(r.dtype)
    outputs, matrix = [], matrix_or_zeros(state, k, v, dtype)
    with torch.autocast(r.device.type, enabled=False):
        if chosen_rule_backend(backend, (r, k, v, a, b)) == "triton":
            from titanlab.memory_modules.kernels.triton_rule_sequences import rwkv7_sequence

            y, matrix = rwkv7_sequence((r, log_w, k, v, a, b), matrix)
            return y, matrix.unflatten(0, (r.shape[0], r.shape[2]))
        for piece in pieces(0, r.shape[1], min(chunk_size, SUB_CHUNK)):
            rows = tuple(to_chunks(x.to(dtype), piece) for x in (r, log_w, k, v, a, b))
            y, matrix = rwkv7_chunks(rows, matrix)
            outputs.append(from_chunks(y, r.shape[0]))
    return joined(outputs, v, r.dtype), matrix.unflatten(0, (r.shape[0], r.shape[2]))
