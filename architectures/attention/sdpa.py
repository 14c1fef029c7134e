"""Attention by torch's scaled_dot_product_attention: every device and type, memory linear in time."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from titanlab.architectures.attention.backend import (
    AttentionBackend,
    Call,
    Causal,
    Keys,
    Prefix,
    Queries,
    SlidingWindow,
)
from titanlab.architectures.attention.in_parts import attend_in_parts, kernels_for
from titanlab.architectures.attention.without_cudnn import without_cudnn

MASKED_QUERIES = 512  # queries of a causal call that share one mask: bounds it when a long piece follows a cache


class SdpaBackend(AttentionBackend):
    """torch's fused kernels. No mask is larger than a block of queries against what that block may see; where
    `kernels_for` finds some, a causal call with several keys a token, with a prefix or after a cache is computed in
    parts, and without any."""

    def obstacle(self, call: Call) -> str:
        return ""

    def is_preferred(self, call: Call) -> bool:
        return True

    def attend(self, call: Call) -> Queries:
        if isinstance(call.pattern, Causal) and (call.past or not call.is_one_kernel):
            kernels = kernels_for(call)
            if kernels is not None:
                return attend_in_parts(call, kernels)
        q, k, v = (call.q, call.k, call.v) if call.prefix is None else _widened(call, call.prefix)
        prefix = 0 if call.prefix is None else call.prefix.keys.shape[2]
        plannable = not call.q.is_cuda or torch.compiler.is_compiling() or comes_again(call)
        with nullcontext() if plannable else without_cudnn():
            if isinstance(call.pattern, Causal):
                y = _causal(q, k, v, call.pattern.keys_per_token, prefix, call.scale)
            else:
                y = _sliding_window(q, k, v, call.pattern.window, prefix, call.scale)
        return y[..., : call.q.shape[3]]


def comes_again(call: Call) -> bool:
    """Whether calls have its shape again and again: a cache grows with every call until it fills a window or, in
    `mac`, until its segment ends."""
    return call.past == 0 or (isinstance(call.pattern, SlidingWindow) and call.past >= call.pattern.window - 1)


def _widened(call: Call, prefix: Prefix) -> tuple[Queries, Keys, Keys]:
    """Puts the prefix before the other keys, so that one call of a fused kernel attends to both.

    Its scores, of queries before rotation, are computed here and enter as extra dimensions of the head: the query
    carries its p scores, prefix key number r the unit vector r, every other key zeros. Values are widened by zeros,
    for kernels want one width.
    """
    q, count = call.q, prefix.keys.shape[2]
    extra = -(-count // 8) * 8  # fused kernels want a head dimension divisible by 8
    scores = prefix.queries @ prefix.keys.transpose(-1, -2)
    units = torch.eye(count, extra, dtype=q.dtype, device=q.device).expand(*q.shape[:2], -1, -1)
    queries = torch.cat([q, F.pad(scores, (0, extra - count))], -1)
    keys = torch.cat([torch.cat([torch.zeros_like(prefix.keys), units], -1), F.pad(call.k, (0, extra))], 2)
    return queries, keys, F.pad(torch.cat([prefix.values, call.v], 2), (0, extra))


def _causal(q: Queries, k: Keys, v: Keys, keys_per_token: int, prefix: int, scale: float) -> Queries:
    time = q.shape[2]
    past = (k.shape[2] - prefix) // keys_per_token - time
    if time == 1 or (keys_per_token == 1 and past + prefix == 0):
        return F.scaled_dot_product_attention(q, k, v, is_causal=time > 1, scale=scale)
    seen = prefix + keys_per_token * torch.arange(past + 1, past + time + 1, device=q.device)  # keys, of each query
    blocks = []
    for start in range(0, time, MASKED_QUERIES):
        end = min(start + MASKED_QUERIES, time)
        keys = prefix + keys_per_token * (past + end)
        mask = torch.arange(keys, device=q.device) < seen[start:end, None]
        block = F.scaled_dot_product_attention(
            q[:, :, start:end], k[:, :, :keys], v[:, :, :keys], attn_mask=mask, scale=scale
        )
        blocks.append(block)
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
    everything = q.shape[2] == 1  # a token alone sees all that is left: no mask, and so the fastest kernels
    head = F.scaled_dot_product_attention(
        q[:, :, :first], head_k, head_v, attn_mask=None if everything else mask, scale=scale
    )
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
