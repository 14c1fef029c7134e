"""`module_memory`: any torch module that maps [.., d] to [.., d], learning at test time by Titans' rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from titanlab.memory_modules.kernels.chunk_gates import ChunkGates, chunk_gates
from titanlab.memory_modules.kernels.chunking import from_chunks, pieces, to_chunks
from titanlab.memory_modules.rules.checks import check_position, check_sequence, joined, shape_of
from titanlab.memory_modules.rules.inner_modules import inner_modules, stacked_parameters
from titanlab.memory_modules.rules.module_calls import ModuleCalls
from titanlab.platform.debugging import refuse_nonfinite
from titanlab.platform.tensors import Gate, PerHead, at_least_float32


class ModuleMemoryState(NamedTuple):
    """A module's memory between two tokens; every tensor has the batch as its first axis."""

    weights: dict[str, Tensor]
    """The parameters as they stand, [b, h, ...] by name."""
    momentum: dict[str, Tensor]
    """Past surprise of each parameter, [b, h, ...]; empty when momentum is off."""
    reference: dict[str, Tensor]
    """The parameters at the start of the chunk that is under way; gradients are taken there."""
    position: Tensor
    """[b], int64 on the CPU: tokens of the chunk under way that were seen; 0 at a chunk's start."""


def module_memory(
    q: PerHead,
    k: PerHead,
    v: PerHead,
    keep: Gate | None,
    momentum: Gate | None,
    step: Gate,
    module: nn.Module | Sequence[nn.Module],
    *,
    chunk_size: int,
    state: ModuleMemoryState | None = None,
) -> tuple[PerHead, ModuleMemoryState]:
    """`deep_memory` for a torch module of one's own: every sequence and head has a copy of its parameters.

        S_t = momentum_t S_{t-1} - step_t grad l(M_ref; k_t, v_t)        l = 1/2 ||M(k) - v||^2
        M_t = keep_t M_{t-1} + S_t                                       y_t = M_t(q_t)

    M_ref is the memory at the start of the token's chunk (Titans, arXiv 2501.00663, eq. 8-18 and section 3.2). All
    parameters are memory, biases and gains included, those with `requires_grad=False` too; what is to stay is a buffer.

    Slower than `deep_memory`, which knows its module is an MLP: the gradient and the parameters of every token of a
    chunk are formed, chunk_size times the memory of one.

    Args:
        q, k, v: [b, t, h, d], any floating type; the state is kept in float32 or better.
        keep: [b, t, h] in (0, 1], the fraction of the memory kept; None: 1.
        momentum: [b, t, h] in [0, 1), the fraction of past surprise kept; None: off.
        step: [b, t, h] > 0, the inner learning rate.
        module: maps [.., d] to [.., d]; called with one token [1, d] at a time. Its parameters are the memory before
            the first token, of every head, or of its own head where one module a head is given. Without chance
            (dropout), norms over a batch, numbers looked at in Python (`.item()`), or writing to buffers.
        chunk_size: tokens that share one reference memory; 1 is the exact recurrence.
        state: what an earlier call returned; a sequence cut anywhere gives the same as one call.

    Returns:
        y [b, t, h, d] in q's type, and the state after the last token.

    Raises:
        ValueError: naming the argument, what it is and what was expected.
    """
    check_sequence(q, k, v, {"keep": keep, "momentum": momentum, "step": step}, chunk_size)
    if v.shape != k.shape:
        raise ValueError(f"v: has shape {shape_of(v)}; expected {shape_of(k)}, that of k")
    batch, dtype = q.shape[0], at_least_float32(q.dtype)
    modules = inner_modules(module, q.shape[2])
    if state is None:
        state = _initial(modules, batch, momentum is not None, dtype)
    _check_state(state, modules, q, momentum is not None, chunk_size)
    refuse_nonfinite({"state": state})
    outputs = []
    with torch.autocast(q.device.type, enabled=False):
        calls = ModuleCalls(modules, batch, dtype)
        for piece in pieces(int(state.position[0]), q.shape[1], chunk_size):
            rows_q, rows_k, rows_v, rates = (to_chunks(x.to(dtype), piece) for x in (q, k, v, step))
            kept, carried = (None if gate is None else to_chunks(gate.to(dtype), piece) for gate in (keep, momentum))
            gates = chunk_gates(kept, carried, rates)
            for index in range(piece.chunks):
                of_chunk = ChunkGates(*(array[index] for array in gates))
                y, after = _chunk(calls, rows_q[index], rows_k[index], rows_v[index], of_chunk, state)
                outputs.append(from_chunks(y.unsqueeze(0), batch))
                state = _advanced(state, after, piece.size, chunk_size)
    return joined(outputs, q, q.dtype), state


