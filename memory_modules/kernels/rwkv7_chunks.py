"""RWKV-7's rule over chunks, exact per token: what is removed solves a unit lower triangular system.

With p_t = S_{t-1}^T a_t the rule is S_t = diag(w_t) S_{t-1} + b_t p_t^T + k_t v_t^T. Let W_t = prod_{j<=t} w_j and
write X : K for the scores sum_d X[t, d] K[s, d] prod_{s<j<=t} w_j[d] of tokens s <= t. From a chunk's start S

    (I - (a : b)) P = (a * W) S + (a : k) V                       a's decays and scores end one token earlier, at t - 1
    Y = (r * W) S + (r : k) V + (r : b) P
    S <- W_c S + (k decayed to the end)^T V + (b decayed to the end)^T P
"""

from __future__ import annotations

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.channel_decay import (
    SUB_CHUNK,
    decayed_scores,
    decayed_scores_flops,
    decays_from_start,
    decays_to_end,
)
from titanlab.memory_modules.kernels.state_scan import scan_states


def rwkv7_chunks_flops(d: int, c: int) -> float:
    """Operations a token and head: a S, b^T P, k^T V and r S 2 d^2 each; the four scores d (c + 1) each; three of them
    times V or P and the solve 2 c d each. Chunks are of at most SUB_CHUNK."""
    c = min(c, SUB_CHUNK)
    return 8 * d * d + 8 * c * d + decayed_scores_flops(d, c, pairs=4)


def rwkv7_chunks(rows: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
    """Runs n equal chunks.

    Args:
        rows: r, log_w, k, v, a, b; each [n, g, c, key], but v [n, g, c, value].
        state: S [g, key, value].

    Returns:
        y [n, g, c, value] and S after the last chunk.
    """
    r, log_w, k, v, a, b = rows
    # a_t reads S_{t-1}: put it at row t - 1, where the decays are those that S_{t-1} has seen.
    early = torch.cat([a[..., 1:, :], torch.zeros_like(a[..., :1, :])], -2)
    scores = decayed_scores(torch.stack([r, early], -3), torch.stack([k, b], -3), log_w)
    read_k, read_b = scores[..., 0, 0, :, :], scores[..., 0, 1, :, :]
    removed_k, removed_b = _later(scores[..., 1, 0, :, :]), _later(scores[..., 1, 1, :, :])
    from_start, to_end = decays_from_start(log_w), decays_to_end(log_w)
    before = torch.cat([torch.ones_like(from_start[..., :1, :]), from_start[..., :-1, :]], -2)
    right = torch.cat([removed_k @ v, a * before], -1)
    solved = torch.linalg.solve_triangular(-removed_b, right, upper=False, unitriangular=True)
    offsets, reads = solved.split([v.shape[-1], k.shape[-1]], -1)
    p, starts, state = scan_states(
        state,
        writes=b * to_end,
        offsets=offsets,
        reads=reads,
        last=from_start[..., -1, :].unsqueeze(-1),
        added=(k * to_end).mT @ v,
    )
    return (r * from_start) @ starts + read_k @ v + read_b @ p, state


def _later(scores: Tensor) -> Tensor:
    """Every row one token later; the first token reads nothing of its chunk."""
    return torch.cat([torch.zeros_like(scores[..., :1, :]), scores[..., :-1, :]], -2)
