"""One softmax over keys that are attended to in parts, each by a kernel of its own, gradient included.

Each part's kernel answers with the logarithm of its sum, and the parts are merged (see `merging`). For the gradient no
such logarithm needs one of its own: what a part's weights are in the whole softmax follows from the whole sum, and

    d score = weight (d_out value - d_out out)

holds with the whole output, so each part's backward kernel is given these in place of its own. As torch does it for
rings of devices, after Liu et al. (arXiv 2310.01889).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import reduce
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from titanlab.architectures.attention.backend import Call, Keys, Queries
from titanlab.architectures.attention.merging import Part, merged_part
from titanlab.architectures.attention.without_cudnn import without_cudnn
from titanlab.platform.first_order import first_order
from titanlab.platform.fused_kernels.choice import kernels_take

_aten = torch.ops.aten


class Rows(NamedTuple):
    """Queries, keys and values of a part."""

    queries: Queries
    keys: Keys
    values: Keys


class Answer(NamedTuple):
    """What a kernel says of a part, and what its backward kernel asks for besides."""

    part: Part
    rest: tuple[Any, ...]


class PartKernel(ABC):
    """A kernel for softmax(scale q k^T) v, causal or not, and its gradient."""

    @abstractmethod
    def forward(self, q: Queries, k: Keys, v: Keys, scale: float, causal: bool) -> Answer:
        """The part of these keys."""

    @abstractmethod
    def backward(
        self, d_out: Queries, q: Queries, k: Keys, v: Keys, whole: Part, rest: Sequence[Any], scale: float, causal: bool
    ) -> tuple[Queries, Keys, Keys]:
        """The share of these keys in the gradients of q, k and v, given the output and sum over all keys."""


class FlashPart(PartKernel):
    """flash-attention 2 as torch has it."""

    def forward(self, q: Queries, k: Keys, v: Keys, scale: float, causal: bool) -> Answer:
        out, log_sum, *rest = _aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
        return Answer(Part(out, log_sum), tuple(rest[:6]))

    def backward(
        self, d_out: Queries, q: Queries, k: Keys, v: Keys, whole: Part, rest: Sequence[Any], scale: float, causal: bool
    ) -> tuple[Queries, Keys, Keys]:
        lengths, random = rest[:4], rest[4:]
        gradients = _aten._scaled_dot_product_flash_attention_backward(
            d_out, q, k, v, whole.out, whole.log_sum, *lengths, 0.0, causal, *random, scale=scale
        )
        return cast(tuple[Tensor, Tensor, Tensor], gradients)


class CudnnPart(PartKernel):
    """cuDNN's, of which the sums have an axis more."""

    def forward(self, q: Queries, k: Keys, v: Keys, scale: float, causal: bool) -> Answer:
        out, log_sum, *rest = _aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, 0.0, causal, False, scale=scale
        )
        return Answer(Part(out, log_sum.squeeze(-1)), tuple(rest[:6]))

    def backward(
        self, d_out: Queries, q: Queries, k: Keys, v: Keys, whole: Part, rest: Sequence[Any], scale: float, causal: bool
    ) -> tuple[Queries, Keys, Keys]:
        lengths, random = rest[:4], rest[4:]
        d_out, out = _in_layout_of(q, d_out), _in_layout_of(q, whole.out)
        with torch._C._AutoDispatchBelowAutograd():  # which would ask for a bias
            gradients = _aten._scaled_dot_product_cudnn_attention_backward(
                d_out, q, k, v, out, whole.log_sum.unsqueeze(-1), *random, None, *lengths, 0.0, causal, scale=scale
            )
        return cast(tuple[Tensor, Tensor, Tensor], gradients)


def _in_layout_of(q: Queries, out: Queries) -> Queries:
    """The output, or its gradient, as cuDNN's own would stand in memory: torch keeps a plan of the gradient for sizes
    and strides of q, k and v alone, and one made for another layout of these two reads wrong numbers without a word."""
    laid_out = torch.empty_like(q)
    return out if out.stride() == laid_out.stride() else laid_out.copy_(out)


class FewKeysPart(PartKernel):
    """Ours for a prefix, of so few keys that torch's take several times as long as its bytes do."""

    @staticmethod
    def takes(rows: Rows) -> bool:
        """Whether its kernels can compute this part."""
        if not kernels_take(*rows):
            return False
        from titanlab.platform.fused_kernels.few_keys import fits

        return fits(*rows)

    def forward(self, q: Queries, k: Keys, v: Keys, scale: float, causal: bool) -> Answer:
        from titanlab.platform.fused_kernels.few_keys import attend_to_few

        assert not causal
        return Answer(Part(*attend_to_few(q, k, v, scale)), ())

    def backward(
        self, d_out: Queries, q: Queries, k: Keys, v: Keys, whole: Part, rest: Sequence[Any], scale: float, causal: bool
    ) -> tuple[Queries, Keys, Keys]:
        from titanlab.platform.fused_kernels.few_keys import back_from_few

        return back_from_few(d_out, q, k, v, *whole, scale)