def initial_module_memory(
    module: nn.Module | Sequence[nn.Module], batch: int, heads: int, momentum: bool, dtype: torch.dtype | None = None
) -> ModuleMemoryState:
    """The state before the first token: every sequence starts from the module's own parameters, with no surprise."""
    return _initial(inner_modules(module, heads), batch, momentum, dtype)


def read_module_memory(q: PerHead, state: ModuleMemoryState, module: nn.Module | Sequence[nn.Module]) -> PerHead:
    """M(q) [b, t, h, d] with the memory as it stands, writing nothing."""
    dtype = next(iter(state.weights.values())).dtype
    with torch.autocast(q.device.type, enabled=False):
        calls = ModuleCalls(inner_modules(module, q.shape[2]), q.shape[0], dtype)
        y = calls.answers(_grouped(state.weights), q.movedim(1, 2).to(dtype).flatten(0, 1))
    return y.unflatten(0, (q.shape[0], q.shape[2])).movedim(2, 1).to(q.dtype)


def _chunk(
    calls: ModuleCalls, q: Tensor, k: Tensor, v: Tensor, gates: ChunkGates, state: ModuleMemoryState
) -> tuple[Tensor, tuple[dict[str, Tensor], ...]]:
    """Answers [g, c, d] of one chunk, and weights and momentum [b, h, ...] after it (see kernels/chunk_gates.py)."""
    families = (state.weights, state.momentum) if state.momentum else (state.weights,)
    gradients = calls.gradients(_grouped(state.reference), k, v)
    of_each: dict[str, Tensor] = {}
    after: tuple[dict[str, Tensor], ...] = tuple({} for _ in families)
    for name, weight in state.weights.items():
        shape = weight.shape[2:]
        parts = torch.stack([_grouped(family)[name].reshape(len(q), shape.numel()) for family in families], 1)
        written = gradients[name].reshape(*q.shape[:2], shape.numel())
        of_each[name] = (gates.read @ parts - gates.inner @ written).reshape(*q.shape[:2], *shape)
        parts = gates.mix @ parts - gates.write.mT @ written
        for family, part in zip(after, parts.unbind(1), strict=True):
            family[name] = part.reshape(weight.shape)
    return calls.answers_of_each(of_each, q), after


def _advanced(
    state: ModuleMemoryState, after: Sequence[dict[str, Tensor]], size: int, chunk_size: int
) -> ModuleMemoryState:
    """The state `size` tokens on, within the chunk or at the next one's start."""
    weights, momentum = after[0], after[1] if state.momentum else {}
    position = (state.position + size) % chunk_size
    reference = state.reference if int(position[0]) else weights
    return ModuleMemoryState(weights, momentum, reference, position)


def _grouped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """[b, h, ...] -> [b * h, ...], each."""
    return {name: weight.flatten(0, 1) for name, weight in weights.items()}


def _initial(modules: Sequence[nn.Module], batch: int, momentum: bool, dtype: torch.dtype | None) -> ModuleMemoryState:
    own = next(modules[0].parameters()).dtype
    stacked = stacked_parameters(modules, dtype or at_least_float32(own))
    weights = {name: weight.expand(batch, *weight.shape) for name, weight in stacked.items()}
    surprise = {name: torch.zeros_like(weight) for name, weight in weights.items()} if momentum else {}
    return ModuleMemoryState(weights, surprise, weights, torch.zeros(batch, dtype=torch.int64, device="cpu"))


def _check_state(
    state: ModuleMemoryState, modules: Sequence[nn.Module], q: Tensor, momentum: bool, chunk_size: int
) -> None:
    batch, dtype = q.shape[0], at_least_float32(q.dtype)
    if bool(state.momentum) != momentum:
        have, given = ("has", "is None") if state.momentum else ("lacks", "is given")
        raise ValueError(f"state.momentum: the state {have} momentum but the argument momentum {given}")
    own = {name: [batch, len(modules), *parameter.shape] for name, parameter in modules[0].named_parameters()}
    families = {"weights": state.weights, "reference": state.reference}
    for family, tensors in {**families, "momentum": state.momentum}.items() if momentum else families.items():
        if tensors.keys() != own.keys():
            raise ValueError(f"state.{family}: has {sorted(tensors)}; expected {sorted(own)}, the module's parameters")
        for name, tensor in tensors.items():
            if list(tensor.shape) != own[name] or tensor.dtype != dtype:
                raise ValueError(
                    f"state.{family}['{name}']: has shape {shape_of(tensor)} and type {tensor.dtype}; expected "
                    f"{own[name]} (b, h, then the parameter's own) and {dtype}"
                )
    check_position(state.position, batch, chunk_size)
