"""The delta rule over chunks, exact per token: inside a chunk the writes solve a unit lower triangular system.

With decays keep_t, a_t = prod_{j<=t} keep_j, A[t, s] = prod_{s<j<=t} keep_j and
u_t = beta_t (v_t - keep_t S_{t-1}^T k_t) the rule is S_t = keep_t S_{t-1} + k_t u_t^T, so from a chunk's start S

    (I + diag(beta) tril(A * K K^T, -1)) U = diag(beta) (V - diag(a) K S)
    Y = diag(a) Q S + tril(A * Q K^T) U            S <- a_c S + (diag(A[c]) K)^T U

(DeltaNet's chunk form: Yang et al., arXiv 2406.06484, section 3; with decay: arXiv 2412.06464, section 3.3). The
solutions for V and for K do not depend on S, so all chunks are solved at once and only the last line runs in order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.chunk_gates import products_within
from titanlab.memory_modules.kernels.state_scan import scan_states


def delta_chunks_flops(d: int, c: int) -> float:
    """Operations a token and head: K S, K^T U and Q S 2 d^2 each; K K^T, Q K^T, the solve and scores U 2 c d each."""
    return 6 * d * d + 8 * c * d


def delta_chunks(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Runs n equal chunks.

    Args:
        q, k: [n, g, c, key]; v: [n, g, c, value]; beta: [n, g, c].
        state: S [g, key, value].
        keep: [n, g, c], the decay before each write; None: 1.

    Returns:
        y [n, g, c, value] and S after the last chunk.
    """
    scores, overlaps, weighted = q @ k.mT, k @ k.mT, k * beta.unsqueeze(-1)
    read_q, read_k, writes, last = q, weighted, k, None
    if keep is not None:
        within = products_within(keep)
        from_start = (within[..., 0] * keep[..., :1]).unsqueeze(-1)
        scores, overlaps = scores * within, overlaps * within
        read_q, read_k = q * from_start, weighted * from_start
        writes, last = k * within[..., -1, :].unsqueeze(-1), from_start[..., -1:, :]
    system = (overlaps * beta.unsqueeze(-1)).tril(-1)
    right = torch.cat([v * beta.unsqueeze(-1), -read_k], -1)
    # unitriangular: the diagonal of ones is implied
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    offsets, reads = solved.split([v.shape[-1], k.shape[-1]], -1)
    u, starts, state = scan_states(state, writes=writes, offsets=offsets, reads=reads, last=last)
    return read_q @ starts + scores.tril() @ u, state
