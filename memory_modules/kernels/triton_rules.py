"""The matrix rules on a GPU: the chunk forms of delta_chunks and its neighbours by Triton kernels, with gradients.

Only what runs on a GPU imports this, where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.memory_modules.kernels import triton_rule_gradients as gradients
from titanlab.memory_modules.kernels import triton_rule_kernels as kernels
from titanlab.memory_modules.kernels.chunk_gates import ChunkGates
from titanlab.memory_modules.kernels.triton_triangular import invert
from titanlab.platform.first_order import first_order

WALKS = 256
"""Programs of a walk wanted at once: about two for each multiprocessor of the largest GPUs."""
NARROWEST = 32
"""Value columns of a walk's program at least; Triton 3.6 reads beyond shared memory in some narrower tiles on an
H100."""


def scalar_rule(
    q: Tensor, k: Tensor, v: Tensor, gates: ChunkGates, state: Tensor, *, solve: bool, shift: bool
) -> tuple[Tensor, Tensor]:
    """Runs n equal chunks of a rule whose gates are numbers of the token.

        S_t = what `gates` keep of S and P + sum_{i<=t} inner[t, i] k_i u_i^T        y_t = S_t^T q_t

    Args:
        q, k: [b, n c, h, key]; v: [b, n c, h, value], of one type, float32, bfloat16 or float16.
        gates: leading axes [b h, n], float32.
        state: [b h, p, key, value] float32.
        solve: u_i = v_i - what the memory before token i returns for k_i; else u_i = v_i.
        shift: that memory is S_{i-1}, not what is left of it at token i.

    Returns:
        y [b, n c, h, value] in q's type, and the state after the last chunk.
    """
    return _ScalarRule.apply(solve, shift, q, k, v, *gates, state)


def channel_rule(
    asks: Tensor, writes: Tensor, values: Tensor, scores: Tensor, last: Tensor, state: Tensor,
    *, before: Tensor | None = None, system: Tensor | None = None, added: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Runs n equal chunks of a rule whose decays are one for each key channel, all within a chunk prepared.

        U = values, or with `system` the solution of (I - system) U = values + before S
        Y = asks S + scores U            S <- last S + writes^T U + added

    Args:
        asks, writes, before: [g, n, c, key] of one type, and so values: [g, n, c, value]; scores, system: [g, n, c, c].
        last: [g, n, key] float32.
        state: [g, key, value] float32.
        added: [g, n, key, value].

    Returns:
        Y [g, n, c, value] and S after the last chunk.
    """
    return _ChannelRule.apply(asks, writes, values, scores, last, state, before, system, added)


class _ScalarRule(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, solve: bool, shift: bool, q: Tensor, k: Tensor, v: Tensor, read: Tensor, inner: Tensor,
        write: Tensor, mix: Tensor, state: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        q, k, v, read, inner, write, mix, state = (
            x.contiguous() for x in (q, k, v, read, inner, write, mix, state)
        )  # fmt: skip
        call = Call(q, v, read.shape[:3], read.shape[-1], scaled=True, solve=solve)
        scores, starts, end = call.empty_scores(), call.empty_states(), torch.empty_like(state)
        solution, u, reads = call.empty_solution(scores, v)
        if solve:
            invert[call.chunks](k, inner, inner, solution, *call.sizes, **call.inverse, SHIFT=shift)
        kernels.prepare[call.chunks](
            q, k, v, read, inner, k, scores, solution, u, reads, *call.sizes, **call.whole, SHIFT=shift
        )
        kernels.walk_forward[call.walks](
            k, u, write, mix, reads, state, state, starts, end, *call.sizes, **call.walk, ADDED=False
        )  # fmt: skip
        y = torch.empty_like(v, dtype=q.dtype)
        kernels.answer[call.blocks](q, u, read, scores, starts, y, *call.sizes, **call.forward)
        ctx.save_for_backward(q, k, read, inner, write, mix, scores, starts, solution, u, reads)
        ctx.call, ctx.shift = call, shift
        return y, end

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor, d_end: Tensor) -> tuple[Tensor | None, ...]:
        q, k, read, inner, write, mix, scores, starts, solution, u, reads = ctx.saved_tensors
        call: Call = ctx.call
        d_y = d_y.contiguous()
        d_u, ends, d_state = call.walk_back(q, k, read, write, mix, reads, scores, d_y, d_end)
        d_q, d_read, d_inner, d_write, d_mix = (torch.empty_like(x) for x in (q, read, inner, write, mix))
        d_k = torch.empty_like(k, dtype=torch.float32 if call.solve else None)  # solving adds to it
        gradients.inputs_backward[call.chunks](
            q, k, u, read, inner, write, starts, ends, d_y, d_q, d_k, d_read, d_inner, d_write, d_mix, *call.sizes,
            **call.backward,
        )  # fmt: skip
        d_v = d_u
        if call.solve:
            d_v, part = torch.empty_like(d_u), d_k
            d_k = torch.empty_like(k)
            gradients.solve_backward[call.chunks](
                k, u, d_u, read, inner, solution, starts, part, d_v, d_k, d_read, d_inner, *call.sizes,
                **call.backward, SHIFT=ctx.shift,
            )  # fmt: skip
        return None, None, d_q, d_k, d_v.to(q.dtype), d_read, d_inner, d_write, d_mix, d_state


