"""Attention by the flash-attn package's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from titanlab.architectures.attention.backend import AttentionBackend, Call, Causal, Keys, Queries, SlidingWindow
from titanlab.architectures.attention.flash_kernels import (
    Back,
    FlashAttention4,
    FlashKernel,
    capability,
    kernel_for,
    widest_head,
)
from titanlab.architectures.attention.in_parts import (
    TRIED,
    Answer,
    FewKeysPart,
    PartKernel,
    Rows,
    attend_in_parts,
)
from titanlab.architectures.attention.merging import Part, merged
from titanlab.platform.recording import is_for_replay

CHECKED_HEADS = {torch.bfloat16: (32, 64, 128), torch.float16: (64,)}
"""Widths of heads by type; of 256 not, whose gradients are not the same bits each time."""
CHECKED_CAUSAL_HEADS = {torch.bfloat16: (32, 64, 96, 128), torch.float16: (64,)}


def was_checked(call: Call) -> bool:
    """Whether such calls were compared with float32, gradients too: what `auto` gives to flash-attn, and nothing else.

    Entered here is what docs/attention.md tells of; a call that is not may be right as well, and can be forced.
    """
    q, device = call.q, capability(call.q.device)
    has_window, of_mac = isinstance(call.pattern, SlidingWindow), call.pattern.keys_per_token == 2
    return (
        device == (9, 0)
        and q.shape[3] in (CHECKED_HEADS if has_window or of_mac else CHECKED_CAUSAL_HEADS).get(q.dtype, ())
        and (is_for_replay() if of_mac else call.pattern.keys_per_token == 1)  # sdpa waits less for Python
        and (call.prefix is None or has_window or of_mac)
        and call.past == 0
        and q.shape[2] >= 512  # fewer are not worth the seconds that the first call takes
        and not torch.are_deterministic_algorithms_enabled()  # which asks for other kernels
        and isinstance(kernel_for(device), FlashAttention4)  # last, for it imports the package
    )


class FlashBackend(AttentionBackend):
    """flash-attn 4 (`flash_attn.cute`) from Hopper on, else flash-attn 2; bfloat16 and float16.

    Its kernels know causal masks and windows. What is more is computed in parts and merged, which is exact: a prefix
    is a part of its own, for queries before rotation, and where keys_per_token keys stand at each token, the first of
    each, the second, ... are a causal part each. Where flash-attn 4's backward kernel can be had by itself, `in_parts`
    computes causal calls without a cache; else log-sum-exps have gradients.
    """

    def obstacle(self, call: Call) -> str:
        q = call.q
        if not q.is_cuda:
            return f"flash-attn needs a CUDA device, and the tensors are on {q.device.type}"
        if q.dtype not in (torch.bfloat16, torch.float16):
            return f"flash-attn takes bfloat16 and float16, not {q.dtype}; set train.precision to bfloat16"
        widest = widest_head(capability(q.device))
        if q.shape[3] > widest or q.shape[3] % 8:
            return f"flash-attn takes heads of a multiple of 8 up to {widest} here, not of {q.shape[3]}; change heads"
        kernel = kernel_for(capability(q.device))
        if isinstance(kernel, str):
            return kernel
        if call.needs_gradients and not call.is_one_kernel and not kernel.log_sum_has_gradient:
            return (
                f"{kernel.name} cannot be trained with persistent tokens or in mac; set sdpa, or on Hopper and later "
                "install flash-attn 4"
            )
        return ""

    def is_preferred(self, call: Call) -> bool:
        return call.q.is_cuda and was_checked(call)

    def attend(self, call: Call) -> Queries:
        kernel = kernel_for(capability(call.q.device))
        if isinstance(kernel, str):
            raise RuntimeError(kernel)
        if call.is_one_kernel:
            return _attend(kernel, call).out
        is_tried = capability(call.q.device) in TRIED and not call.past
        if kernel.back and is_tried and isinstance(call.pattern, Causal):
            package = PackagePart(kernel, kernel.back)
            of_prefix = FewKeysPart() if call.prefix and FewKeysPart.takes(Rows(*call.prefix)) else package
            own: list[PartKernel] = [package] * call.pattern.keys_per_token
            return attend_in_parts(call, [of_prefix, *own] if call.prefix else own)
        parts = _streams(kernel, call) if call.pattern.keys_per_token > 1 else [_attend(kernel, call)]
        if call.prefix is not None:
            queries, keys, values = _time_first(*call.prefix)
            out, log_sum = kernel.attend(queries, keys, values, call.scale, causal=False)
            parts.append(Part(out.transpose(1, 2), log_sum))
        return merged(parts)


class PackagePart(PartKernel):
    """The package's kernel of a part, and its backward kernel by itself."""

    def __init__(self, kernel: FlashKernel, back: Back) -> None:
        self.kernel, self.back = kernel, back

    def forward(self, q: Queries, k: Keys, v: Keys, scale: float, causal: bool) -> Answer:
        q, k, v = _time_first(q, k, v)
        out, log_sum = self.kernel.attend(q, k, v, scale, causal=causal)
        return Answer(Part(out.transpose(1, 2), log_sum), ())

    def backward(
        self, d_out: Queries, q: Queries, k: Keys, v: Keys, whole: Part, rest: Sequence[Any], scale: float, causal: bool
    ) -> tuple[Queries, Keys, Keys]:
        d_out, q, k, v, out = _time_first(d_out, q, k, v, whole.out)
        d_q, d_k, d_v = self.back(d_out, q, k, v, out, whole.log_sum, scale, causal)
        return d_q.transpose(1, 2), d_k.transpose(1, 2), d_v.transpose(1, 2)


def _time_first(*rows: Tensor) -> tuple[Tensor, ...]:
    """[b, h, t, d] -> [b, t, h, d]."""
    return tuple(x.transpose(1, 2) for x in rows)


def _attend(kernel: FlashKernel, call: Call) -> Part:
    """The pattern's part where one key stands at each token."""
    window = call.pattern.window if isinstance(call.pattern, SlidingWindow) else None
    q, k, v = _time_first(call.q, call.k, call.v)
    out, log_sum = kernel.attend(q, k, v, call.scale, causal=True, window=window)
    return Part(out.transpose(1, 2), log_sum)


def _streams(kernel: FlashKernel, call: Call) -> list[Part]:
    """A causal part each of the first, second, ... key of each token."""
    q, parts = call.q.transpose(1, 2), []
    for keys, values in call.streams:
        out, log_sum = kernel.attend(q, keys.transpose(1, 2), values.transpose(1, 2), call.scale, causal=True)
        parts.append(Part(out.transpose(1, 2), log_sum))
    return parts
