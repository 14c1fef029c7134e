"""Decays of their own for every key channel: scores between the tokens of a chunk, and decays to its start and end.

The decay between tokens s <= t is prod_{s<j<=t} exp(log_decay_j), channel by channel. The product is taken pair by
pair, never as a quotient of cumulated products, so a decay of any size, 0 (log -inf) included, is exact and nothing
overflows. That takes c numbers a key channel, so chunks are short (SUB_CHUNK) and a slice of all chunks is done at a
time; nothing of it is kept for the gradient, which computes it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from titanlab.platform.first_order import first_order

SUB_CHUNK = 16
"""Longest chunk whose pairs are formed."""

SLICE_ELEMENTS = 1 << 24
"""Largest array of pairs held at once."""


def decays_from_start(log_decay: Tensor) -> Tensor:
    """prod_{j<=t} of the decays, [..., c, d] -> [..., c, d]."""
    return log_decay.cumsum(-2).exp()


def decays_to_end(log_decay: Tensor) -> Tensor:
    """prod_{t<j<=c} of the decays, [..., c, d] -> [..., c, d]."""
    later = torch.cat([log_decay[..., 1:, :], torch.zeros_like(log_decay[..., :1, :])], -2)
    return later.flip(-2).cumsum(-2).flip(-2).exp()


def decayed_scores_flops(d: int, c: int, *, pairs: int = 1) -> float:
    """Operations a token of `pairs` scores: row t has t + 1 columns, (c + 1) / 2 on average, 2 d each."""
    return pairs * d * (c + 1)


def decayed_scores(queries: Tensor, keys: Tensor, log_decay: Tensor) -> Tensor:
    """sum_d queries[m, t, d] keys[p, s, d] exp(sum_{s<j<=t} log_decay[j, d]) for s <= t, else 0.

    Args:
        queries: [..., m, c, d]; keys: [..., p, c, d]; log_decay: [..., c, d].

    Returns:
        [..., m, p, c, c].
    """
    lead = log_decay.shape[:-2]
    flat = (x.reshape(-1, *x.shape[len(lead) :]) for x in (queries, keys, log_decay))
    return _DecayedScores.apply(*flat).unflatten(0, lead)


class _DecayedScores(torch.autograd.Function):
    """Row by row: the decays of row t are those of row t - 1 times the decay of token t, with a 1 at s = t."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, log_decay: Tensor) -> Tensor:
        ctx.save_for_backward(queries, keys, log_decay)
        (g, m, c, _), p = queries.shape, keys.shape[1]
        scores, rows = queries.new_zeros(g, c, m, c, p), keys.movedim(1, 2).contiguous()
        for part in _slices(log_decay):
            for t, decays in enumerate(_rows_of_decays(log_decay[part].exp())):
                decayed = decays.unsqueeze(2) * rows[part, : t + 1]  # g s p d
                row = torch.bmm(queries[part, :, t], decayed.flatten(1, 2).mT)
                scores[part, t, :, : t + 1] = row.unflatten(-1, (-1, p))
        return scores.permute(0, 2, 4, 1, 3).contiguous()

    @staticmethod
    @first_order
    def backward(ctx: Any, d_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, log_decay = ctx.saved_tensors
        rows, d_scores = keys.movedim(1, 2).contiguous(), d_scores.permute(0, 3, 1, 4, 2).contiguous()
        d_queries, d_rows, d_log = torch.empty_like(queries), torch.zeros_like(rows), torch.empty_like(log_decay)
        with torch.autocast(d_scores.device.type, enabled=False):
            for part in _slices(log_decay):
                d_sums = torch.zeros_like(log_decay[part])  # of the exponents of all pairs (t, s) from row t on
                for t, decays in reversed(list(enumerate(_rows_of_decays(log_decay[part].exp())))):
                    decayed = decays.unsqueeze(2) * rows[part, : t + 1]
                    d_row = d_scores[part, t, :, : t + 1].flatten(2)  # g m s*p
                    d_queries[part, :, t] = torch.bmm(d_row, decayed.flatten(1, 2))
                    d_decayed = torch.bmm(d_row.mT, queries[part, :, t]).view_as(decayed)
                    d_rows[part, : t + 1] += d_decayed * decays.unsqueeze(2)
                    d_sums[:, : t + 1] += (d_decayed * decayed).sum(2)
                    d_log[part, t] = d_sums[:, :t].sum(1)  # token t decays the pairs with s < t <= row
        return d_queries, d_rows.movedim(2, 1), d_log


def _rows_of_decays(decay: Tensor) -> Iterator[Tensor]:
    """Decays between s and t for t = 0, 1, ...: [g, t + 1, d]."""
    row = decay[:, :0]
    for t in range(decay.shape[1]):
        row = torch.cat([row * decay[:, t : t + 1], torch.ones_like(decay[:, :1])], 1)
        yield row


def _slices(log_decay: Tensor) -> list[slice]:
    g, c, d = log_decay.shape
    size = max(1, SLICE_ELEMENTS // max(1, c * c * d))
    return [slice(start, start + size) for start in range(0, g, size)]
