"""The delta rule with momentum and decay over chunks, exact per token, by one triangular solve a chunk.

With the errors e_t = S_{t-1}^T k_t - v_t the pair (S, P) is linear in what a chunk starts from and in the e_t
(chunk_gates has a, gamma and C):

    S_t = a_t S + gamma_t P - sum_{i<=t} C[t, i] k_i e_i^T

so the errors of a chunk, each read one token earlier, solve the unit lower triangular system

    e_t + sum_{i<t} C[t-1, i] (k_t . k_i) e_i = (a_{t-1} S + gamma_{t-1} P)^T k_t - v_t

C is a product of matrices of products, never a quotient or a difference, so momentum may be anything from 0 on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.chunk_gates import ChunkGates, chunk_gates_flops


def momentum_delta_chunks_flops(d: int, c: int) -> float:
    """Operations a token and head, S and P side by side.

    Errors, writes and reads 4 d^2 each and the mix of S and P 8 d^2 a chunk; K K^T, Q K^T and scores E 2 c d each and
    the solve of 3 d columns 3 c d.
    """
    return 12 * d * d + 8 * d * d / c + 9 * c * d + chunk_gates_flops(c)


def momentum_delta_chunks(q: Tensor, k: Tensor, v: Tensor, gates: ChunkGates, state: Tensor) -> tuple[Tensor, Tensor]:
    """Runs n equal chunks.

    Args:
        q, k: [n, g, c, key]; v: [n, g, c, value].
        gates: of chunks with momentum (p = 2), leading axes [n, g].
        state: S and P, [g, 2, key, value].

    Returns:
        y [n, g, c, value] and the state after the last chunk.
    """
    system = _later(gates.inner) * (k @ k.mT)  # strictly lower: row t holds i <= t - 1
    # the first token reads S itself
    first = torch.zeros_like(gates.read[..., :1, :])
    first[..., 0] = 1
    reads_k = _spread(torch.cat([first, gates.read[..., :-1, :]], -2), k)
    solved = torch.linalg.solve_triangular(system, torch.cat([-v, reads_k], -1), upper=False, unitriangular=True)
    offsets, reads = solved.split([v.shape[-1], reads_k.shape[-1]], -1)
    writes, starts, errors = _spread(gates.write, k), [], []
    for i in range(q.shape[0]):
        rows = state.flatten(1, 2)
        error = torch.baddbmm(offsets[i], reads[i], rows)
        starts.append(rows)
        errors.append(error)
        mixed = torch.bmm(gates.mix[i], state.flatten(2)).view_as(rows)
        state = torch.baddbmm(mixed, writes[i].mT, error, alpha=-1).view_as(state)
    scores = gates.inner * (q @ k.mT)
    return _spread(gates.read, q) @ torch.stack(starts) - scores @ torch.stack(errors), state


def _later(rows: Tensor) -> Tensor:
    """Every row one token later, the first one 0."""
    return torch.cat([torch.zeros_like(rows[..., :1, :]), rows[..., :-1, :]], -2)


def _spread(weights: Tensor, x: Tensor) -> Tensor:
    """Each token's vector once a part, weighted, side by side: [..., c, p], [..., c, d] -> [..., c, p * d]."""
    return (weights.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
