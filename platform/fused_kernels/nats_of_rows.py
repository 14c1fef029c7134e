"""Cross-entropy of rows of logits and its gradient, which takes the logits' place: one row a program, read twice.

nat = (log sum_j exp l_j - l_target) mask      d l_j = (exp(l_j - log sum exp l) - [j = target]) mask
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 4096
"""Of a row that a program holds at once."""


def nats_of_rows(logits: Tensor, targets: Tensor, mask: Tensor, *, gradient: bool) -> Tensor:
    """Nats of each row.

    Args:
        logits: [n, vocab], contiguous; with `gradient` the gradient of the nats' sum is written over them.
        targets: [n]; one that is none of the vocabulary makes a counted row NaN.
        mask: [n], float32: what a row's nats and gradient are multiplied by.
        gradient: whether it is wanted.

    Returns:
        [n], float32.
    """
    count, vocab = logits.shape
    nats = torch.empty(count, dtype=torch.float32, device=logits.device)
    columns = min(COLUMNS, triton.next_power_of_2(vocab))
    _rows[(count,)](logits, targets.contiguous(), mask.contiguous(), nats, vocab, GRADIENT=gradient, BC=columns,
                    num_warps=8)  # fmt: skip
    return nats


@triton.jit
def _rows(  # type: ignore[no-untyped-def]
    logits, targets, mask, nats, vocab, GRADIENT: tl.constexpr, BC: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    target, counts = tl.load(targets + row), tl.load(mask + row)
    logits += row * vocab
    columns = tl.arange(0, BC)
    most, total = tl.full([BC], float("-inf"), tl.float32), tl.zeros([BC], tl.float32)  # of a lane's own columns
    for start in range(0, vocab, BC):
        here = tl.load(logits + start + columns, start + columns < vocab, float("-inf")).to(tl.float32)
        greater = tl.maximum(most, here)
        # a lane that has seen nothing but -inf has no sum yet, and -inf - -inf is no number
        shift = tl.where(greater == float("-inf"), 0.0, greater)
        total = total * tl.exp(most - shift) + tl.exp(here - shift)
        most = greater
    peak = tl.max(most, 0)
    log_sum = peak + tl.log(tl.sum(total * tl.exp(most - peak), 0))
    known = (target >= 0) & (target < vocab)
    hit = tl.load(logits + target, known, 0.0).to(tl.float32)
    nat = tl.where(known, log_sum - hit, float("nan")) * counts
    tl.store(nats + row, tl.where(counts == 0.0, 0.0, nat))
    if GRADIENT:
        tl.debug_barrier()  # the target's logit is read before it is written over
        for start in range(0, vocab, BC):
            place, inside = logits + start + columns, start + columns < vocab
            weight = tl.exp(tl.load(place, inside, 0.0).to(tl.float32) - log_sum)
            found = (weight - tl.where(start + columns == target, 1.0, 0.0)) * counts
            tl.store(place, found.to(logits.dtype.element_ty), inside)
