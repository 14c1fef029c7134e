"""A memory of two matrices on Hopper in bfloat16: `dual_form` at depth 2, forward and gradient.

Only `triton_two_matrix_memory` imports this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from titanlab.memory_modules.kernels.gates_again import GatesAgain
from titanlab.memory_modules.kernels.hopper.tiles import INTERPRETED, layout_of_held
from titanlab.memory_modules.kernels.hopper.two_matrix_queries import answer, back_through_queries
from titanlab.memory_modules.kernels.hopper.two_matrix_walk import walk
from titanlab.memory_modules.kernels.hopper.two_matrix_walk_back import walk_back
from titanlab.memory_modules.kernels.hopper.two_matrix_writes import back_through_writes
from titanlab.memory_modules.kernels.triton_chunk_gates import back_through_chunk_gates
from titanlab.memory_modules.kernels.triton_matrix_memory import gates_for, padded_to
from titanlab.memory_modules.kernels.triton_meeting import multiprocessors
from titanlab.platform.first_order import first_order
from titanlab.platform.recomputation import keeps_states

TOKENS = 64
"""Rows of a tile: what one product of a tensor core computes, so shorter chunks are filled up to it."""
STRETCH, SHORT_STRETCH = 2048, 1024
"""Chunks, of all heads, whose memory is kept at a time (131 kB each at d 64 and 256 hidden units); of a short stretch
the gradients are kept, too."""


class HopperTwoMatrixMemory(torch.autograd.Function):
    """The kernels and what they hand each other; see `two_matrix_memory`.

    For the gradient it keeps W and S before every stretch and walks through its chunks again or, where states are to be
    kept, the memory before every chunk and the chunks' gates, whose bits are the same.
    """

    @staticmethod
    def forward(
        ctx: Any, activation: str, residual: bool, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None,
        momentum: Tensor | None, step: Tensor, first: Tensor, second: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        gates = [x.contiguous() for x in gates_for(keep, momentum, step, q.dtype)]
        q, k, v, first, second = (x.contiguous() for x in (q, k, v, first, second))
        call = _Call(q, gates[0], first, activation, residual)
        keeping = any(ctx.needs_input_grad)
        ctx.kept = keeping and keeps_states()
        y, errors, starts = torch.empty_like(q), call.errors(), call.memories(call.n if ctx.kept else call.stretch)
        states = [(first, second)]
        for stretch in call.stretches():
            state, end = states[-1], (torch.empty_like(first), torch.empty_like(second))
            found = starts[stretch.begin :] if ctx.kept else starts
            call.walk(k, v, gates, state, errors, found, end, stretch, again=False)
            call.answer(q, k, gates, errors, found, y, stretch)
            states = [*states, end] if keeping and not ctx.kept else [end]
        end = states.pop()
        if keeping:
            # the chunks' gates are c numbers a token
            left = [starts, *gates] if ctx.kept else [x for state in states for x in state]
            ctx.save_for_backward(q, k, keep, momentum, step, errors, *left)
        ctx.call = call
        # each for itself, so that gradients of W and S come apart: they are never put together
        return y, *(part for matrix in end for part in matrix.unbind(1))

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor, *d_parts: Tensor) -> tuple[Tensor | None, ...]:
        q, k, keep, momentum, step, errors, *left_behind = ctx.saved_tensors
        call: _Call = ctx.call
        again = None if ctx.kept else GatesAgain((keep, momentum, step), ctx.needs_input_grad[5:8], q.dtype)
        gates = left_behind[1:] if again is None else [x.detach().contiguous() for x in again.made]
        d_state = call.states()
        d_end = _Ends.of(*d_parts)
        d_q, d_k, d_v, *d_gates = (torch.empty_like(x) for x in (q, k, q, *gates))
        room, left = None if ctx.kept else call.memories(call.stretch), call.left()
        d_y = d_y.contiguous()
        for stretch in reversed(list(call.stretches())):
            if room is None:
                starts = left_behind[0][stretch.begin :]
            else:
                starts = call.walked_again(k, gates, left_behind, errors, room, stretch)
            for short in reversed(list(call.short_stretches(stretch))):
                found = starts[short.begin - stretch.begin :]
                call.back_through_queries(q, k, gates, errors, found, d_y, d_q, d_gates, left, short)
                call.walk_back(q, k, gates, errors, d_y, found, left, d_v, d_end, d_state, short)
                d_end = _Ends.of(*(part for matrix in d_state for part in matrix.unbind(1)))
                call.back_through_writes(k, gates, errors, found, left, d_v, d_k, d_gates, short)
        if again is None:
            return (None, None, d_q, d_k, d_v, *back_through_chunk_gates(keep, momentum, step, *d_gates), *d_state)
        return (None, None, d_q, d_k, d_v, *again.gradients(*d_gates), *d_state)


class _Stretch(NamedTuple):
    """Chunks that follow one another."""

    begin: int
    chunks: int


class _Ends(NamedTuple):
    """Gradients of the state after a stretch, where they are."""

    parts: tuple[Tensor, Tensor, Tensor, Tensor]
    """Of W1, S1, W2, S2; without momentum W stands for S."""
    w_step: int
    """Numbers from head to head."""
    s_step: int

    @staticmethod
    def of(*parts: Tensor) -> _Ends:
        """From those of W1, S1, W2, S2 or, without momentum, W1, W2; [g, in, out] each."""
        pairs = [_alike(*pair) for pair in zip(parts[: len(parts) // 2], parts[len(parts) // 2 :], strict=True)]
        (w1, w2), (s1, s2) = pairs[0], pairs[-1]
        return _Ends((w1, s1, w2, s2), w1.stride(0), s1.stride(0))


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both as they are, if their heads are whole and as far from one another."""
    if first[0].is_contiguous() and second[0].is_contiguous() and first.stride(0) == second.stride(0):
        return first, second
    return first.contiguous(), second.contiguous()