class _ChannelRule(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, asks: Tensor, writes: Tensor, values: Tensor, scores: Tensor, last: Tensor, state: Tensor,
        before: Tensor | None, system: Tensor | None, added: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        asks, writes, values, scores, last, state = (
            x.contiguous() for x in (asks, writes, values, scores, last, state)
        )  # fmt: skip
        call = Call(asks, values, asks.shape[:3], 1, scaled=False, solve=system is not None)
        starts, end = call.empty_states(), torch.empty_like(state)
        solution, u, reads = call.empty_solution(scores, values)
        if system is not None and before is not None:
            invert[call.chunks](
                asks, system, system.contiguous(), solution, *call.sizes, **call.inverse, SHIFT=False
            )  # fmt: skip
            kernels.prepare[call.chunks](
                asks, asks, values, last, last, before.contiguous(), scores, solution, u, reads, *call.sizes,
                **call.whole, SHIFT=False,
            )  # fmt: skip
        kernels.walk_forward[call.walks](
            writes, u, last, last, reads, state if added is None else added.contiguous(), state, starts, end,
            *call.sizes, **call.walk, ADDED=added is not None,
        )  # fmt: skip
        y = torch.empty_like(values)
        kernels.answer[call.blocks](asks, u, last, scores, starts, y, *call.sizes, **call.forward)
        ctx.save_for_backward(asks, writes, scores, last, starts, solution, u, reads)
        ctx.call, ctx.added = call, added is not None
        ctx.exact = None if system is None else system.dtype
        return y, end

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor, d_end: Tensor) -> tuple[Tensor | None, ...]:
        asks, writes, scores, last, starts, solution, u, reads = ctx.saved_tensors
        call: Call = ctx.call
        d_y = d_y.contiguous()
        d_u, ends, d_state = call.walk_back(asks, writes, last, last, last, reads, scores, d_y, d_end)
        d_asks, d_writes, d_scores, d_last = (torch.empty_like(x) for x in (asks, writes, scores, last))
        gradients.inputs_backward[call.chunks](
            asks, writes, u, last, last, last, starts, ends, d_y, d_asks, d_writes, last, d_scores, last, d_last,
            *call.sizes, **call.backward,
        )  # fmt: skip
        d_values, d_before, d_system = d_u, None, None
        if call.solve:
            d_values, d_before = torch.empty_like(d_u), torch.empty_like(asks, dtype=ctx.exact)
            d_system = torch.empty_like(solution, dtype=ctx.exact)
            gradients.solve_backward[call.chunks](
                writes, u, d_u, last, last, solution, starts, last, d_values, d_before, last, d_system, *call.sizes,
                **call.backward, SHIFT=False,
            )  # fmt: skip
        d_added = ends.squeeze(2) if ctx.added else None
        return d_asks, d_writes, d_values, d_scores, d_last, d_state, d_before, d_system, d_added


def padded(size: int) -> int:
    """The next power of 2, at least 32: how long the sides of the kernels' tiles are."""
    return max(32, triton.next_power_of_2(size))


