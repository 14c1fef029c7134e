"""A memory of three or four matrices on a GPU: `dual_form` at that depth by Triton kernels, forward and gradient.

Only what no chunk can do before its neighbour has goes through the chunks one after another (two walks, which need the
keys alone); queries take every chunk of a stretch by themselves. The gradient computes a stretch again from the state
before it. Only `deep_memory` imports this, where `backends` chose Triton.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from titanlab.memory_modules.kernels.chunk_gates import ChunkGates
from titanlab.memory_modules.kernels.gates_again import GatesAgain
from titanlab.memory_modules.kernels.triton_deeper_chunks import answer, back_through_queries
from titanlab.memory_modules.kernels.triton_deeper_filling import Filling
from titanlab.memory_modules.kernels.triton_deeper_walk import walk
from titanlab.memory_modules.kernels.triton_deeper_walk_back import walk_back
from titanlab.memory_modules.kernels.triton_matrix_memory import gates_for
from titanlab.memory_modules.kernels.triton_meeting import multiprocessors
from titanlab.platform.first_order import first_order

FILLING = 512
"""Chunks, of all heads, that fill the largest GPUs: a stretch has no less where there are so many."""
SHORT_STRETCH = 384 << 20
"""Bytes that the chunks of a short stretch leave for the queries' kernels: all that a call without gradients needs.
Where a chunk leaves much, such a stretch is shorter than would fill the GPU."""


def stretches_for(chunks: int, groups: int, mark: int, room: int) -> tuple[int, int]:
    """Chunks of a stretch and of a short one, from the bytes of a head's state and of what one of its chunks leaves.

    A state is kept for the gradient before each stretch, and room is needed for one stretch: so long that both together
    are least, as many bytes as the root of the number of chunks says.
    """
    least = -(-FILLING // groups)
    stretch = max(1, min(chunks, max(least, round((chunks * mark / room) ** 0.5))))
    return stretch, max(1, min(stretch, SHORT_STRETCH // (groups * room)))


def deeper_memory(
    q: Tensor, k: Tensor, v: Tensor, gates: tuple[Tensor | None, Tensor | None, Tensor], state: Sequence[Tensor],
    activation: str, residual: bool,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Runs n equal chunks, the gradients of each taken at the memory as it finds it.

    Args:
        q, k, v: [b, n c, h, d] of one type, float32, bfloat16 or float16.
        gates: keep, momentum and step [n, b h, c] float32; keep and momentum may be None, as in `chunk_gates`.
        state: L tensors [b h, p, in, out] float32: a matrix and, if p = 2, its momentum.
        activation: a name in ACTIVATIONS.
        residual: whether M(x) = x + MLP(x).

    Returns:
        y [b, n c, h, d] in q's type, and the state after the last chunk, float32.
    """
    y, *after = _DeeperMemory.apply(activation, residual, q, k, v, *gates, *state)
    return y, after


