"""`deep_memory`: an MLP that learns at test time (Titans), with momentum and forgetting, in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titanlab.memory_modules.activations import ACTIVATIONS
from titanlab.memory_modules.kernels.backends import chosen_backend
from titanlab.memory_modules.kernels.chunk_gates import chunk_gates
from titanlab.memory_modules.kernels.chunking import Piece, from_chunks, pieces, to_chunks
from titanlab.memory_modules.kernels.dual_form import dual_form
from titanlab.memory_modules.rules.checks import check_position, check_sequence, joined, shape_of
from titanlab.platform.debugging import refuse_nonfinite
from titanlab.platform.errors import unknown_name
from titanlab.platform.fused_kernels.choice import kernels_take
from titanlab.platform.recomputation import computed_again
from titanlab.platform.tensors import Gate, PerHead, at_least_float32


class DeepMemoryState(NamedTuple):
    """A deep memory between two tokens; every tensor has the batch as its first axis."""

    weights: tuple[Tensor, ...]
    """The L matrices as they stand, [b, h, in, out]."""
    momentum: tuple[Tensor, ...]
    """The L matrices of past surprise, [b, h, in, out]; empty when momentum is off."""
    reference: tuple[Tensor, ...]
    """The L matrices as they stood at the start of the chunk that is under way; gradients are taken there."""
    position: Tensor
    """[b], int64 on the CPU: tokens of the chunk under way that were seen; 0 at a chunk's start."""


def deep_memory(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    keep: Gate | None,
    momentum: Gate | None,
    step: Gate,
    weights: Sequence[Tensor],
    *,
    chunk_size: int,
    residual: bool = False,
    activation: str = "gelu",
    state: DeepMemoryState | None = None,
    backend: str = "auto",
) -> tuple[PerHead, DeepMemoryState]:
    """Titans' long-term memory: an MLP that learns k -> v by gradient descent with momentum and forgetting.

        S_t = momentum_t S_{t-1} - step_t grad l(M_ref; k_t, v_t)        l = 1/2 ||M(k) - v||^2
        M_t = keep_t M_{t-1} + S_t                                       y_t = M_t(q_t)

    Titans (arXiv 2501.00663), eq. 8-18, in the chunkwise form of section 3.2: M_ref is the memory at the start of the
    token's chunk, so chunk_size = 1 is the exact recurrence. The paper writes alpha for 1 - keep, eta for momentum and
    theta for step. No weight per token is formed: see kernels/dual_form.py.

    Args:
        q, k, v: [b, t, h, d], any floating type; the state is kept in float32 or better.
        keep: [b, t, h] in (0, 1], the fraction of the memory kept; None: 1.
        momentum: [b, t, h] in [0, 1), the fraction of past surprise kept; None: off.
        step: [b, t, h] > 0, the inner learning rate.
        weights: L >= 1 matrices [h, in, out] of the memory before the first token, first in = last out = d.
            With a `state` only their shapes are read.
        chunk_size: tokens that share one reference memory.
        residual: M(x) = x + MLP(x).
        activation: gelu (tanh form) | silu | relu | tanh, between the matrices.
        state: what an earlier call returned; a sequence cut anywhere gives the same as one call.
        backend: auto | torch | triton, of which auto takes Triton's kernels for CUDA tensors where they can compute
            the call: one to four matrices (up to 512 hidden units), head dimension 16 to 128, chunk_size up to 64, no
            float64, compute capability 9.0.

    Returns:
        y [b, t, h, d] in q's type, and the state after the last token.

    Raises:
        ValueError: naming the argument, its shape and what was expected.
    """
    check_sequence(q, k, v, {"keep": keep, "momentum": momentum, "step": step}, chunk_size)
    if v.shape != k.shape:
        raise ValueError(f"v: has shape {shape_of(v)}; expected {shape_of(k)}, that of k")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: {unknown_name('activation', activation, ACTIVATIONS)}")
    dtype = at_least_float32(q.dtype)
    _check_weights(weights, q)
    backend = chosen_backend(backend, (q, k, v), weights, chunk_size)
    if state is None:
        state = initial_deep_memory(weights, q.shape[0], momentum is not None, dtype)
    _check_state(state, q, weights, momentum is not None, chunk_size)
    refuse_nonfinite({"weights": weights, "state": state})
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        for piece in pieces(int(state.position[0]), q.shape[1], chunk_size):
            kept, carried = (None if gate is None else to_chunks(gate.to(dtype), piece) for gate in (keep, momentum))
            rates = to_chunks(step.to(dtype), piece)
            if backend == "triton" and _for_kernels(piece, state, chunk_size):
                y, parts = _by_kernels(q, k, v, (kept, carried, rates), piece, state, activation, residual)
            else:
                queries, keys, values = (to_chunks(x.to(dtype), piece) for x in (q, k, v))
                reference = [_grouped(matrix) for matrix in state.reference]
                gates = chunk_gates(kept, carried, rates)
                y, wholes = dual_form(queries, keys, values, gates, reference, _stacked(state), activation, residual)
                y, parts = from_chunks(y, q.shape[0]), _cut(wholes)
            outputs.append(y)
            state = _advanced(state, parts, piece, chunk_size)
    return joined(outputs, q, q.dtype), state