def products_of(dtype: torch.dtype) -> torch.dtype:
    """What products of inputs of this type are rounded to, and what stands between two kernels.

    float16 has too short a range for gradients of states: its products are taken in tf32, as precise.
    """
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def precision_of(x: Tensor) -> str:
    """What float32 products of tensors like x are rounded to."""
    if not x.is_cuda:
        return "ieee"
    return "tf32x3" if x.dtype == torch.float32 else "tf32"


def precisions(x: Tensor) -> dict[str, Any]:
    """The types of a kernel's products of tensors like x."""
    bf16 = products_of(x.dtype) == torch.bfloat16
    return {"TYPE": tl.bfloat16 if bf16 else tl.float32, "PRECISION": precision_of(x)}


class Call:
    """Grids and arguments that the kernels of one call share; block sizes follow a rule, so nothing is tuned."""

    def __init__(self, q: Tensor, v: Tensor, chunks: Sequence[int], parts: int, *, scaled: bool, solve: bool) -> None:
        g, n, c = chunks
        self.groups, self.parts, self.solve, self.device = (g, n, c), parts, solve, q.device
        self.key, self.value, self.products = q.shape[-1], v.shape[-1], products_of(q.dtype)
        wide = padded(self.value)
        columns = 32 if self.products == torch.float32 else 64
        walk_columns = min(wide, columns)
        while walk_columns > NARROWEST and g * (wide // walk_columns) < WALKS:
            walk_columns //= 2
        columns = min(wide, columns)
        self.sizes = (n, 1 if not scaled else q.shape[2], c)
        self.chunks = (g * n,)
        self.walks = (g, triton.cdiv(self.value, walk_columns))
        self.blocks = (g * n, triton.cdiv(self.value, columns))
        sizes = {"DK": self.key, "DV": self.value, "BC": padded(c), "BK": padded(self.key), "PARTS": parts}
        warps = 8 if padded(self.key) > 64 else 4  # with 4, tiles of 128 key channels spill some kilobytes a thread
        shared = {**sizes, "SCALED": scaled, "num_warps": warps, **precisions(q)}
        stages = {"num_stages": 1}
        self.inverse = {**{name: x for name, x in shared.items() if name not in ("DV", "PARTS")}, **stages}
        self.inverse |= {"BK": min(padded(self.key), 64), "num_warps": 4}
        self.inverse["EXACT"] = "tf32x3" if q.is_cuda else "ieee"
        self.whole = {**shared, "SOLVE": solve, "BV": wide, **stages}
        self.walk = {
            **shared,
            "SOLVE": solve,
            "BV": walk_columns,
            "num_stages": 2 if self.products == torch.bfloat16 else 1,
        }
        self.forward = {**shared, "BV": columns, "num_warps": 4, **stages}
        # a loop of one turn is no loop to the compiler, which then holds what follows it too
        self.backward = {**shared, "BV": columns if warps == 8 and columns < wide else 32, **stages}

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.products, device=self.device)

    def empty_scores(self) -> Tensor:
        """[g, n, c, c]."""
        return self._empty(*self.groups, self.groups[2])

    def empty_states(self) -> Tensor:
        """[g, n, p, key, value]: the state, or its gradient, at one end of every chunk."""
        return self._empty(*self.groups[:2], self.parts, self.key, self.value)

    def empty_solution(self, scores: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What solving needs beside U [shaped as v]: the inverse and reads; without solving U is the values."""
        if not self.solve:
            return scores, v, scores
        g, n, c = self.groups
        return self.empty_scores(), torch.empty_like(v, dtype=self.products), self._empty(g, n, self.parts, c, self.key)

    def walk_back(
        self, q: Tensor, k: Tensor, read: Tensor, write: Tensor, mix: Tensor, reads: Tensor, scores: Tensor,
        d_y: Tensor, d_end: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """The gradients of U, of the state at every chunk's end, and of the state before the first."""
        d_u, ends = torch.empty_like(d_y, dtype=self.products), self.empty_states()
        d_state = torch.empty_like(d_end, memory_format=torch.contiguous_format)
        kernels.walk_backward[self.walks](
            q, k, read, write, mix, scores, reads, d_y, d_end.contiguous(), d_u, ends, d_state, *self.sizes, **self.walk
        )  # fmt: skip
        return d_u, ends, d_state
