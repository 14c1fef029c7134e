"""Floating-point operations of a call, counted while it really runs on the CPU.

Two for each multiply-add of a matrix product or a convolution. Attention counts a query's products with the keys it
sees, whatever a kernel computes beside them; a triangular solve of n rows counts n^2 a column. Element-wise work,
norms, softmax, Fourier transforms and matrix factorisations count nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from titanlab.platform.tensors import Hidden, State, float32_bytes

P = ParamSpec("P")
R = TypeVar("R")

TOKENS_WITHOUT_CHUNKS = 64
"""Tokens counted of a memory that has no setting `chunk_size`."""

LONGEST_ROW = 1024
"""Tokens of the longest row that is run to be counted; longer ones follow the line through it and its half."""

STATES_SEEN = 64
"""Places of a row at which the size of its state is looked at."""


class OperationCount(TorchDispatchMode):
    """Adds up what is computed while it is entered."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler (1.3 s) only to keep it away from this class

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        rule = _RULES.get(func.overloadpacket)
        if rule is not None:
            self.total += rule(result, *args, **(kwargs or {}))
        return result


def _product(result: Tensor, a: Tensor, b: Tensor, **out: Any) -> int:
    return 2 * a.numel() * (b.shape[-1] if b.ndim > 1 else 1)


def _product_added(result: Tensor, added: Tensor, a: Tensor, b: Tensor, **scales: Any) -> int:
    return _product(result, a, b)


def _convolution(result: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    transposed = rest[4]
    return 2 * (x if transposed else result).numel() * weight[0].numel()


def _triangular_solve(result: Tensor, a: Tensor, b: Tensor, **how: Any) -> int:
    return a.shape[-1] * result.numel()


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> int:
    """A query's products with the keys it sees, and their weights' with the values."""
    queries, keys = q.shape[-2], k.shape[-2]
    rows = q.numel() // (queries * q.shape[-1])
    if is_causal:
        seen = rows * sum(min(query + 1, keys) for query in range(queries))
    elif mask is None:
        seen = rows * queries * keys
    else:
        visible = mask if mask.dtype == torch.bool else mask > float("-inf")
        seen = int(visible.expand(*q.shape[:-1], keys).sum())
    return 2 * seen * (q.shape[-1] + v.shape[-1])


def _fused_attention(
    result: Any, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, is_causal: bool = False, *,
    attn_mask: Tensor | None = None, scale: float | None = None,
) -> int:  # fmt: skip
    return _attention(q, k, v, attn_mask, is_causal)


def _recurrent_layer(result: Any, x: Tensor, from_input: Tensor, from_state: Tensor, *rest: Any) -> int:
    return 2 * (x.numel() // x.shape[-1]) * (from_input.numel() + from_state.numel())


_aten = torch.ops.aten
_RULES: dict[Any, Callable[..., int]] = {
    **dict.fromkeys((_aten.mm, _aten.bmm, _aten.mv, _aten.dot, _aten.linear), _product),
    **dict.fromkeys((_aten.addmm, _aten.addmm_, _aten.baddbmm, _aten.baddbmm_), _product_added),
    **dict.fromkeys((_aten.addbmm, _aten.addbmm_, _aten.addmv, _aten.addmv_), _product_added),
    _aten.convolution: _convolution,
    _aten.mkldnn_rnn_layer: _recurrent_layer,
    _aten.linalg_solve_triangular: _triangular_solve,
    _aten._scaled_dot_product_flash_attention_for_cpu: _fused_attention,
}


class _WholeAttention(TorchFunctionMode):
    """Counts a call of attention as a whole: some shapes, and dropout, make torch form every product."""

    def __init__(self, count: OperationCount) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before, result = self.count.total, func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            self.count.total = before + _called_attention(*args, **(kwargs or {}))
        return result


def _called_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, **others: Any,
) -> int:  # fmt: skip
    return _attention(query, key, value, attn_mask, is_causal)


@contextmanager
def counting() -> Iterator[OperationCount]:
    """Counts what runs within it, on the CPU and without gradients; torch's random state stays as it was."""
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        torch.no_grad(),
        OperationCount() as count,
        _WholeAttention(count),
    ):
        yield count


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """The function, computed once for equal configurations; those that hold a list cannot be looked up and are not."""
    known = functools.lru_cache(maxsize=4096)(function)

    @functools.wraps(function)
    def look_up(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            hash(args)
        except TypeError:
            return function(*args, **kwargs)
        return known(*args, **kwargs)  # type: ignore[arg-type]  # hashable, as was just tried

    return look_up


class Streaming(Protocol):
    """What a memory and a block of an architecture have in common."""

    def initial_state(self, batch: int) -> State: ...

    def __call__(self, x: Hidden, state: State) -> tuple[Hidden, State]: ...


class Readable(Streaming, Protocol):
    """A memory."""

    def read(self, x: Hidden, state: State) -> Hidden: ...


class BuildsMemory(Hashable, Protocol):
    """The configuration of a memory; iterating it gives its settings."""

    def __iter__(self) -> Iterator[tuple[str, Any]]: ...

    def build(self, dim: int) -> Readable: ...


class BuildsBlock(Hashable, Protocol):
    """The configuration of an architecture, around some memory."""

    def build(self, dim: int, memory: Any) -> Streaming: ...


class MemoryWork(NamedTuple):
    """Operations a token."""

    forward: float
    read: float


@remembered
def memory_work(config: BuildsMemory, dim: int) -> MemoryWork:
    """Counted over one chunk, after another one that fills what the memory carries from chunk to chunk."""
    tokens = dict(config).get("chunk_size") or TOKENS_WITHOUT_CHUNKS
    with counting() as operations:
        memory, x = config.build(dim), torch.randn(1, tokens, dim)
        _, state = memory(x, memory.initial_state(1))
        before = operations.total
        _, state = memory(x, state)
        written = operations.total
        memory.read(x, state)
        return MemoryWork((written - before) / tokens, (operations.total - written) / tokens)


@remembered
def block_flops(config: BuildsBlock, dim: int, memory: Hashable, length: int) -> float:
    """Operations a token of a block for a row, the state before its first token included."""

    def counted(tokens: int) -> float:
        with counting() as operations:
            block = config.build(dim, memory)
            built = operations.total  # a module may try itself when it is built
            block(torch.randn(1, tokens, dim), block.initial_state(1))
            return (operations.total - built) / tokens

    return _extended(counted, length)


@remembered
def block_bytes(config: BuildsBlock, dim: int, memory: Hashable, length: int) -> int:
    """The most that a block's state takes between two tokens of a row, in float32."""

    def largest(tokens: int) -> int:
        # it may be largest somewhere within the row, as that of a segment is before its last token
        cuts = sorted({0, tokens - 1, tokens, *(tokens * piece // STATES_SEEN for piece in range(STATES_SEEN))})
        with counting():
            block, x = config.build(dim, memory), torch.randn(1, tokens, dim)
            state, found = block.initial_state(1), 0
            for start, end in pairwise(cuts):
                _, state = block(x[:, start:end], state)
                found = max(found, float32_bytes(state))
            return found

    return round(_extended(largest, length))


def _extended(of_row: Callable[[int], float], length: int) -> float:
    """What a row comes to; one longer than `LONGEST_ROW` lies on the line through that and its half."""
    whole = of_row(min(length, LONGEST_ROW))
    if length <= LONGEST_ROW:
        return whole
    half = LONGEST_ROW // 2
    return whole + (length - LONGEST_ROW) / (LONGEST_ROW - half) * (whole - of_row(half))
