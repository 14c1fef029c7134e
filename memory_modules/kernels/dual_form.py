"""The chunkwise dual form of a deep memory, forward and gradient: matrix products only, no weight per token.

All gradients of a chunk are taken at one reference memory R (the memory at the chunk's start), so the memory a token
reads is R's descendant by a sum of outer products that are never added up (Titans, arXiv 2501.00663, section 3.2;
exact for any depth). Row vectors; f is the activation, X_0 = K, Q_0 = Q, and for layers l = 1..L:

    keys      Z_l = X_{l-1} R_l      X_l = f(Z_l)      D_L = M(K) - V      D_l = (D_{l+1} R_{l+1}^T) * f'(Z_l)
    queries   Z'_l = (read Q_{l-1}) W_l - (inner * (Q_{l-1} X_{l-1}^T)) D_l      Q_l = f(Z'_l)      y = Z'_L (+ Q)
    state     W_l <- mix W_l - (write X_{l-1})^T D_l

Here W_l stands for the p parts of the state (memory, and momentum if there is one) stacked on each other, and
`read Q` for each part's share of Q side by side, so that both parts go through one product: see chunk_gates.

Leading axis n: chunks in order; then g = batch x heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titanlab.memory_modules.activations import ACTIVATIONS, Activation
from titanlab.memory_modules.kernels.chunk_gates import ChunkGates, chunk_gates_flops
from titanlab.platform.first_order import first_order


def dual_form_flops(widths: Sequence[int], c: int, *, momentum: bool) -> float:
    """Operations a token and head of an MLP of these widths, the first and the last d; p parts of state.

    A matrix of in x out weights: 2 (1 + 2 p + p^2 / c) in out (keys; queries and writes of every part; the mix of the
    parts) and 2 c (in + out) (scores, and scores times errors); every matrix but the first 2 in out more (errors back).
    """
    p = 2 if momentum else 1
    matrices = list(zip(widths[:-1], widths[1:], strict=True))
    weights = sum(before * after for before, after in matrices)
    scores = sum(before + after for before, after in matrices)
    back = weights - matrices[0][0] * matrices[0][1]
    gates = chunk_gates_flops(c) if momentum else 0
    return 2 * (1 + 2 * p + p * p / c) * weights + 2 * c * scores + 2 * back + gates


def dual_form(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: ChunkGates,
    reference: Sequence[Tensor],
    state: Sequence[Tensor],
    activation: str,
    residual: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Runs n equal chunks one after another.

    Args:
        q, k, v: [n, g, c, d].
        gates: leading axes [n, g].
        reference: L matrices [g, in, out] at which the first chunk takes its gradients; every later chunk takes them
            at the memory as that chunk finds it.
        state: L tensors [g, p, in, out]: the memory and, if p = 2, the momentum.
        activation: a name in ACTIVATIONS.
        residual: whether M(x) = x + MLP(x).

    Returns:
        y [n, g, c, d] and the state after the last chunk.
    """
    y, *after = _DualForm.apply(activation, residual, len(state), q, k, v, *gates, *reference, *state)
    return y, after


class _Chunk(NamedTuple):
    """What one chunk computed on its way forward; lists run over layers."""

    keys: list[Tensor]  # X_0 .. X_{L-1}
    key_slopes: list[Tensor]  # f'(Z_1) .. f'(Z_{L-1})
    key_curvatures: list[Tensor]  # f''(Z_1) .. f''(Z_{L-1}), only where a gradient will be taken
    back: list[Tensor]  # D_{l+1} R_{l+1}^T for l = 1 .. L-1
    errors: list[Tensor]  # D_1 .. D_L
    queries: list[Tensor]  # Q_0 .. Q_{L-1}
    query_slopes: list[Tensor]  # f'(Z'_1) .. f'(Z'_{L-1}), only where a gradient will be taken
    overlaps: list[Tensor]  # Q_{l-1} X_{l-1}^T


def _forward_chunk(
    q: Tensor, k: Tensor, v: Tensor, gates: ChunkGates, reference: Sequence[Tensor], state: Sequence[Tensor],
    f: Activation, residual: bool, gradient: bool,
) -> tuple[Tensor, _Chunk]:  # fmt: skip
    chunk = _Chunk([k], [], [], [], [], [q], [], [])
    _run_keys(chunk, v, reference, f, residual, gradient)
    y = q
    for layer, parts in enumerate(state):
        if layer:
            value, *slope = f(y, int(gradient))
            chunk.queries.append(value)
            chunk.query_slopes.extend(slope)
        overlap = torch.bmm(chunk.queries[-1], chunk.keys[layer].mT)
        chunk.overlaps.append(overlap)
        y = torch.bmm(_spread(gates.read, chunk.queries[-1]), parts.flatten(1, 2))
        y.baddbmm_(overlap * gates.inner, chunk.errors[layer], alpha=-1)
    return (y + q if residual else y), chunk


