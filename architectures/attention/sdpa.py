"""Attention by torch's scaled_dot_product_attention: every device and type, memory linear in time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from titanlab.architectures.attention.backend import (
    AttentionBackend,
    Causal,
    Explicit,
    Keys,
    Pattern,
    Queries,
    SlidingWindow,
)

MASKED_QUERIES = 512  # queries of a causal call that share one mask: bounds it when a long piece follows a cache


class SdpaBackend(AttentionBackend):
    """torch's fused kernels. No mask is larger than a block of queries against what that block may see."""

    def supports(self, q: Queries, pattern: Pattern) -> bool:
        return True

    def attend(self, q: Queries, k: Keys, v: Keys, pattern: Pattern, scale: float) -> Queries:
        match pattern:
            case Causal():
                return _causal(q, k, v, scale)
            case SlidingWindow(window, prefix):
                return _sliding_window(q, k, v, window, prefix, scale)
            case Explicit(mask):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _causal(q: Queries, k: Keys, v: Keys, scale: float) -> Queries:
    time, past = q.shape[2], k.shape[2] - q.shape[2]
    if past == 0 or time == 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=past == 0, scale=scale)
    blocks = []
    for start in range(0, time, MASKED_QUERIES):
        end = min(start + MASKED_QUERIES, time)
        mask = _ones(end - start, past + end, q).tril(past + start)
        seen = (k[:, :, : past + end], v[:, :, : past + end])
        blocks.append(F.scaled_dot_product_attention(q[:, :, start:end], *seen, attn_mask=mask, scale=scale))
    return torch.cat(blocks, 2)


def _sliding_window(q: Queries, k: Keys, v: Keys, window: int, prefix: int, scale: float) -> Queries:
    """The first `window` queries against what precedes them, then all later blocks of `window` queries at once."""
    first = min(window, q.shape[2])
    past = min(k.shape[2] - prefix - q.shape[2], window - 1)
    own = k.shape[2] - q.shape[2]  # where the keys of the queries' own tokens begin
    prefix_k, prefix_v, k, v = k[:, :, :prefix], v[:, :, :prefix], k[:, :, own - past :], v[:, :, own - past :]
    # A query sees at most all `past` < window cached tokens, so within the first block only the far end is cut.
    mask = _ones(first, past + first, q).tril(past).triu(past - window + 1)
    mask = torch.cat([_ones(first, prefix, q), mask], 1)
    head_k, head_v = (torch.cat([p, x[:, :, : past + first]], 2) for p, x in ((prefix_k, k), (prefix_v, v)))
    head = F.scaled_dot_product_attention(q[:, :, :first], head_k, head_v, attn_mask=mask, scale=scale)
    if q.shape[2] == first:
        return head
    tail = _blocks(q[:, :, window:], k[:, :, past:], v[:, :, past:], (prefix_k, prefix_v), scale)
    return torch.cat([head, tail], 2)


def _blocks(q: Queries, k: Keys, v: Keys, prefix: tuple[Keys, Keys], scale: float) -> Queries:
    """Queries in blocks as long as the window, each against its own keys and those of the block before.

    k and v begin one window before q. Blocks take the place of heads: [b h, blocks, window, d], one constant mask.
    """
    time, window = q.shape[2], k.shape[2] - q.shape[2]
    padding = -time % window  # padded keys come after every real query, so none sees them
    q, k, v = (F.pad(x, (0, 0, 0, padding)).flatten(0, 1).unflatten(1, (-1, window)) for x in (q, k, v))
    k, v = (_with_previous(x, p) for x, p in zip((k, v), prefix, strict=True))
    always = _ones(window, prefix[0].shape[2], q)
    own = _ones(window, window, q).tril()
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.cat([always, ~own, own], 1), scale=scale)
    return y.flatten(1, 2)[:, :time].unflatten(0, prefix[0].shape[:2])


def _with_previous(blocks: Tensor, prefix: Keys) -> Tensor:
    """[b h, n + 1, window, d] -> [b h, n, prefix + 2 window, d]: the prefix, the block before, the block itself."""
    always = prefix.flatten(0, 1)[:, None].expand(-1, blocks.shape[1] - 1, -1, -1)
    return torch.cat([always, blocks[:, :-1], blocks[:, 1:]], 2)


def _ones(rows: int, columns: int, like: Tensor) -> Tensor:
    return torch.ones(rows, columns, dtype=torch.bool, device=like.device)
