"""The loss of a language model from what its output layer takes: with or without all its logits in memory.

Logits of 32,768 tokens over 32,000 ids take 4 GB in float32, their gradient as much. `chunked` forms those of some
tokens at a time and takes their gradient at once, so neither ever exists as a whole: as many matrix products as
before, the same sums up to rounding.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.first_order import first_order
from titanlab.platform.fused_kernels.choice import kernels_take
from titanlab.platform.fusion import fusible
from titanlab.platform.model import LOGITS_AT_ONCE, logits_loss
from titanlab.platform.tensors import Hidden, Ids, Mask, at_least_float32, compute_type

Way: TypeAlias = Literal["auto", "whole", "chunked", "liger"]

IGNORED = -100
TILE = 128


def check_way(way: Way, device: torch.device) -> None:
    """Refuses a loss that cannot be computed here.

    Raises:
        ConfigError: for liger without Liger-Kernel, or without a GPU.
    """
    if way != "liger":
        return
    if device.type != "cuda":
        raise ConfigError(
            Problem(f"liger needs a CUDA device and this run is on {device.type}; choose auto", "train.loss")
        )
    if find_spec("liger_kernel") is None:
        message = "Liger-Kernel is not installed (pip install liger-kernel); install it, or choose auto"
        raise ConfigError(Problem(message, "train.loss"))


def used_way(way: Way, tokens: int, vocab: int) -> Way:
    """What `auto` is for so many tokens at once."""
    return way if way != "auto" else "chunked" if tokens * vocab > LOGITS_AT_ONCE else "whole"


def sum_of_nats(x: Hidden, head: nn.Linear, targets: Ids, mask: Mask, way: Way) -> Tensor:
    """Cross-entropy in nats, summed over the counted positions, in float32 or better.

    Args:
        x: what the output layer takes, [b, t, dim].
        head: the output layer, without a bias.
        targets: [b, t]; where mask is 0, anything.
        mask: 1 where a position counts, else 0.
        way: auto | whole | chunked | liger.
    """
    way = used_way(way, targets.numel(), head.weight.shape[0])
    targets = targets.masked_fill(mask == 0, 0)  # what does not count may be no token at all
    if way == "whole":
        return logits_loss(head(x), targets, mask)
    rows = (x.flatten(0, 1), head.weight, targets.flatten(), mask.flatten())
    return _liger(*rows) if way == "liger" else _chunked(*rows)


def _liger(x: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """By Liger-Kernel, whose kernel waits for the GPU to count the targets."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    dtype = compute_type(x)
    with torch.autocast(x.device.type, enabled=False):
        counted = torch.where(mask.bool(), targets, IGNORED)
        loss = liger_fused_linear_cross_entropy(
            x.to(dtype), weight.to(dtype), counted, ignore_index=IGNORED, reduction="sum", accum_dtype=torch.float32
        )
    return cast(Tensor, loss)


def _chunked(x: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    dtype = compute_type(x)
    return cast(Tensor, _ChunkedNats.apply(x, weight, targets, mask.to(at_least_float32(dtype)), dtype))


class _ChunkedNats(torch.autograd.Function):
    """Takes the gradient with the loss, chunk by chunk: the loss is one number, so backward only scales it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
        taken = any(ctx.needs_input_grad[:2])
        with torch.autocast(x.device.type, enabled=False):
            low, nats = weight.to(dtype), mask.new_zeros(())
            d_x = torch.empty_like(x) if taken else x
            d_weight = torch.zeros_like(weight, dtype=mask.dtype) if taken else weight
            size = _rows_at_once(len(weight))
            for part in (slice(start, start + size) for start in range(0, len(x), size)):
                chunk = x[part].to(dtype)
                more, d_logits = _nats_and_gradient(chunk @ low.mT, targets[part], mask[part], gradient=taken)
                nats = nats + more
                if taken:
                    d_x[part] = d_logits @ low
                    d_weight += d_logits.mT @ chunk
        ctx.save_for_backward(d_x, d_weight.to(weight.dtype))
        return nats

    @staticmethod
    @first_order
    def backward(ctx: Any, d_nats: Tensor) -> tuple[Tensor | None, ...]:
        d_x, d_weight = ctx.saved_tensors
        return d_x * d_nats.to(d_x.dtype), d_weight * d_nats.to(d_weight.dtype), None, None, None


def _rows_at_once(vocab: int) -> int:
    """Tokens of a chunk: of several tiles of a GPU's matrix products, whole ones."""
    size = max(1, LOGITS_AT_ONCE // vocab)
    return size if size < TILE else size // TILE * TILE


def _nats_and_gradient(
    logits: Float[Tensor, "n vocab"], targets: Int[Tensor, " n"], mask: Float[Tensor, " n"], *, gradient: bool
) -> tuple[Tensor, Tensor]:
    """The counted nats and, if it is wanted, their gradient in the logits' type, perhaps in their place; else these."""
    if kernels_take(logits[None], mask[None]):
        from titanlab.platform.fused_kernels.nats_of_rows import nats_of_rows

        return nats_of_rows(logits, targets, mask, gradient=gradient).sum(), logits
    return _nats_and_gradient_in_torch(logits, targets, mask, gradient)


@fusible
def _nats_and_gradient_in_torch(
    logits: Float[Tensor, "n vocab"], targets: Int[Tensor, " n"], mask: Float[Tensor, " n"], gradient: bool
) -> tuple[Tensor, Tensor]:
    logs = F.log_softmax(logits, -1, dtype=mask.dtype)
    nats = -(logs.gather(1, targets[:, None])[:, 0] * mask).sum()
    if not gradient:
        return nats, logits
    hit = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    return nats, ((logs.exp() - hit.to(mask.dtype)) * mask[:, None]).to(logits.dtype)