def _run_keys(
    chunk: _Chunk, v: Tensor, reference: Sequence[Tensor], f: Activation, residual: bool, gradient: bool
) -> None:
    """The keys' pass: X forward, then D backward."""
    for matrix in reference[:-1]:
        value, slope, *curvature = f(torch.bmm(chunk.keys[-1], matrix), 1 + gradient)
        chunk.keys.append(value)
        chunk.key_slopes.append(slope)
        chunk.key_curvatures.extend(curvature)
    error = torch.baddbmm(v, chunk.keys[-1], reference[-1], beta=-1)
    chunk.errors.append(error.add_(chunk.keys[0]) if residual else error)
    for matrix, slope in zip(reversed(reference[1:]), reversed(chunk.key_slopes), strict=True):
        chunk.back.insert(0, torch.bmm(chunk.errors[0], matrix.mT))
        chunk.errors.insert(0, chunk.back[0] * slope)


def _next_state(chunk: _Chunk, gates: ChunkGates, state: Sequence[Tensor]) -> list[Tensor]:
    """mix W - (write X)^T D for every layer."""
    after = []
    for x, d, parts in zip(chunk.keys, chunk.errors, state, strict=True):
        mixed = torch.bmm(gates.mix, parts.flatten(2)).view_as(parts)
        mixed.flatten(1, 2).baddbmm_(_spread(gates.write, x).mT, d, alpha=-1)
        after.append(mixed)
    return after


def _spread(weights: Tensor, x: Tensor) -> Tensor:
    """Each token's vector once a part, weighted, side by side: [g, c, p], [g, c, d] -> [g, c, p * d]."""
    return (weights.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)


