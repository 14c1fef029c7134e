"""A memory of one matrix on a GPU: `dual_form` at depth 1 by Triton kernels, forward and gradient.

Only `backends` imports this, where Triton is installed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.memory_modules.kernels import triton_matrix_kernels as kernels
from titanlab.memory_modules.kernels.chunk_gates import ChunkGates, chunk_gates
from titanlab.memory_modules.kernels.triton_chunk_gates import chunk_gates_on_gpu
from titanlab.platform.first_order import first_order


class Tiles(NamedTuple):
    """Block sizes and launch options of one shape; fixed by a rule, so nothing is tuned on a first call."""

    walk_columns: int
    """Value columns a program of the two walks holds."""
    forward_columns: int
    """Value columns of a program of the answers, and of the values' gradient within a chunk."""
    backward_columns: int
    """Value columns at a time of the gradient of queries and keys."""
    walk: dict[str, int]
    """Warps and stages, and so for the others."""
    forward: dict[str, int]
    backward: dict[str, int]


WALKS = 256
"""Programs wanted at once: about two for each multiprocessor of the largest GPUs."""


def tiles_for(groups: int, dim: int, products: torch.dtype) -> Tiles:
    """Few heads cut their columns finely, so that one sequence still fills the chip; float32 takes twice the room."""
    padded = padded_width(dim)
    room = padded * (2 if products == torch.float32 else 1)  # registers that a column takes
    walk_columns = min(padded, max(16, 4096 // room))
    while walk_columns > 16 and groups * (padded // walk_columns) < WALKS:
        walk_columns //= 2
    return Tiles(
        walk_columns=walk_columns,
        forward_columns=min(padded, max(16, 4096 // room)),
        backward_columns=max(32, min(padded, 2048 // room)),
        walk={"num_warps": 4, "num_stages": 2 if products == torch.bfloat16 else 1},
        forward={"num_warps": 4, "num_stages": 1},
        backward={"num_warps": 4, "num_stages": 1},
    )


def padded_to(size: int) -> int:
    """The next power of 2, at least 16: what a tile of a matrix product may measure."""
    return max(16, triton.next_power_of_2(size))


def padded_width(dim: int) -> int:
    """The tile's width of a head. Not below 32, and warps not above 4: Triton 3.6 reads beyond shared memory on an H100
    in the gradient of narrower tiles and with 8 warps."""
    return max(32, padded_to(dim))


def gates_for(keep: Tensor | None, momentum: Tensor | None, step: Tensor, dtype: torch.dtype) -> ChunkGates:
    """`chunk_gates` as exact as inputs of this type ask for."""
    if dtype == torch.float32:
        return chunk_gates(keep, momentum, step)
    return chunk_gates_on_gpu(keep, momentum, step, torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)


def matrix_memory(
    q: Tensor, k: Tensor, v: Tensor, gates: ChunkGates, reference: Tensor | None, state: Tensor, residual: bool
) -> tuple[Tensor, Tensor]:
    """Runs n equal chunks one after another.

    Args:
        q, k, v: [b, n c, h, d] of one type, float32, bfloat16 or float16.
        gates: leading axes [n, b h]; float32.
        reference: [b h, d, d] float32, where the first chunk takes its gradients; None: at the memory in `state`.
        state: [b h, p, d, d] float32: the memory and, if p = 2, the momentum.
        residual: whether M(x) = x + x W.

    Returns:
        y [b, n c, h, d] in q's type, and the state after the last chunk, float32.
    """
    n, c = gates.read.shape[0], gates.read.shape[2]
    if reference is None or n == 1:
        return _MatrixMemory.apply(residual, q, k, v, *gates, reference, state)
    first = ChunkGates(*(x[:1] for x in gates))
    y_first, state = matrix_memory(q[:, :c], k[:, :c], v[:, :c], first, reference, state, residual)
    rest = ChunkGates(*(x[1:] for x in gates))
    y_rest, state = matrix_memory(q[:, c:], k[:, c:], v[:, c:], rest, None, state, residual)
    return torch.cat([y_first, y_rest], 1), state


class _MatrixMemory(torch.autograd.Function):
    """The kernels and what they hand each other; see `matrix_memory`."""

    @staticmethod
    def forward(
        ctx: Any, residual: bool, q: Tensor, k: Tensor, v: Tensor, read: Tensor, inner: Tensor, write: Tensor,
        mix: Tensor, reference: Tensor | None, state: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        q, k, v, read, inner, write, mix, state = (
            x.contiguous() for x in (q, k, v, read, inner, write, mix, state)
        )  # fmt: skip
        call = _Call(q, read, separate=reference is not None, residual=residual)
        reference = state if reference is None else reference.contiguous()
        starts = call.empty_states()
        end, y = torch.empty_like(state), torch.empty_like(q)
        kernels.walk_forward[call.walks](
            k, v, write, mix, reference, state, starts, end, *call.sizes, **call.walk, SEPARATE=call.separate,
            RESIDUAL=residual,
        )  # fmt: skip
        kernels.answer[call.blocks](
            q, k, v, read, inner, reference, starts, y, *call.sizes, **call.forward, MOMENTUM=call.momentum,
            SEPARATE=call.separate, RESIDUAL=residual,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, read, inner, write, mix, reference, starts)
        ctx.call = call
        return y, end

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor, d_end: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, read, inner, write, mix, reference, starts = ctx.saved_tensors
        call: _Call = ctx.call
        d_y, d_end = d_y.contiguous(), d_end.contiguous()
        d_v, ends = torch.empty_like(q, dtype=call.products), torch.empty_like(starts)
        d_state = torch.empty_like(d_end)
        d_reference = torch.empty_like(reference) if call.separate else None
        kernels.values_within[call.blocks](q, k, inner, d_y, d_v, *call.sizes, **call.forward)
        kernels.walk_backward[call.walks](
            q, k, read, write, mix, d_y, d_end, d_v, ends, d_state, d_state if d_reference is None else d_reference,
            *call.sizes, **call.walk, SEPARATE=call.separate,
        )  # fmt: skip
        d_q, d_k, d_read, d_inner, d_write, d_mix = (
            torch.empty_like(x) for x in (q, k, read, inner, write, mix)
        )  # fmt: skip
        kernels.inputs_backward[call.chunks](
            q, k, v, read, inner, write, reference, starts, ends, d_y, d_v, d_q, d_k, d_read, d_inner, d_write, d_mix,
            *call.sizes, **call.backward, MOMENTUM=call.momentum, SEPARATE=call.separate, RESIDUAL=call.residual,
        )  # fmt: skip
        return None, d_q, d_k, d_v.to(q.dtype), d_read, d_inner, d_write, d_mix, d_reference, d_state


def _precision(q: Tensor) -> str:
    if not q.is_cuda:
        return "ieee"
    return "tf32x3" if q.dtype == torch.float32 else "tf32"


class _Call:
    """Grids and arguments that the kernels of one call share."""

    def __init__(self, q: Tensor, read: Tensor, *, separate: bool, residual: bool) -> None:
        n, g, c, self.parts = read.shape
        self.dim, self.device = q.shape[-1], q.device
        self.momentum, self.separate, self.residual = self.parts == 2, separate, residual
        # float16 has too short a range for gradients of states: its products are taken in tf32, as precise
        self.products = torch.bfloat16 if q.dtype == torch.bfloat16 else torch.float32
        tiles = tiles_for(g, self.dim, self.products)
        self.sizes = (n, g, q.shape[2], c)
        self.walks = (g, triton.cdiv(self.dim, tiles.walk_columns))
        self.blocks = (n * g, triton.cdiv(self.dim, tiles.forward_columns))
        self.chunks = (n * g,)
        shared = {
            "D": self.dim,
            "BC": padded_to(c),
            "BD": padded_width(self.dim),
            "TYPE": tl.bfloat16 if self.products == torch.bfloat16 else tl.float32,
            "PRECISION": _precision(q),
        }
        self.walk = {**shared, "BV": tiles.walk_columns, "MOMENTUM": self.momentum, **tiles.walk}
        self.forward = {**shared, "BV": tiles.forward_columns, **tiles.forward}
        self.backward = {**shared, "BV": tiles.backward_columns, **tiles.backward}

    def empty_states(self) -> Tensor:
        """[n, g, p, d, d]: memory and momentum, or gradients, at one end of every chunk."""
        n, g, *_ = self.sizes
        return torch.empty(n, g, self.parts, self.dim, self.dim, dtype=self.products, device=self.device)