def initial_deep_memory(
    weights: Sequence[Tensor], batch: int, momentum: bool, dtype: torch.dtype | None = None
) -> DeepMemoryState:
    """The state before the first token: every sequence starts from `weights` [h, in, out], with no surprise yet."""
    dtype = dtype or at_least_float32(weights[0].dtype)
    expanded = tuple(matrix.to(dtype).expand(batch, *matrix.shape) for matrix in weights)
    surprise = tuple(torch.zeros_like(matrix) for matrix in expanded) if momentum else ()
    return DeepMemoryState(expanded, surprise, expanded, torch.zeros(batch, dtype=torch.int64, device="cpu"))


def read_deep_memory(
    q: PerHead, state: DeepMemoryState, *, residual: bool = False, activation: str = "gelu", backend: str = "auto"
) -> PerHead:
    """M(q) [b, t, h, d] with the memory as it stands, writing nothing; products in q's type.

    backend torch leaves kernels aside; any other takes the one for reads where it can.
    """
    if backend != "torch" and len(state.weights) == 2 and kernels_take(q, *state.weights):
        from titanlab.memory_modules.kernels.triton_deep_read import deep_read, fits

        if fits(q, *state.weights):
            return deep_read(q, *state.weights, activation, residual)
    return _read(residual, activation, q, *state.weights)


@computed_again
def _read(residual: bool, activation: str, q: Tensor, *weights: Tensor) -> Tensor:
    x = q.movedim(1, 2)
    y = x
    with torch.autocast(q.device.type, enabled=False):
        for layer, matrix in enumerate(weights):
            y = (ACTIVATIONS[activation](y, 0)[0] if layer else y) @ matrix.to(q.dtype)
    return (x + y if residual else y).movedim(2, 1).to(q.dtype)


def _for_kernels(piece: Piece, state: DeepMemoryState, chunk_size: int) -> bool:
    """The kernels of several matrices run whole chunks; what is cut off at a sequence's ends is left to torch."""
    return len(state.weights) == 1 or (piece.size == chunk_size and int(state.position[0]) == 0)


def _by_kernels(
    q: Tensor, k: Tensor, v: Tensor, gates: tuple[Tensor | None, Tensor | None, Tensor], piece: Piece,
    state: DeepMemoryState, activation: str, residual: bool,
) -> tuple[Tensor, Sequence[Sequence[Tensor]]]:  # fmt: skip
    """A piece of the sequence by Triton's kernels; of every layer memory and momentum after it, [b h, in, out] each."""
    from titanlab.memory_modules.kernels.triton_matrix_memory import gates_for, matrix_memory
    from titanlab.memory_modules.kernels.triton_two_matrix_memory import two_matrix_memory

    common = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    stop = piece.start + piece.chunks * piece.size
    queries, keys, values = (x.to(common)[:, piece.start : stop] for x in (q, k, v))
    if len(state.weights) == 2:
        first, second = _stacked(state)
        return two_matrix_memory(queries, keys, values, gates, first, second, activation, residual)
    if len(state.weights) > 2:
        from titanlab.memory_modules.kernels.triton_deeper_memory import deeper_memory

        y, wholes = deeper_memory(queries, keys, values, gates, _stacked(state), activation, residual)
        return y, _cut(wholes)
    arrays = gates_for(*gates, common)
    fresh = state.reference[0] is state.weights[0]
    reference = None if fresh else _grouped(state.reference[0])
    y, whole = matrix_memory(queries, keys, values, arrays, reference, _stacked(state)[0], residual)
    return y, _cut([whole])


def _grouped(matrix: Tensor) -> Tensor:
    """[b, h, ...] -> [b * h, ...]."""
    return matrix.flatten(0, 1)