def _gather(weights: Tensor, spread: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `_spread`'s x and weights from the gradient of its result."""
    parts = spread.unflatten(-1, (weights.shape[-1], -1))
    return (weights.unsqueeze(-1) * parts).sum(-2), (parts * x.unsqueeze(-2)).sum(-1)


KEEP_BYTES = 64 << 20
"""Up to here the forward pass keeps what its chunks computed; beyond, only the state at each chunk's start is kept and
the gradient computes the rest again: a third more arithmetic, memory for n states instead of n * c tokens."""


class _DualForm(torch.autograd.Function):
    """The loop over chunks; see `dual_form`."""

    @staticmethod
    def forward(ctx: Any, activation: str, residual: bool, layers: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        q, k, v, read, inner, write, mix, *matrices = tensors
        f, reference, state = ACTIVATIONS[activation], matrices[:layers], matrices[layers:]
        starts, y = [], torch.empty_like(q)
        per_token = sum(5 * matrix.shape[-1] + q.shape[2] for matrix in matrices[:layers])
        gradient = any(ctx.needs_input_grad)
        keep = gradient and q[..., 0].numel() * per_token * q.element_size() <= KEEP_BYTES
        ctx.chunks = []
        for i in range(q.shape[0]):
            gates = ChunkGates(read[i], inner[i], write[i], mix[i])
            starts += state
            y[i], chunk = _forward_chunk(q[i], k[i], v[i], gates, reference, state, f, residual, keep)
            if keep:
                ctx.chunks.append(chunk)
            state = _next_state(chunk, gates, state)
            reference = [parts[:, 0] for parts in state]
        ctx.save_for_backward(*tensors[:7], *matrices[:layers], *starts)
        ctx.activation, ctx.residual, ctx.layers = f, residual, layers
        return y, *state

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor, *d_after: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(d_y.device.type, enabled=False):
            return None, None, None, *_gradient(ctx, d_y, d_after)


def _gradient(ctx: Any, d_y: Tensor, d_after: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of all tensors that `dual_form` was given, chunk by chunk from the last."""
    q, k, v, read, inner, write, mix, *rest = ctx.saved_tensors
    first_reference, starts, layers = rest[: ctx.layers], rest[ctx.layers :], ctx.layers
    d_inputs = [torch.empty_like(tensor) for tensor in (q, k, v, read, inner, write, mix)]
    d_state = list(d_after)
    d_reference: list[Tensor] = []
    for i in reversed(range(q.shape[0])):
        gates = ChunkGates(read[i], inner[i], write[i], mix[i])
        state = starts[i * layers : (i + 1) * layers]
        reference = [parts[:, 0] for parts in state] if i else first_reference
        if ctx.chunks:
            chunk = ctx.chunks[i]
        else:
            _, chunk = _forward_chunk(
                q[i], k[i], v[i], gates, reference, state, ctx.activation, ctx.residual, gradient=True
            )
        backward = _ChunkGradient(chunk, gates, reference, state, ctx.residual)
        d_chunk, d_reference, d_state = backward.run(d_y[i], d_state)
        for d_input, d_value in zip(d_inputs, d_chunk, strict=True):
            d_input[i] = d_value
        if i:
            for d_parts, d_matrix in zip(d_state, d_reference, strict=True):
                d_parts[:, 0] += d_matrix
    return [*d_inputs, *d_reference, *d_state]


class _ChunkGradient:
    """The gradient of one chunk: the state's and the queries' pass backwards, then the keys' pass."""

    def __init__(
        self, chunk: _Chunk, gates: ChunkGates, reference: Sequence[Tensor], state: Sequence[Tensor], residual: bool
    ) -> None:
        self.chunk, self.gates, self.reference, self.state = chunk, gates, reference, state
        self.residual = residual

    def run(self, d_y: Tensor, d_after: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Gradients of (q, k, v, read, inner, write, mix), of the reference and of the state before the chunk."""
        d_keys, d_errors, d_state, d_write, d_mix = self._through_state(d_after)
        d_q, d_read, d_inner = self._through_queries(d_y, d_keys, d_errors, d_state)
        d_k, d_v, d_reference = self._through_keys(d_keys, d_errors)
        return [d_q, d_k, d_v, d_read, d_inner, d_write, d_mix], d_reference, d_state

    def _through_state(
        self, d_after: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
        gates, d_keys, d_errors, d_state = self.gates, [], [], []
        d_write, d_mix = torch.zeros_like(gates.write), torch.zeros_like(gates.mix)
        for x, d, parts, d_parts in zip(self.chunk.keys, self.chunk.errors, self.state, d_after, strict=True):
            stacked = d_parts.flatten(1, 2)
            d_x, d_weights = _gather(gates.write, torch.bmm(d, stacked.mT).neg_(), x)
            d_keys.append(d_x)
            d_errors.append(torch.bmm(_spread(gates.write, x), stacked).neg_())
            d_write += d_weights
            d_mix.baddbmm_(d_parts.flatten(2), parts.flatten(2).mT)
            d_state.append(torch.bmm(gates.mix.mT, d_parts.flatten(2)).view_as(parts))
        return d_keys, d_errors, d_state, d_write, d_mix

    def _through_queries(
        self, d_y: Tensor, d_keys: list[Tensor], d_errors: list[Tensor], d_state: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        chunk, gates, d_z = self.chunk, self.gates, d_y
        d_read, d_inner = torch.zeros_like(gates.read), torch.zeros_like(gates.inner)
        for layer in reversed(range(len(self.state))):
            query, x, overlap = chunk.queries[layer], chunk.keys[layer], chunk.overlaps[layer]
            d_errors[layer].baddbmm_((overlap * gates.inner).mT, d_z, alpha=-1)
            d_scores = torch.bmm(d_z, chunk.errors[layer].mT).neg_()
            d_inner.addcmul_(d_scores, overlap)
            d_overlap = d_scores.mul_(gates.inner)
            d_keys[layer].baddbmm_(d_overlap.mT, query)
            stacked = self.state[layer].flatten(1, 2)
            d_state[layer].flatten(1, 2).baddbmm_(_spread(gates.read, query).mT, d_z)
            d_query, d_weights = _gather(gates.read, torch.bmm(d_z, stacked.mT), query)
            d_read += d_weights
            d_query.baddbmm_(d_overlap, x)
            if layer:
                d_z = d_query * chunk.query_slopes[layer - 1]
        return (d_query + d_y if self.residual else d_query), d_read, d_inner

    def _through_keys(self, d_keys: list[Tensor], d_errors: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        chunk, reference, layers = self.chunk, self.reference, len(self.state)
        d_reference = [torch.zeros_like(matrix) for matrix in reference]
        d_sums = []  # of Z_l through f'(Z_l): the second derivative
        for layer in range(layers - 1):
            matrix = reference[layer + 1]
            d_sums.append((chunk.key_curvatures[layer] * chunk.back[layer]).mul_(d_errors[layer]))
            d_back = d_errors[layer] * chunk.key_slopes[layer]
            d_errors[layer + 1].baddbmm_(d_back, matrix)
            d_reference[layer + 1].baddbmm_(d_back.mT, chunk.errors[layer + 1])
        d_error = d_errors[-1]
        d_z = d_error
        for layer in reversed(range(layers)):
            d_reference[layer].baddbmm_(chunk.keys[layer].mT, d_z)
            d_keys[layer].baddbmm_(d_z, reference[layer].mT)
            if layer:
                d_z = (d_keys[layer] * chunk.key_slopes[layer - 1]).add_(d_sums[layer - 1])
        return (d_keys[0] + d_error if self.residual else d_keys[0]), -d_error, d_reference
