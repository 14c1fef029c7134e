"""A memory of two matrices on a GPU: `dual_form` at depth 2 by Triton kernels, forward and gradient.

Only `deep_memory` imports this, where `backends` chose Triton.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from titanlab.memory_modules.kernels.gates_again import GatesAgain
from titanlab.memory_modules.kernels.triton_matrix_memory import gates_for, padded_to, padded_width
from titanlab.memory_modules.kernels.triton_meeting import multiprocessors
from titanlab.memory_modules.kernels.triton_two_matrix_backward import backward
from titanlab.memory_modules.kernels.triton_two_matrix_forward import forward
from titanlab.platform.first_order import first_order


class Slices(NamedTuple):
    """How a memory is cut over programs; fixed by a rule, so nothing is tuned on a first call."""

    units: int
    """Hidden units of a program."""
    forward: dict[str, int]
    """Warps and stages."""
    backward: dict[str, int]
    every: int
    """Chunks between two saved states: the gradient computes those between again."""
    programs: int
    """Programs a multiprocessor takes at once."""


def slices_for(hidden: int, on_gpu: bool) -> Slices:
    """32 units were faster than 64 on an H100 at any batch; the interpreter, which has one program, takes all."""
    options = {"num_warps": 4, "num_stages": 1}
    return Slices(units=32 if on_gpu else padded_to(hidden), forward=options, backward=options, every=16, programs=2)


def two_matrix_memory(
    q: Tensor, k: Tensor, v: Tensor, gates: tuple[Tensor | None, Tensor | None, Tensor], first: Tensor, second: Tensor,
    activation: str, residual: bool,
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:  # fmt: skip
    """Runs n equal chunks, the gradients of each taken at the memory as it finds it.

    Args:
        q, k, v: [b, n c, h, d] of one type, float32, bfloat16 or float16.
        gates: keep, momentum and step [n, b h, c] float32; keep and momentum may be None, as in `chunk_gates`.
        first: [b h, p, d, hidden] float32: the first matrix and, if p = 2, its momentum.
        second: [b h, p, hidden, d] float32: the second.
        activation: a name in ACTIVATIONS.
        residual: whether M(x) = x + MLP(x).

    Returns:
        y [b, n c, h, d] in q's type, and the p parts of first and of second after the last chunk, [b h, in, out] each,
        float32.
    """
    if _for_hopper(q):
        from titanlab.memory_modules.kernels.hopper.two_matrix_memory import HopperTwoMatrixMemory

        y, *parts = HopperTwoMatrixMemory.apply(activation, residual, q, k, v, *gates, first, second)
        return y, [tuple(parts[: len(parts) // 2]), tuple(parts[len(parts) // 2 :])]
    y, *ends = _TwoMatrixMemory.apply(activation, residual, q, k, v, *gates, first, second)
    return y, [end.unbind(1) for end in ends]


GLUON = (3, 6)
"""The oldest Triton whose Gluon was checked."""


def _for_hopper(q: Tensor) -> bool:
    """Whether the kernels in Gluon compute it; interpreted, they are read for every GPU."""
    if q.dtype != torch.bfloat16 or tuple(map(int, triton.__version__.split(".")[:2])) < GLUON:
        return False
    rows_are_aligned = q.shape[3] % 8 == 0  # 16 bytes at a time are copied to shared memory
    return not q.is_cuda or (rows_are_aligned and torch.cuda.get_device_capability(q.device) == (9, 0))


class _TwoMatrixMemory(torch.autograd.Function):
    """The kernels and what they hand each other; see `two_matrix_memory`."""

    @staticmethod
    def forward(
        ctx: Any, activation: str, residual: bool, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None,
        momentum: Tensor | None, step: Tensor, first: Tensor, second: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        read, inner, write, mix = (x.contiguous() for x in gates_for(keep, momentum, step, q.dtype))
        q, k, v, first, second = (x.contiguous() for x in (q, k, v, first, second))
        call = _Call(q, read, first, activation, residual)
        keeping = any(ctx.needs_input_grad)
        y, end_1, end_2 = torch.empty_like(q), torch.empty_like(first), torch.empty_like(second)
        errors, marks = call.errors(), call.marks(keeping)
        forward[(call.groups * call.slices,)](
            q, k, v, read, inner, write, mix, first, second, y, errors, marks, end_1, end_2, call.rooms(1),
            call.counters(), call.exchange(), *call.sizes, **call.constants, **call.cut.forward, KEEPING=keeping,
        )  # fmt: skip
        if keeping:
            # not the chunks' gates, which are c numbers a token
            ctx.save_for_backward(q, k, keep, momentum, step, first, second, errors, marks)
        ctx.call = call
        return y, end_1, end_2

    @staticmethod
    @first_order
    def backward(ctx: Any, d_y: Tensor, d_end_1: Tensor, d_end_2: Tensor) -> tuple[Tensor | None, ...]:
        q, k, *rates, first, second, errors, marks = ctx.saved_tensors
        call: _Call = ctx.call
        gates = GatesAgain(rates, ctx.needs_input_grad[5:8], q.dtype)
        read, inner, write, mix = (x.detach().contiguous() for x in gates.made)
        d_first, d_second = (
            d_end_1.clone(memory_format=torch.contiguous_format),
            d_end_2.clone(memory_format=torch.contiguous_format),
        )
        d_q, d_k, d_inner = torch.empty_like(q), torch.empty_like(k), torch.empty_like(inner)
        d_v = torch.empty_like(q, dtype=call.products)
        d_read, d_write, d_mix = (x.new_empty(call.slices, *x.shape) for x in (read, write, mix))
        backward[(call.groups * call.slices,)](
            q, k, read, inner, write, mix, errors, first, second, marks, d_y.contiguous(), d_q, d_k, d_v, d_read,
            d_inner, d_write, d_mix, d_first, d_second, call.rooms(2), call.starts(),
            call.lefts(), call.counters(), call.exchange(),
            *call.sizes, **call.constants, **call.cut.backward,
        )  # fmt: skip
        return (
            None,
            None,
            d_q,
            d_k,
            d_v.to(q.dtype),
            *gates.gradients(d_read.sum(0), d_inner, d_write.sum(0), d_mix.sum(0)),
            d_first,
            d_second,
        )


def _precision(q: Tensor) -> str:
    if not q.is_cuda:
        return "ieee"
    return "tf32x3" if q.dtype == torch.float32 else "tf32"


class _Call:
    """Sizes, arguments and room that the kernels of one call share."""

    def __init__(self, q: Tensor, read: Tensor, first: Tensor, activation: str, residual: bool) -> None:
        self.n, self.g, self.c, self.parts = read.shape
        self.dim, self.hidden = first.shape[2:]
        self.device = q.device
        # float16 has too short a range for gradients of states: its products are taken in tf32, as precise
        self.products = torch.bfloat16 if q.dtype == torch.bfloat16 else torch.float32
        self.cut = slices_for(self.hidden, q.is_cuda)
        self.slices = triton.cdiv(self.hidden, self.cut.units)
        programs = self.cut.programs * multiprocessors(q.device) if q.is_cuda else self.slices
        self.groups = max(1, min(self.g, programs // self.slices))
        self.every = min(self.n, self.cut.every)
        self.tokens, self.width = padded_to(self.c), padded_width(self.dim)
        self.sizes = (self.n, self.g, self.groups, self.every)
        self.constants = {
            "H": q.shape[2],
            "c": self.c,
            "F": self.hidden,
            "D": self.dim,
            "BC": self.tokens,
            "BD": self.width,
            "BF": self.cut.units,
            "P": self.slices,
            "BR": triton.next_power_of_2(triton.cdiv(self.tokens, self.slices)),
            "MOMENTUM": self.parts == 2,
            "RESIDUAL": residual,
            "ACTIVATION": activation,
            "TYPE": tl.bfloat16 if self.products == torch.bfloat16 else tl.float32,
            "PRECISION": _precision(q),
        }

    def errors(self) -> Tensor:
        """E of every chunk."""
        return torch.empty(self.n, self.g, self.c, self.dim, dtype=self.products, device=self.device)

    def marks(self, keeping: bool) -> Tensor:
        """The state before every chunk of number every, 2 every, ...; the first one is the call's own."""
        count = (self.n - 1) // self.every if keeping else 0
        sizes = (count, self.g, self.slices, 2 * self.parts, self.width, self.cut.units)
        return torch.empty(sizes, dtype=torch.float32, device=self.device)

    def starts(self) -> Tensor:
        """A program's states at the chunks between two marks."""
        sizes = (self.groups * self.slices, self.every, 2 * self.parts, self.width, self.cut.units)
        return torch.empty(sizes, dtype=self.products, device=self.device)

    def counters(self) -> Tensor:
        """How many programs started, and how many of each group arrived at a meeting."""
        return torch.zeros(1 + self.groups, dtype=torch.int32, device=self.device)

    def exchange(self) -> Tensor:
        """What programs of a head leave for each other: room for the backward kernel, which needs more."""
        sizes = (self.groups, 9, self.slices, self.tokens, max(self.tokens, self.width))
        return torch.empty(sizes, dtype=torch.float32, device=self.device)

    def rooms(self, count: int) -> Tensor:
        """The slices of state and gradients that programs work on."""
        sizes = (self.groups * self.slices, count, 2 * self.parts, self.width, self.cut.units)
        return torch.empty(sizes, dtype=torch.float32, device=self.device)

    def lefts(self) -> Tensor:
        """What the backward kernel's steps of one chunk leave for each other."""
        sizes = (self.groups * self.slices, 8, self.tokens, self.cut.units)
        return torch.empty(sizes, dtype=self.products, device=self.device)
