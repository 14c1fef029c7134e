"""Attention by torch's FlexAttention (arXiv 2412.05496): one compiled kernel that skips blocks nobody sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput, AuxRequest, BlockMask, flex_attention

from titanlab.architectures.attention.backend import (
    AttentionBackend,
    Call,
    Keys,
    Pattern,
    Queries,
    SlidingWindow,
)
from titanlab.architectures.attention.merging import Part, merged
from titanlab.platform.recording import is_for_replay

BLOCK = 128  # queries, and keys, of a block that is computed or skipped as a whole
HEAD_DIMS = (16, 256)
MASKS = 4096
"""Kept for calls to come, of those that are in no recording: in decoding each length of a cache has one, of some kB."""
KINDS = 64
"""Compiled kernels a process may have: types, head sizes, patterns, with gradients or without; torch allows 8."""


class FlexBackend(AttentionBackend):
    """Compiled at the first call, for each type, head size and kind of pattern. A prefix is a part of its own, for
    queries before rotation, and merged, which is exact."""

    def obstacle(self, call: Call) -> str:
        q = call.q
        if not q.is_cuda:
            return f"FlexAttention needs a CUDA device, and the tensors are on {q.device.type}"
        if q.dtype not in (torch.bfloat16, torch.float16, torch.float32):
            return f"FlexAttention takes bfloat16, float16 and float32, not {q.dtype}"
        if not HEAD_DIMS[0] <= q.shape[3] <= HEAD_DIMS[1]:
            return f"FlexAttention takes heads of {HEAD_DIMS[0]} to {HEAD_DIMS[1]}, not of {q.shape[3]}; change heads"
        return ""

    def is_preferred(self, call: Call) -> bool:
        return False

    def attend(self, call: Call) -> Queries:
        mask = _mask_of(call.pattern, call.q.shape[2], call.k.shape[2], call.q.device)
        part = _attend(call.q, call.k, call.v, call.scale, mask)
        if call.prefix is None:
            return part.out
        return merged([part, _attend(*call.prefix, call.scale, None)])


def _attend(q: Queries, k: Keys, v: Keys, scale: float, mask: BlockMask | None) -> Part:
    out, more = compiled()(q, k, v, block_mask=mask, scale=scale, return_aux=AuxRequest(lse=True))
    assert more.lse is not None  # it was asked for
    return Part(out, more.lse)


@cache
def compiled() -> Callable[..., tuple[Tensor, AuxOutput]]:
    """FlexAttention as one kernel; without compilation it would make the matrix of all scores."""
    import torch._dynamo.config as dynamo  # takes seconds, so only where it is wanted

    dynamo.recompile_limit = max(dynamo.recompile_limit, KINDS)
    return torch.compile(flex_attention, fullgraph=True)


def _mask_of(pattern: Pattern, time: int, keys: int, device: torch.device) -> BlockMask:
    """A recorded graph reads a mask where it lies, so one that is in a recording is never let go."""
    key = pattern, time, keys, device
    mask = _RECORDED[key] if key in _RECORDED else block_mask(*key)
    if is_for_replay() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        _RECORDED[key] = mask
    return mask


_RECORDED: dict[tuple[Pattern, int, int, torch.device], BlockMask] = {}


@lru_cache(maxsize=MASKS)
def block_mask(pattern: Pattern, time: int, keys: int, device: torch.device) -> BlockMask:
    """Which blocks of keys each block of queries sees, in part or in full, without a mask of single pairs.

    Positions are tensors, not numbers, so that another cache length compiles nothing anew.
    """
    with torch.inference_mode(False):  # a mask first met in inference is kept for training too
        past = keys // pattern.keys_per_token - time
        seen, wholly = _blocks(pattern, time, keys, past, device)
        return BlockMask.from_kv_blocks(
            *_listed(seen & ~wholly),
            *_listed(wholly),
            BLOCK_SIZE=BLOCK,
            mask_mod=_rule(pattern, past, device),
            seq_lengths=(time, keys),
        )


def _rule(pattern: Pattern, past: int, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Whether a query sees a key, by their numbers; the batch and the head do not matter."""
    count, first = pattern.keys_per_token, torch.tensor(past, device=device)

    def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= query + first

    def causal_groups(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key // count <= query + first

    if not isinstance(pattern, SlidingWindow):
        return causal if count == 1 else causal_groups
    window = torch.tensor(pattern.window, device=device)

    def sliding(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query + first) & (key > query + first - window)

    return sliding


def _blocks(pattern: Pattern, time: int, keys: int, past: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[rows, columns] booleans: where a block of queries sees some key of a block of keys, and where all see all."""
    rows = torch.arange(0, time, BLOCK, device=device)[:, None]
    columns = torch.arange(0, keys, BLOCK, device=device)
    own = past + rows, past + (rows + BLOCK).clamp(max=time) - 1  # tokens of the block's first and last query
    token = tuple(
        key // pattern.keys_per_token for key in (columns, (columns + BLOCK).clamp(max=keys) - 1)
    )  # likewise of its keys
    seen, wholly = token[0] <= own[1], token[1] <= own[0]
    if isinstance(pattern, SlidingWindow):
        seen, wholly = seen & (token[1] > own[0] - pattern.window), wholly & (token[0] > own[1] - pattern.window)
    filled = (rows + BLOCK <= time) & (columns + BLOCK <= keys)  # the last block may be short, and is masked
    return seen, wholly & filled


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of [rows, columns] how many are set, and their columns first: [1, 1, rows], [1, 1, rows, columns]."""
    numbers = blocks.to(torch.int32)
    columns = numbers.argsort(dim=-1, descending=True, stable=True)
    return numbers.sum(-1, dtype=torch.int32)[None, None], columns.to(torch.int32)[None, None]
