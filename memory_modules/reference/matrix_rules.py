"""The matrix memories token by token: a loop over time for every rule, as its paper prints it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from titanlab.memory_modules.reference.deep_memory import gate_for_matrix
from titanlab.platform.tensors import Gate, PerHead

Matrix = Float[Tensor, "b h key value"]


def delta_rule_by_token(
    q: PerHead, k: PerHead, v: PerHead, beta: Gate, *, initial: Matrix | None = None
) -> tuple[PerHead, Matrix]:
    """The delta rule (arXiv 2102.11174, section 4.2; DeltaNet, arXiv 2406.06484, section 2.2).

    The papers' state is [value, key]; this one is transposed.

        S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T
        y_t = S_t^T q_t

    Args:
        q, k: [b, t, h, key].
        v: [b, t, h, value].
        beta: [b, t, h].
        initial: S_0, zero when None.

    Returns:
        y [b, t, h, value] and S_T [b, h, key, value].
    """
    batch, time, heads, key = k.shape
    state = v.new_zeros(batch, heads, key, v.shape[-1]) if initial is None else initial
    outputs = []
    for t in range(time):
        error = v[:, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, t])
        state = state + gate_for_matrix(beta[:, t]) * torch.einsum("bhk,bhv->bhkv", k[:, t], error)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(outputs, dim=1), state


def linear_attention_by_token(
    q: PerHead, k: PerHead, v: PerHead, log_decay: Gate | PerHead | None = None, *, initial: Matrix | None = None
) -> tuple[PerHead, Matrix]:
    """Linear attention (arXiv 2006.16236, eq. 18-20), with decay as in GLA (arXiv 2312.06635, eq. 3).

        S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_t^T
        y_t = S_t^T q_t

    Args:
        q, k: [b, t, h, key].
        v: [b, t, h, value].
        log_decay: [b, t, h], [b, t, h, key], or None for 0.
        initial: S_0, zero when None.

    Returns:
        y [b, t, h, value] and S_T [b, h, key, value].
    """
    state, outputs = _start(k, v, initial), []
    for t in range(k.shape[1]):
        if log_decay is not None:
            decay = log_decay[:, t].exp()
            state = (decay.unsqueeze(-1) if log_decay.ndim == 4 else gate_for_matrix(decay)) * state
        state = state + _outer(k[:, t], v[:, t])
        outputs.append(_read(state, q[:, t]))
    return torch.stack(outputs, dim=1), state


def gated_delta_rule_by_token(
    q: PerHead, k: PerHead, v: PerHead, log_decay: Gate, beta: Gate, *, initial: Matrix | None = None
) -> tuple[PerHead, Matrix]:
    """Gated DeltaNet (arXiv 2412.06464, eq. 10): decay first, then the delta rule.

        S' = exp(log_decay_t) S_{t-1}
        S_t = S' + beta_t k_t (v_t - S'^T k_t)^T
        y_t = S_t^T q_t

    Args and returns are those of `delta_rule_by_token`, with log_decay [b, t, h].
    """
    state, outputs = _start(k, v, initial), []
    for t in range(k.shape[1]):
        decayed = gate_for_matrix(log_decay[:, t].exp()) * state
        error = v[:, t] - _read(decayed, k[:, t])
        state = decayed + gate_for_matrix(beta[:, t]) * _outer(k[:, t], error)
        outputs.append(_read(state, q[:, t]))
    return torch.stack(outputs, dim=1), state


def momentum_delta_rule_by_token(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    keep: Gate,
    momentum: Gate,
    step: Gate,
    *,
    initial: tuple[Matrix, Matrix] | None = None,
) -> tuple[PerHead, tuple[Matrix, Matrix]]:
    """Titans (arXiv 2501.00663, eq. 13-14) for a matrix memory, the gradient taken at the memory before the token.

        P_t = momentum_t P_{t-1} - step_t k_t (S_{t-1}^T k_t - v_t)^T
        S_t = keep_t S_{t-1} + P_t
        y_t = S_t^T q_t

    Args:
        q, k: [b, t, h, key].
        v: [b, t, h, value].
        keep, momentum, step: [b, t, h].
        initial: (S_0, P_0), zero when None.

    Returns:
        y [b, t, h, value] and (S_T, P_T), each [b, h, key, value].
    """
    state, surprise = initial or (_start(k, v, None), _start(k, v, None))
    outputs = []
    for t in range(k.shape[1]):
        error = _read(state, k[:, t]) - v[:, t]
        surprise = gate_for_matrix(momentum[:, t]) * surprise - gate_for_matrix(step[:, t]) * _outer(k[:, t], error)
        state = gate_for_matrix(keep[:, t]) * state + surprise
        outputs.append(_read(state, q[:, t]))
    return torch.stack(outputs, dim=1), (state, surprise)


def rwkv7_by_token(
    r: PerHead, log_w: PerHead, k: PerHead, v: PerHead, a: PerHead, b: PerHead, *, initial: Matrix | None = None
) -> tuple[PerHead, Matrix]:
    """RWKV-7 (arXiv 2503.14456, section 4), the paper's state transposed.

        S_t = (diag(exp(log_w_t)) + b_t a_t^T) S_{t-1} + k_t v_t^T
        y_t = S_t^T r_t

    Args:
        r, log_w, k, a, b: [b, t, h, key].
        v: [b, t, h, value].
        initial: S_0, zero when None.

    Returns:
        y [b, t, h, value] and S_T [b, h, key, value].
    """
    state, outputs = _start(k, v, initial), []
    for t in range(k.shape[1]):
        transition = torch.diag_embed(log_w[:, t].exp()) + _outer(b[:, t], a[:, t])
        state = transition @ state + _outer(k[:, t], v[:, t])
        outputs.append(_read(state, r[:, t]))
    return torch.stack(outputs, dim=1), state


def _start(k: PerHead, v: PerHead, initial: Matrix | None) -> Matrix:
    batch, _, heads, key = k.shape
    return v.new_zeros(batch, heads, key, v.shape[-1]) if initial is None else initial


def _read(state: Matrix, x: Float[Tensor, "b h key"]) -> Float[Tensor, "b h value"]:
    """S^T x."""
    return torch.einsum("bhkv,bhk->bhv", state, x)


def _outer(x: Float[Tensor, "b h key"], y: Float[Tensor, "b h value"]) -> Matrix:
    """x y^T."""
    return torch.einsum("bhk,bhv->bhkv", x, y)
