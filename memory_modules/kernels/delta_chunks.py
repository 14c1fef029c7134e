"""The delta rule over chunks, exact per token: inside a chunk the writes solve a unit lower triangular system.

With u_t = beta_t (v_t - S_{t-1}^T k_t) the rule is S_t = S_{t-1} + k_t u_t^T, so from a chunk's start S

    (I + diag(beta) tril(K K^T, -1)) U = diag(beta) (V - K S)
    Y = Q S + tril(Q K^T) U            S <- S + K^T U

(DeltaNet's chunk form: Yang et al., arXiv 2406.06484, section 3). The solutions for V and for K do not depend on S, so
all chunks are solved at once and only the last line runs in order.
"""

from __future__ import annotations

import torch
from torch import Tensor


def delta_chunks(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Runs n equal chunks.

    Args:
        q, k: [n, g, c, key]; v: [n, g, c, value]; beta: [n, g, c].
        state: S [g, key, value].

    Returns:
        y [n, g, c, value] and S after the last chunk.
    """
    weighted = k * beta.unsqueeze(-1)
    system = (weighted @ k.mT).tril(-1)
    right = torch.cat([v * beta.unsqueeze(-1), weighted], -1)
    # unitriangular: the diagonal of ones is implied
    writes, reads = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True).split(
        [v.shape[-1], k.shape[-1]], -1
    )
    scores, outputs = (q @ k.mT).tril(), []
    for i in range(q.shape[0]):
        u = torch.baddbmm(writes[i], reads[i], state, alpha=-1)
        outputs.append(torch.baddbmm(torch.bmm(q[i], state), scores[i], u))
        state = torch.baddbmm(state, k[i].mT, u)
    return torch.stack(outputs), state