class _Left(NamedTuple):
    """What the backward kernels of a short stretch leave for one another; see their docstrings."""

    wanted: Tensor
    d_asked: Tensor
    d_backs: Tensor
    d_values: Tensor
    d_errors: Tensor
    d_keys: Tensor
    d_ends: Tensor


class _Call:
    """Sizes, room and launches that the kernels of one call share."""

    def __init__(self, q: Tensor, read: Tensor, first: Tensor, activation: str, residual: bool) -> None:
        self.n, self.g, self.c, self.parts = read.shape
        self.dim, self.hidden = first.shape[2:]
        self.device, self.dtype = q.device, q.dtype
        self.width = max(TOKENS, padded_to(self.dim))
        self.units = self._units()
        self.slices = triton.cdiv(self.hidden, self.units)
        self.stretch = min(self.n, max(1, STRETCH // self.g))
        # a whole call of one stretch holds little, and fewer launches are faster
        self.short = self.n if self.stretch == self.n else max(1, min(self.stretch, SHORT_STRETCH // self.g))
        self.sizes = {
            "H": q.shape[2],
            "c": self.c,
            "D": self.dim,
            "BC": TOKENS,
            "BD": self.width,
            "BF": self.units,
            "P": self.slices,
            "MOMENTUM": self.parts == 2,
            "RESIDUAL": residual,
            "ACTIVATION": activation,
        }

    def stretches(self) -> Iterator[_Stretch]:
        return self._cut(_Stretch(0, self.n), self.stretch)

    def short_stretches(self, stretch: _Stretch) -> Iterator[_Stretch]:
        return self._cut(stretch, self.short)

    @staticmethod
    def _cut(whole: _Stretch, count: int) -> Iterator[_Stretch]:
        stop = whole.begin + whole.chunks
        for begin in range(whole.begin, stop, count):
            yield _Stretch(begin, min(count, stop - begin))

    def walk(
        self, k: Tensor, v: Tensor, gates: list[Tensor], state: tuple[Tensor, ...], errors: Tensor, starts: Tensor,
        end: tuple[Tensor, ...], stretch: _Stretch, *, again: bool,
    ) -> None:  # fmt: skip
        _, _, write, mix = gates
        units = self._units_of_walk()
        slices = triton.cdiv(self.hidden, units)
        groups = self._groups(slices)
        meeting = (errors, errors) if again else (self._counter(), self._places(groups, slices))  # again nobody meets
        walk[(groups * slices,)](
            k, v, write, mix, *state, errors, starts, *end, *meeting,
            self.n, self.g, groups, *stretch, **self._of_walk(units, slices), SF=self.units, SLICES=self.slices,
            AGAIN=again,
        )  # fmt: skip

    def walked_again(
        self, k: Tensor, gates: list[Tensor], marks: list[Tensor], errors: Tensor, room: Tensor, stretch: _Stretch
    ) -> Tensor:
        """The memory before each chunk of a stretch, in its room, from W and S before the first."""
        number = stretch.begin // self.stretch
        state = (marks[2 * number], marks[2 * number + 1])
        self.walk(k, k, gates, state, errors, room, state, stretch, again=True)
        return room

    def answer(
        self, q: Tensor, k: Tensor, gates: list[Tensor], errors: Tensor, starts: Tensor, y: Tensor, stretch: _Stretch
    ) -> None:
        read, inner, _, _ = gates
        answer[(stretch.chunks * self.g,)](
            q, k, read, inner, errors, starts, y, self.n, self.g, stretch.begin, **self.sizes, **self._of_chunk()
        )

    def back_through_queries(
        self, q: Tensor, k: Tensor, gates: list[Tensor], errors: Tensor, starts: Tensor, d_y: Tensor, d_q: Tensor,
        d_gates: list[Tensor], left: _Left, stretch: _Stretch,
    ) -> None:  # fmt: skip
        read, inner, _, _ = gates
        back_through_queries[(stretch.chunks * self.g,)](
            q, k, read, inner, errors, starts, d_y, d_q, d_gates[0], d_gates[1], left.wanted, left.d_asked,
            left.d_errors, left.d_backs, left.d_values, left.d_keys, self.n, self.g, stretch.begin, **self.sizes,
            **self._of_chunk(),
        )  # fmt: skip

    def walk_back(
        self, q: Tensor, k: Tensor, gates: list[Tensor], errors: Tensor, d_y: Tensor, starts: Tensor, left: _Left,
        d_v: Tensor, d_end: _Ends, d_state: tuple[Tensor, ...], stretch: _Stretch,
    ) -> None:  # fmt: skip
        read, _, write, mix = gates
        groups = self._groups(self.slices)
        walk_back[(groups * self.slices,)](
            q, k, read, write, mix, errors, d_y, starts, left.wanted, left.d_asked, left.d_errors, left.d_backs,
            left.d_values, d_v, *d_end.parts, *d_state, left.d_asked, left.d_ends, self._counter(),
            self._places(groups, self.slices), self.n, self.g, groups, *stretch, d_end.w_step, d_end.s_step,
            **self._of_walk(self.units, self.slices),
        )  # fmt: skip

    def back_through_writes(
        self, k: Tensor, gates: list[Tensor], errors: Tensor, starts: Tensor, left: _Left, d_v: Tensor, d_k: Tensor,
        d_gates: list[Tensor], stretch: _Stretch,
    ) -> None:  # fmt: skip
        back_through_writes[(stretch.chunks * self.g,)](
            k, gates[2], errors, starts, left.d_asked, left.d_ends, left.d_keys, d_v, d_k, d_gates[2], d_gates[3],
            self.n, self.g, stretch.begin, **self.sizes, **self._of_chunk(),
        )  # fmt: skip

    def _units(self) -> int:
        """Hidden units of a program and of a step of a program that takes them all."""
        if INTERPRETED:
            return padded_to(self.hidden)
        return min(64 if self.width == TOKENS else 32, max(32, padded_to(self.hidden)))

    def _units_of_walk(self) -> int:
        """The same of a forward walk, which has registers for twice as many, at half as long again a chunk: where that
        leaves so few programs that they take fewer turns."""
        wide = 2 * self.units
        if INTERPRETED or self.width > TOKENS or self.hidden < wide:
            return self.units
        narrow_turns, wide_turns = (
            triton.cdiv(self.g, self._groups(triton.cdiv(self.hidden, units))) for units in (self.units, wide)
        )
        return wide if 1.5 * wide_turns <= narrow_turns else self.units

    def _groups(self, slices: int) -> int:
        """How many heads are walked at once: each program takes the registers of a multiprocessor."""
        return 1 if INTERPRETED else max(1, min(self.g, multiprocessors(self.device) // slices))

    def _of_walk(self, units: int, slices: int) -> dict[str, Any]:
        warps = 8
        return {
            **self.sizes,
            "BF": units,
            "P": slices,
            "F": self.hidden,
            "BR": triton.next_power_of_2(triton.cdiv(TOKENS, slices)),
            "L": layout_of_held(min(units, 64), warps),
            "THREADS": 32 * warps,
            "num_warps": warps,
        }

    def _of_chunk(self) -> dict[str, Any]:
        return {"L": layout_of_held(self.units), "num_warps": 4}

    def errors(self) -> Tensor:
        """E of every chunk."""
        return torch.empty(self.n, self.g, self.c, self.dim, dtype=self.dtype, device=self.device)

    def memories(self, count: int) -> Tensor:
        """What is shaped like the memory before each chunk of a stretch, in all slices."""
        sizes = (count, self.g, self.slices, 2 * self.parts, self.width, self.units)
        return torch.empty(sizes, dtype=self.dtype, device=self.device)

    def left(self) -> _Left:
        by_unit = (self.short, self.g, self.slices, TOKENS, self.units)
        by_dim = (self.short, self.g, TOKENS, self.width)
        wanted, d_asked, d_backs, d_values = (
            torch.empty(by_unit, dtype=self.dtype, device=self.device) for _ in range(4)
        )
        d_errors, d_keys = (torch.empty(by_dim, dtype=torch.float32, device=self.device) for _ in range(2))
        return _Left(wanted, d_asked, d_backs, d_values, d_errors, d_keys, self.memories(self.short))

    def states(self) -> tuple[Tensor, Tensor]:
        """What is shaped like the state, first and second matrix."""
        sizes = ((self.dim, self.hidden), (self.hidden, self.dim))
        first, second = (
            torch.empty(self.g, self.parts, *matrix, dtype=torch.float32, device=self.device) for matrix in sizes
        )
        return first, second

    def _counter(self) -> Tensor:
        """How many programs started."""
        return torch.zeros(1, dtype=torch.int32, device=self.device)

    def _places(self, groups: int, slices: int) -> Tensor:
        """Where programs of a head leave their parts of sums for each other."""
        sizes = (groups if slices > 1 else 0, 2, slices, TOKENS, self.width)
        return torch.zeros(sizes, dtype=torch.float32, device=self.device)