def _stacked(state: DeepMemoryState) -> list[Tensor]:
    """Memory and momentum of every layer as parts of one tensor, [b * h, p, in, out]."""
    families = (state.weights, state.momentum) if state.momentum else (state.weights,)
    return [_joined(parts) for parts in zip(*families, strict=True)]


def _cut(wholes: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Memory and momentum [b * h, in, out] of every layer from [b * h, p, in, out]."""
    # at once: the gradient of each slice alone would be a whole array of zeros
    return [whole.unbind(1) for whole in wholes]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Parts [b, h, in, out] as one tensor [b * h, p, in, out]; the one that they were cut from, not a copy."""
    whole = None if torch.compiler.is_compiling() else _whole(parts)
    return torch.stack(list(parts), 2).flatten(0, 1) if whole is None else _Rejoined.apply(whole, *parts)


def _whole(parts: Sequence[Tensor]) -> Tensor | None:
    """The tensor [b * h, p, in, out] of which these are the parts, none left out; None if there is no such one."""
    base, (batch, heads, *sizes) = parts[0]._base, parts[0].shape
    if base is None or not base.is_contiguous() or base.numel() != len(parts) * parts[0].numel():
        return None
    whole = base.detach().view(batch * heads, len(parts), *sizes)
    cut = whole.unflatten(0, (batch, heads)).unbind(2)
    places = [(part.storage_offset(), part.stride()) for part in parts]
    is_whole = places == [(part.storage_offset(), part.stride()) for part in cut]
    return whole if is_whole and all(part._base is base for part in parts) else None


class _Rejoined(torch.autograd.Function):
    """`torch.stack` of parts of one tensor, for which that tensor stands."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, *parts: Tensor) -> Tensor:
        ctx.groups = parts[0].shape[:2]
        return whole.detach()

    @staticmethod
    def backward(ctx: Any, d_whole: Tensor) -> tuple[Tensor | None, ...]:
        return None, *d_whole.unflatten(0, ctx.groups).unbind(2)


def _advanced(
    state: DeepMemoryState, layers: Sequence[Sequence[Tensor]], piece: Piece, chunk_size: int
) -> DeepMemoryState:
    """The state after a piece, from memory and momentum [b * h, in, out] of every layer."""
    groups = state.weights[0].shape[:2]
    families = list(zip(*([part.unflatten(0, groups) for part in parts] for parts in layers), strict=True))
    weights, momentum = families[0], families[1] if state.momentum else ()
    position = (state.position + piece.chunks * piece.size) % chunk_size
    reference = state.reference if int(position[0]) else weights  # a chunk ended: the next one starts here
    return DeepMemoryState(weights, momentum, reference, position)


def _check_weights(weights: Sequence[Tensor], q: Tensor) -> None:
    if len(weights) < 1:
        raise ValueError("weights: is empty; expected at least one matrix [h, in, out]")
    width = q.shape[3]
    for index, matrix in enumerate(weights):
        last = index == len(weights) - 1
        if (
            matrix.ndim != 3
            or tuple(matrix.shape[:2]) != (q.shape[2], width)
            or (last and matrix.shape[2] != q.shape[3])
        ):
            raise ValueError(
                f"weights[{index}]: has shape {shape_of(matrix)}; expected [{q.shape[2]}, {width}, "
                f"{q.shape[3] if last else 'out'}] (h, in, out; the first in and the last out are d)"
            )
        width = matrix.shape[2]


def _check_state(state: DeepMemoryState, q: Tensor, weights: Sequence[Tensor], momentum: bool, chunk_size: int) -> None:
    b, dtype = q.shape[0], at_least_float32(q.dtype)
    if bool(state.momentum) != momentum:
        have, given = ("has", "is None") if state.momentum else ("lacks", "is given")
        raise ValueError(f"state.momentum: the state {have} momentum but the argument momentum {given}")
    families = {"weights": state.weights, "reference": state.reference}
    for name, matrices in {**families, "momentum": state.momentum}.items() if momentum else families.items():
        if len(matrices) != len(weights):
            raise ValueError(f"state.{name}: has {len(matrices)} matrices; expected {len(weights)}, as in weights")
        for index, (matrix, like) in enumerate(zip(matrices, weights, strict=True)):
            if tuple(matrix.shape) != (b, *like.shape) or matrix.dtype != dtype:
                raise ValueError(
                    f"state.{name}[{index}]: has shape {shape_of(matrix)} and type {matrix.dtype}; expected "
                    f"{[b, *like.shape]} (b, h, in, out) and {dtype}"
                )
    check_position(state.position, b, chunk_size)
