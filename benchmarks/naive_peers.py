"""flash-linear-attention's plain PyTorch forms of our rules: the only ones of its forms that run on a CPU.

Each takes the arguments that ours takes and gives the same outputs, scaled as ours are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

Peer = Callable[..., Tensor]


def naive_peers(chunk_size: int) -> dict[str, Peer]:
    """A form for each rule that has one, chunkwise if it can be; empty where fla-core is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of the missing GPU
            from fla.ops.delta_rule.naive import delta_rule_chunkwise
            from fla.ops.gated_delta_rule.naive import naive_chunk_gated_delta_rule
            from fla.ops.generalized_delta_rule.dplr.naive import dplr_chunkwise
            from fla.ops.gla.naive import naive_recurrent_gla
            from fla.ops.linear_attn.naive import naive_chunk_linear_attn
            from fla.ops.momentum_delta_rule.naive import chunk_momentum_delta_rule_ref
            from fla.ops.simple_gla.naive import naive_chunk_simple_gla
    except ImportError:
        return {}

    def momentum_delta(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, momentum: Tensor, step: Tensor) -> Tensor:
        gates = (keep.log(), momentum.log(), torch.ones_like(step), step)
        return chunk_momentum_delta_rule_ref(q, k, v, k, *gates, scale=1.0, chunk_size=chunk_size)[0]

    def heads_first(*tensors: Tensor) -> list[Tensor]:
        return [x.transpose(1, 2) for x in tensors]

    def delta(q: Tensor, k: Tensor, v: Tensor, step: Tensor) -> Tensor:
        y = delta_rule_chunkwise(*heads_first(q * q.shape[-1] ** 0.5, k, v, step), chunk_size=chunk_size)[0]
        return y.transpose(1, 2)

    def rwkv7(r: Tensor, log_w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
        arguments = heads_first(r * r.shape[-1] ** 0.5, k, v, a, b, log_w)
        return dplr_chunkwise(*arguments, chunk_size=chunk_size)[0].transpose(1, 2)

    return {
        "linear attention": lambda q, k, v: naive_chunk_linear_attn(q, k, v, scale=1.0),
        "decay of a head": lambda q, k, v, g: naive_chunk_simple_gla(q, k, v, g, chunk_size=chunk_size, scale=1.0)[0],
        "decay of a channel": lambda q, k, v, g: naive_recurrent_gla(q * q.shape[-1] ** 0.5, k, v, g)[0],
        "delta": delta,
        "gated delta": lambda q, k, v, g, step: naive_chunk_gated_delta_rule(
            q, k, v, g, step, chunk_size=chunk_size, scale=1.0
        )[0],
        "momentum delta": momentum_delta,
        "rwkv7": rwkv7,
    }