class CpuPart(PartKernel):
    """The one on a CPU, on which all of this is tested."""

    def forward(self, q: Queries, k: Keys, v: Keys, scale: float, causal: bool) -> Answer:
        out, log_sum = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
        return Answer(Part(out, log_sum), ())

    def backward(
        self, d_out: Queries, q: Queries, k: Keys, v: Keys, whole: Part, rest: Sequence[Any], scale: float, causal: bool
    ) -> tuple[Queries, Keys, Keys]:
        gradients = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            d_out, q, k, v, whole.out, whole.log_sum, 0.0, causal, scale=scale
        )
        return cast(tuple[Tensor, Tensor, Tensor], gradients)


ON_CUDA: dict[int, PartKernel] = {
    SDPBackend.FLASH_ATTENTION.value: FlashPart(),
    SDPBackend.CUDNN_ATTENTION.value: CudnnPart(),
}
TRIED = ((9, 0),)
"""Compute capabilities of GPUs that a model was trained on with these kernels."""
FEWEST = 128
"""Queries that are worth several kernels in place of one that is given a mask."""


def kernels_for(call: Call) -> list[PartKernel] | None:
    """What each part of a call is computed with; None where torch would take no kernel for parts for one of them.

    For a past, which is longer at every call, that is what torch takes without cuDNN.
    """
    if not call.q.is_cuda or call.q.shape[2] < FEWEST or call.q.shape[3] % 8:
        return None
    if torch.cuda.get_device_capability(call.q.device) not in TRIED:
        return None
    kernels = []
    for rows, causal in parts_of(call):
        kernel = _kernel_for(rows, causal, rows.queries is not call.q, call.scale)  # a prefix has queries of its own
        if kernel is None:
            return None
        kernels.append(kernel)
    return kernels


def _kernel_for(rows: Rows, causal: bool, of_prefix: bool, scale: float) -> PartKernel | None:
    """Ours for a prefix that it takes, what torch itself would take for all else; None if that is none for parts."""
    if of_prefix and FewKeysPart.takes(rows):
        return FewKeysPart()
    with nullcontext() if causal or of_prefix else without_cudnn():
        return ON_CUDA.get(_aten._fused_sdp_choice(*rows, None, 0.0, causal, scale=scale))


def parts_of(call: Call) -> list[tuple[Rows, bool]]:
    """A part for the prefix, and for each key of a token one for the past, if there is one, and one for the queries'
    own tokens; and whether it is causal."""
    past = call.past
    parts = [(Rows(*call.prefix), False)] if call.prefix else []
    for keys, values in call.streams:
        if past:
            parts.append((Rows(call.q, keys[:, :, :past], values[:, :, :past]), False))
        parts.append((Rows(call.q, keys[:, :, past:], values[:, :, past:]), True))
    return parts


def attend_in_parts(call: Call, kernels: Sequence[PartKernel]) -> Queries:
    """The output [b, h, t, d] of a causal call."""
    prefix, parts = call.prefix or (), parts_of(call)
    own = parts[1:] if prefix else parts
    pairs = [x for rows, _ in own for x in rows[1:]]
    causal = tuple(causal for _, causal in own)
    return cast(Tensor, _InParts.apply(kernels, call.scale, bool(prefix), causal, call.q, *prefix, *pairs))


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, kernels: Sequence[PartKernel], scale: float, has_prefix: bool, causal: tuple[bool, ...],
        *tensors: Tensor,
    ) -> Tensor:  # fmt: skip
        parts = zip(kernels, _given(has_prefix, causal, tensors), strict=True)
        answers = [kernel.forward(*rows, scale, is_causal) for kernel, (rows, is_causal) in parts]
        whole = merged_part([part for part, _ in answers])
        ctx.save_for_backward(*tensors, *whole)
        ctx.kernels, ctx.scale, ctx.has_prefix, ctx.causal = kernels, scale, has_prefix, causal
        ctx.rests = [rest for _, rest in answers]
        return whole.out

    @staticmethod
    @first_order
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, out, log_sum = ctx.saved_tensors
        parts = zip(ctx.kernels, _given(ctx.has_prefix, ctx.causal, tensors), ctx.rests, strict=True)
        found = [
            kernel.backward(d_out, *rows, Part(out, log_sum), rest, ctx.scale, is_causal)
            for kernel, (rows, is_causal), rest in parts
        ]
        own = found[1:] if ctx.has_prefix else found
        d_q = reduce(torch.add, [d for d, _, _ in own])
        of_prefix = found[0] if ctx.has_prefix else ()
        return None, None, None, None, d_q, *of_prefix, *(d for _, *pair in own for d in pair)


def _given(has_prefix: bool, causal: Sequence[bool], tensors: Sequence[Tensor]) -> list[tuple[Rows, bool]]:
    """`parts_of`, of what the function was given."""
    q, *rest = tensors
    first = [(Rows(rest[0], rest[1], rest[2]), False)] if has_prefix else []
    rest = rest[3:] if has_prefix else rest
    return first + [(Rows(q, *pair), is_causal) for *pair, is_causal in zip(rest[::2], rest[1::2], causal, strict=True)]
