"""Whole sequences of the matrix rules by Triton's kernels; the rules call this where their backend is triton.

The rules are exact for every chunk length, so chunks are as long as suits the kernels, whatever the caller's.
Only what runs on a GPU imports this, where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.chunk_gates import ChunkGates, chunk_gates
from titanlab.memory_modules.kernels.chunking import Piece, pieces
from titanlab.memory_modules.kernels.triton_chunk_gates import chunk_gates_on_gpu
from titanlab.memory_modules.kernels.triton_decayed_scores import decayed_on_gpu
from titanlab.memory_modules.kernels.triton_rules import channel_rule, products_of, scalar_rule
from titanlab.memory_modules.rules.checks import joined

CHUNK = 64


def scalar_sequence(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, momentum: Tensor | None, step: Tensor | None, state: Tensor,
    *, solve: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Linear attention, or with `solve` the delta rule, with momentum or not.

    Args:
        q, k: [b, t, h, key]; v: [b, t, h, value].
        keep, momentum, step: [b, t, h]; None: 1, off, 1. With momentum the error is that of the memory before the
            token, else of what is left of it at the token.
        state: [b h, p, key, value] float32, p = 2 with momentum.

    Returns:
        y [b, t, h, value] and the state after the last token.
    """
    q, k, v = _alike(q, k, v)

    def run(piece: Piece, state: Tensor) -> tuple[Tensor, Tensor]:
        queries, keys, values = (_part(x, piece) for x in (q, k, v))
        kept, carried, rate = (None if gate is None else _gate(gate, piece) for gate in (keep, momentum, step))
        if rate is None:
            rate = torch.ones(state.shape[0], piece.chunks, piece.size, device=state.device)
        gates = _gates(kept, carried, rate, q.dtype, solve)
        return scalar_rule(queries, keys, values, gates, state, solve=solve, shift=momentum is not None)

    return _in_pieces(run, q, v, state)


def decaying_sequence(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Linear attention with a decay for every key channel, log_decay [b, t, h, key]; the rest as scalar_sequence."""
    q, k, v = _alike(q, k, v)

    def run(piece: Piece, state: Tensor) -> tuple[Tensor, Tensor]:
        decay, queries, keys = (_part(x, piece) for x in (log_decay.float(), q, k))
        made = decayed_on_gpu(decay, (queries,), (keys,), piece.chunks)
        values = _own(_part(v, piece), piece)
        y, state = channel_rule(made.asks[0], made.writes[0], values, made.scores[0][0], made.last, state)
        return _back(y, q), state

    return _in_pieces(run, q, v, state)


def rwkv7_sequence(rows: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
    """RWKV-7's rule for r, log_w, k, v, a, b as `rwkv7` takes them; see rwkv7_chunks for the equations."""
    r, log_w, k, v, a, b = rows
    r, k, v, a, b = _alike(r, k, v, a, b)

    def run(piece: Piece, state: Tensor) -> tuple[Tensor, Tensor]:
        decay, asking, keys, removing, moving = (_part(x, piece) for x in (log_w.float(), r, k, a, b))
        made = decayed_on_gpu(decay, (asking, removing), (keys, moving), piece.chunks)
        (read_k, read_b), (removed_k, removed_b) = made.scores
        values = _own(_part(v, piece), piece).float()
        y, state = channel_rule(
            made.asks[0], made.writes[1], removed_k.float() @ values, read_b, made.last, state,
            before=made.asks[1], system=removed_b, added=made.writes[0].float().mT @ values,
        )  # fmt: skip
        return _back(y + read_k.float() @ values, r).to(r.dtype), state

    return _in_pieces(run, r, v, state)


def _in_pieces(
    run: Callable[[Piece, Tensor], tuple[Tensor, Tensor]], q: Tensor, v: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = []
    for piece in pieces(0, q.shape[1], CHUNK):
        y, state = run(piece, state)
        outputs.append(y)
    return outputs[0] if len(outputs) == 1 else joined(outputs, v, q.dtype), state


def _gates(keep: Tensor | None, momentum: Tensor | None, step: Tensor, dtype: torch.dtype, solve: bool) -> ChunkGates:
    """`chunk_gates` as exact as inputs of this type ask for; what is solved is held in float32."""
    if dtype == torch.float32:
        return chunk_gates(keep, momentum, step)
    return chunk_gates_on_gpu(keep, momentum, step, torch.float32 if solve else products_of(dtype))


def _alike(*rows: Tensor) -> tuple[Tensor, ...]:
    """All in the first one's type, which is that of the answers too."""
    return tuple(x.to(rows[0].dtype) for x in rows)


def _part(x: Tensor, piece: Piece) -> Tensor:
    return x[:, piece.start : piece.start + piece.chunks * piece.size]


def _gate(gate: Tensor, piece: Piece) -> Tensor:
    """[b, t, h] -> the piece's [b h, n, c] in float32."""
    return _part(gate, piece).float().movedim(2, 1).unflatten(2, (piece.chunks, piece.size)).flatten(0, 1).contiguous()


def _own(x: Tensor, piece: Piece) -> Tensor:
    """[b, n c, h, d] -> [b h, n, c, d]."""
    return x.movedim(2, 1).unflatten(2, (piece.chunks, piece.size)).flatten(0, 1).contiguous()


def _back(y: Tensor, like: Tensor) -> Tensor:
    """[b h, n, c, d] -> [b, n c, h, d]."""
    return y.flatten(1, 2).unflatten(0, (like.shape[0], like.shape[2])).movedim(1, 2)
