"""What a chunk with a decay for every key channel needs, by the kernels of triton_channel_decay, with gradients.

Only what runs on a GPU imports this, where Triton is installed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from titanlab.memory_modules.kernels import triton_channel_decay as kernels
from titanlab.memory_modules.kernels.triton_rules import padded, precision_of, products_of
from titanlab.platform.first_order import first_order


def channels_for(d: int, dtype: torch.dtype) -> int:
    """Key channels of a tile. Wider ones spill some kilobytes a thread, of float32 (three products in tf32) sooner."""
    return min(padded(d), 32 if dtype == torch.float32 else 64)


class Decayed(NamedTuple):
    """Of one query and one key; of a second query, which reads the state of the token before, and key if given."""

    last: Tensor
    """The decay of the whole chunk, [g, n, key] float32."""
    asks: tuple[Tensor, ...]
    """Each query decayed from the chunk's start, [g, n, c, key]."""
    writes: tuple[Tensor, ...]
    """Each key decayed to the chunk's end, [g, n, c, key]."""
    scores: tuple[tuple[Tensor, ...], ...]
    """Of each query with each key, [g, n, c, c], lower triangular (the second query's strictly)."""


def decayed_on_gpu(log_decay: Tensor, queries: tuple[Tensor, ...], keys: tuple[Tensor, ...], chunks: int) -> Decayed:
    """Runs `chunks` equal chunks.

    Args:
        log_decay: [b, n c, h, key] float32, at most 0.
        queries, keys: one or two of each, [b, n c, h, key] of one type, float32, bfloat16 or float16.
    """
    several = len(queries), len(keys)
    last, *rest = _Decayed.apply(chunks, several, log_decay, *queries, *keys)
    asks, writes, scores = rest[: several[0]], rest[several[0] : sum(several)], rest[sum(several) :]
    pairs = tuple(tuple(scores[m * several[1] : (m + 1) * several[1]]) for m in range(several[0]))
    return Decayed(last, tuple(asks), tuple(writes), pairs)


class _Decayed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chunks: int, several: tuple[int, int], log_decay: Tensor, *rows: Tensor
    ) -> tuple[Tensor, ...]:
        log_decay, rows = log_decay.contiguous(), tuple(x.contiguous() for x in rows)
        queries, keys = rows[: several[0]], rows[several[0] :]
        b, t, h, d = log_decay.shape
        g, n, c, products = b * h, chunks, t // chunks, products_of(rows[0].dtype)
        # what is removed and moved is held in float32: its gradients add up over many roundings
        types = products, torch.float32
        asks = [log_decay.new_empty(g, n, c, d, dtype=types[m]) for m in range(several[0])]
        writes = [log_decay.new_empty(g, n, c, d, dtype=types[p]) for p in range(several[1])]
        last = log_decay.new_empty(g, n, d)
        scores = [log_decay.new_empty(g, n, c, c, dtype=types[m]) for m in range(several[0]) for _ in keys]
        options: dict[str, Any] = {"D": d, "BC": padded(c), "BK": channels_for(d, rows[0].dtype)}
        options |= {"num_warps": 4, "num_stages": 1, "PRECISION": precision_of(rows[0])}
        for m, query in enumerate(queries):
            for p, key in enumerate(keys):
                kernels.scores_forward[(g * n,)](
                    query, key, log_decay, asks[m], writes[p], last, scores[m * several[1] + p], n, h, c,
                    EARLY=m, ASKS=p == 0, WRITES=m == 0, **options,
                )  # fmt: skip
        ctx.save_for_backward(log_decay, last, *rows)
        ctx.several, ctx.sizes, ctx.options = several, (n, h, c), options
        return last, *asks, *writes, *scores

    @staticmethod
    @first_order
    def backward(ctx: Any, d_last: Tensor, *d_parts: Tensor) -> tuple[Tensor | None, ...]:
        log_decay, last, *rows = ctx.saved_tensors
        (asked, written), (n, h, c) = ctx.several, ctx.sizes
        d_last, *parts = (x.contiguous() for x in (d_last, *d_parts))
        d_asks, d_writes, d_scores = parts[:asked], parts[asked : asked + written], parts[asked + written :]
        queries, keys = rows[:asked], rows[asked:]
        d_rows, d_log = [torch.empty_like(x) for x in rows], torch.empty_like(log_decay)
        grid = (last.shape[0] * n, triton.cdiv(last.shape[2], ctx.options["BK"]))
        for m, query in enumerate(queries):
            mine = d_scores[m * written : (m + 1) * written]
            kernels.queries_backward[grid](
                query, keys[0], keys[-1], log_decay, d_asks[m], mine[0], mine[-1], d_rows[m], d_log, n, h, c,
                EARLY=m, KEYS=written, FIRST=m == 0, **ctx.options,
            )  # fmt: skip
        for p, key in enumerate(keys):
            mine = d_scores[p::written]
            kernels.keys_backward[grid](
                queries[0], queries[-1], key, log_decay, last, d_writes[p], d_last, mine[0], mine[-1],
                d_rows[asked + p], d_log, n, h, c, QUERIES=asked, LAST=p == 0, **ctx.options,
            )  # fmt: skip
        return None, None, d_log, *d_rows
