"""Linear attention over chunks: a matrix that decays and is added to, S_t = diag(w_t) S_{t-1} + k_t v_t^T.

With a_t the decay from the chunk's start and A[t, s] that between two of its tokens

    Y = (a * Q) S + tril(A * Q K^T) V            S <- a_c S + (A[c] * K)^T V

(RetNet, arXiv 2307.08621, eq. 7; GLA, arXiv 2312.06635, section 4). All chunks at once but for the sum over chunks.
"""

from __future__ import annotations

from torch import Tensor

from titanlab.memory_modules.kernels.channel_decay import (
    SUB_CHUNK,
    decayed_scores,
    decayed_scores_flops,
    decays_from_start,
    decays_to_end,
)
from titanlab.memory_modules.kernels.chunk_gates import products_within
from titanlab.memory_modules.kernels.state_scan import scan_states


def linear_chunks_flops(d: int, c: int, *, channel_decay: bool = False) -> float:
    """Operations a token and head: Q S and K^T V 2 d^2 each, Q K^T and its product with V 2 c d each.

    A decay for every channel makes the scores row by row, d (c + 1), and chunks of at most SUB_CHUNK.
    """
    if not channel_decay:
        return 4 * d * d + 4 * c * d
    c = min(c, SUB_CHUNK)
    return 4 * d * d + 2 * c * d + decayed_scores_flops(d, c)


def linear_chunks(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """Runs n equal chunks.

    Args:
        q, k: [n, g, c, key]; v: [n, g, c, value].
        log_decay: [n, g, c], or [n, g, c, key] with a decay for every key channel, or None for no decay.
        state: S [g, key, value].

    Returns:
        y [n, g, c, value] and S after the last chunk.
    """
    reads, writes, last = q, k, None
    if log_decay is None:
        scores = (q @ k.mT).tril()
    elif log_decay.ndim == q.ndim:
        scores = decayed_scores(q.unsqueeze(-3), k.unsqueeze(-3), log_decay)[:, :, 0, 0]
        from_start = decays_from_start(log_decay)
        reads, writes, last = q * from_start, k * decays_to_end(log_decay), from_start[..., -1, :].unsqueeze(-1)
    else:
        keep = log_decay.exp()
        within = products_within(keep)
        scores = (q @ k.mT) * within
        scalars = (within[..., 0] * keep[..., :1]).unsqueeze(-1)
        reads, writes, last = q * scalars, k * within[..., -1, :].unsqueeze(-1), scalars[..., -1:, :]
    _, starts, state = scan_states(state, writes=writes, offsets=v, last=last)
    return reads @ starts + scores @ v, state