class _DeeperMemory(torch.autograd.Function):
    """The kernels and what they hand each other; see `deeper_memory`."""

    @staticmethod
    def forward(
        ctx: Any, activation: str, residual: bool, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None,
        momentum: Tensor | None, step: Tensor, *matrices: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        filling = Filling(q, step, matrices)
        call = _Call(filling, q, matrices[0].shape[1], activation, residual)
        queries, keys, values = (filling.by_chunk(x) for x in (q, k, v))
        gates = filling.gates(gates_for(keep, momentum, step, q.dtype))
        state, answers = filling.joined(matrices), torch.empty_like(queries)
        made, keeping, marks = call.made(call.short), any(ctx.needs_input_grad), []
        for stretch in call.stretches():
            if keeping:
                marks.append(state.clone())
            for short in call.short_stretches(stretch):
                call.walk(keys, values, gates, state, made, short, again=False)
                call.answer(queries, keys, gates, made, answers, short)
        if keeping:
            # not the chunks' gates, which are c numbers a token
            ctx.save_for_backward(q, k, v, keep, momentum, step, *marks)
        ctx.filling, ctx.call = filling, call
        return filling.by_token(answers, q), *filling.parted(state)

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor, *d_ends: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, keep, momentum, step, *marks = ctx.saved_tensors
        filling: Filling = ctx.filling
        call: _Call = ctx.call
        again = GatesAgain((keep, momentum, step), ctx.needs_input_grad[5:8], q.dtype)
        gates = filling.gates([x.detach() for x in again.made])
        queries, keys, values, d_answers = (filling.by_chunk(x) for x in (q, k, v, d_y))
        d_rows, d_gates = [torch.empty_like(queries) for _ in range(3)], call.d_gates(gates)
        d_state = filling.joined(d_ends)
        made, left = call.made(call.stretch), call.left()
        for number, stretch in reversed(list(enumerate(call.stretches()))):
            call.walk(keys, values, gates, marks[number].clone(), made, stretch, again=True)
            for short in reversed(list(call.short_stretches(stretch))):
                found = made.since(short.begin - stretch.begin)
                call.back_through_queries(queries, keys, gates, found, d_answers, left, d_rows, d_gates, short)
                call.walk_back(queries, keys, gates, found, d_answers, left, d_state, d_rows, d_gates, short)
        d_q, d_k, d_v = (filling.by_token(x, q) for x in d_rows)
        d_rates = again.gradients(*filling.d_gates(d_gates))
        return (None, None, d_q, d_k, d_v, *d_rates, *filling.parted(d_state))


class _Stretch(NamedTuple):
    """Chunks that follow one another."""

    begin: int
    chunks: int


class _Made(NamedTuple):
    """What `walk` leaves of the chunks of a stretch; see triton_deeper_walk."""

    starts: Tensor
    xs: Tensor
    slopes: Tensor
    bents: Tensor
    ds: Tensor
    errors: Tensor

    def since(self, chunk: int) -> _Made:
        return _Made(*(x[chunk:] for x in self))


class _Left(NamedTuple):
    """What `back_through_queries` leaves of the chunks of a short stretch; see there."""

    tilts: Tensor
    rests: Tensor
    asks: Tensor
    d_asks: Tensor
    d_backs: Tensor
    d_values: Tensor
    d_errors: Tensor
    d_keys: Tensor
    d_scores: Tensor


class _Call:
    """Room and launches that the kernels of one call share."""

    def __init__(self, filling: Filling, q: Tensor, parts: int, activation: str, residual: bool) -> None:
        self.n, self.g, self.layers = filling.n, filling.g, filling.layers
        self.tokens, self.width, self.hidden = filling.tokens, filling.width, filling.hidden
        self.tile, self.weights, self.dtype = filling.tile, filling.weights, filling.dtype
        self.parts, self.device = parts, q.device
        self.programs = self._programs()
        unit = (self.layers - 1) * self.tokens * self.hidden * self.dtype.itemsize
        start = self.parts * self.weights * self.dtype.itemsize
        self.stretch, self.short = stretches_for(self.n, self.g, 4 * self.parts * self.weights, start + 4 * unit)
        self.constants = {
            "BC": self.tokens,
            "BD": self.width,
            "F": self.hidden,
            "L": self.layers,
            "T": self.tile,
            "MOMENTUM": self.parts == 2,
            "RESIDUAL": residual,
            "TYPE": tl.bfloat16 if self.dtype == torch.bfloat16 else tl.float32,
            "PRECISION": _precision(q),
            "num_warps": 4,
            "num_stages": 2 if self.dtype == torch.bfloat16 else 1,
        }
        self.activation = activation

    def _programs(self) -> int:
        """Of a head, in the walks: no more than run at once, as they meet; interpreted, one runs after another."""
        if self.device.type != "cuda":
            return 1
        return max(1, min(self.hidden // self.tile, multiprocessors(self.device) // self.g))

    # stretches

    def stretches(self) -> Iterator[_Stretch]:
        return self._cut(_Stretch(0, self.n), self.stretch)

    def short_stretches(self, stretch: _Stretch) -> Iterator[_Stretch]:
        return self._cut(stretch, self.short)

    @staticmethod
    def _cut(whole: _Stretch, count: int) -> Iterator[_Stretch]:
        stop = whole.begin + whole.chunks
        for begin in range(whole.begin, stop, count):
            yield _Stretch(begin, min(count, stop - begin))

    # room

    def made(self, count: int) -> _Made:
        starts = self._empty(count, self.g, self.parts, self.weights)
        xs, bents, ds = (self._by_unit(count) for _ in range(3))
        return _Made(starts, xs, self._slopes(count), bents, ds, self._by_dim(count, self.dtype))

    def left(self) -> _Left:
        asks, d_asks, d_backs, d_values = (self._by_unit(self.short) for _ in range(4))
        d_errors, d_keys = (self._by_dim(self.short, torch.float32) for _ in range(2))
        has_rests = self.layers > 3 and self.dtype == torch.bfloat16
        rests = self._by_unit(self.short) if has_rests else asks  # which are not written then
        d_scores = torch.empty(self.short, self.g, self.tokens, self.tokens, dtype=torch.float32, device=self.device)
        return _Left(self._slopes(self.short), rests, asks, d_asks, d_backs, d_values, d_errors, d_keys, d_scores)

    def d_gates(self, gates: ChunkGates) -> ChunkGates:
        """The gates' gradients; of write and mix, each program of a head leaves its part."""
        write, mix = (x.new_empty(self.programs, *x.shape) for x in (gates.write, gates.mix))
        return ChunkGates(torch.empty_like(gates.read), torch.empty_like(gates.inner), write, mix)

    def _by_unit(self, count: int) -> Tensor:
        return self._empty(count, self.g, self.layers - 1, self.tokens, self.hidden)

    def _slopes(self, count: int) -> Tensor:
        exact = self._by_unit(count)
        return exact.view(torch.float16) if self.dtype == torch.bfloat16 else exact

    def _by_dim(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, self.g, self.tokens, self.width, dtype=dtype, device=self.device)

    def _empty(self, *sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=self.dtype, device=self.device)

    def _counters(self) -> Tensor:
        """How many programs started, and how many of each head arrived at a meeting."""
        return torch.zeros(1 + self.g, dtype=torch.int32, device=self.device)

    # launches

    def walk(
        self, k: Tensor, v: Tensor, gates: ChunkGates, state: Tensor, made: _Made, stretch: _Stretch, *, again: bool
    ) -> None:
        rests = [made.errors] * 4  # only in bfloat16 there are any
        if self.dtype == torch.bfloat16:
            unit, dim = (self.layers - 1, self.tokens, self.hidden), (self.tokens, self.width)
            rests = [self._empty(self.g, *sizes) for sizes in ((self.weights,), unit, unit, dim)]
        walk[(self.g * self.programs,)](
            k, v, gates.write, gates.mix, state, *made, *rests, self._counters(), self.g, *stretch, **self.constants,
            P=self.programs, ACTIVATION=self.activation, AGAIN=again,
        )  # fmt: skip

    def answer(self, q: Tensor, k: Tensor, gates: ChunkGates, made: _Made, y: Tensor, stretch: _Stretch) -> None:
        asks, rests = made.bents, made.slopes.view(self.dtype)  # of the former there are none, and nobody needs these
        answer[(stretch.chunks * self.g,)](
            q, k, gates.read, gates.inner, made.starts, made.xs, made.ds, made.errors, asks, rests, y,
            self.g, stretch.begin,
            **self.constants, ACTIVATION=self.activation,
        )  # fmt: skip

    def back_through_queries(
        self, q: Tensor, k: Tensor, gates: ChunkGates, made: _Made, d_y: Tensor, left: _Left,
        d_rows: Sequence[Tensor], d_gates: ChunkGates, stretch: _Stretch,
    ) -> None:  # fmt: skip
        back_through_queries[(stretch.chunks * self.g,)](
            q, k, gates.read, gates.inner, made.starts, made.xs, made.ds, made.errors, d_y, *left, d_rows[0],
            d_gates.read, d_gates.inner, self.g, stretch.begin, **self.constants, ACTIVATION=self.activation,
        )  # fmt: skip

    def walk_back(
        self, q: Tensor, k: Tensor, gates: ChunkGates, made: _Made, d_y: Tensor, left: _Left, d_state: Tensor,
        d_rows: Sequence[Tensor], d_gates: ChunkGates, stretch: _Stretch,
    ) -> None:  # fmt: skip
        halves = self._empty(self.g, self.parts, self.weights)
        walk_back[(self.g * self.programs,)](
            q, k, gates.read, gates.write, gates.mix, d_y, *made, *left[2:-1], d_state, halves, d_rows[1], d_rows[2],
            d_gates.write, d_gates.mix, self._counters(), self.n, self.g, *stretch, **self.constants,
            P=self.programs,
        )  # fmt: skip


def _precision(q: Tensor) -> str:
    if not q.is_cuda:
        return "ieee"
    return "tf32x3" if q.dtype == torch.float32 else "tf32"
