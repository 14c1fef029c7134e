"""Attention: every backend pattern against a masked softmax, rotary positions, and caches that may be cut anywhere."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from titanlab.architectures.attention.backend import Call, Causal, Pattern, Prefix, SlidingWindow
from titanlab.architectures.attention.layer import MultiHeadAttention
from titanlab.architectures.attention.rotary import rotate
from titanlab.architectures.attention.sdpa import SdpaBackend
from titanlab.architectures.attention.streaming import CausalAttention, SegmentAttention, WindowAttention
from titanlab.platform.errors import ConfigError

DOUBLE = torch.float64


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small lose more to waking threads than they win, far more when the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def visible(pattern: Pattern, time: int, keys: int) -> Tensor:
    """The mask [time, keys] that a pattern stands for, written from its definition one pair at a time."""
    mask = torch.zeros(time, keys, dtype=torch.bool)
    tokens = keys // pattern.keys_per_token
    for i in range(time):
        own = tokens - time + i
        for j in range(keys):
            token = j // pattern.keys_per_token
            mask[i, j] = token <= own and (isinstance(pattern, Causal) or own - pattern.window < token)
    return mask


def masked_softmax(call: Call) -> Tensor:
    """One softmax over the prefix's scores, which queries of their own make, and those that the pattern leaves."""
    mask = visible(call.pattern, call.q.shape[2], call.k.shape[2])
    scores, values = (call.q @ call.k.mT * call.scale).masked_fill(~mask, -math.inf), call.v
    if call.prefix is not None:
        scores = torch.cat([call.prefix.queries @ call.prefix.keys.mT * call.scale, scores], -1)
        values = torch.cat([call.prefix.values, values], 2)
    return scores.softmax(-1) @ values


def call_for(pattern: Pattern, prefix: int, time: int, past: int) -> tuple[Call, list[Tensor]]:
    """Random inputs, and these as leaves that want gradients."""
    keys = (past + time) * pattern.keys_per_token
    sizes = [time, keys, keys, *([time, prefix, prefix] if prefix else [])]
    leaves = [randn(2, 3, size, 8, seed=seed).requires_grad_() for seed, size in enumerate(sizes)]
    return Call(*leaves[:3], pattern, 0.3, Prefix(*leaves[3:]) if prefix else None), leaves


WINDOWS = [
    (SlidingWindow(window), prefix, time, past)
    for window in (1, 2, 5, 8)
    for prefix in (0, 3)
    for time in (1, 4, 5, 13, 23)
    for past in (0, window - 1, window + 2)
]
CAUSAL = [
    (Causal(keys_per_token), prefix, time, past)
    for keys_per_token in (1, 2)
    for prefix in (0, 3)
    for time in (1, 7)
    for past in (0, 1, 9)
]


@pytest.mark.parametrize(("pattern", "prefix", "time", "past"), [*CAUSAL, *WINDOWS], ids=str)
def test_torch_attention_equals_masked_softmax(pattern, prefix, time, past) -> None:
    call, leaves = call_for(pattern, prefix, time, past)
    actual, expected = SdpaBackend().attend(call), masked_softmax(call)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    upstream = randn(*expected.shape, seed=9)
    gradients = (torch.autograd.grad(y, leaves, upstream) for y in (actual, expected))
    for actual_grad, expected_grad in zip(*gradients, strict=True):
        torch.testing.assert_close(actual_grad, expected_grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("keys_per_token", [1, 2])
def test_a_causal_call_after_a_cache_is_right_across_blocks_of_queries(keys_per_token: int) -> None:
    q, k, v = randn(1, 1, 1100, 4), *(randn(1, 1, 1107 * keys_per_token, 4, seed=seed) for seed in (1, 2))
    mask = torch.ones(1100, 1107, dtype=torch.bool).tril(7).repeat_interleave(keys_per_token, 1)
    expected = (q @ k.mT * 0.5).masked_fill(~mask, -math.inf).softmax(-1) @ v
    actual = SdpaBackend().attend(Call(q, k, v, Causal(keys_per_token), 0.5))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Remembers the elements of the largest tensor that any operation gives back."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("time", [2048, 16384])
def test_a_sliding_window_takes_memory_linear_in_time(time: int) -> None:
    dim, window = 16, 64
    attention = WindowAttention(dim, heads=2, window=window)
    x, prefix = torch.randn(1, time, dim, requires_grad=True), torch.randn(1, 4, dim)
    with LargestTensor() as largest:
        attention(x, prefix, attention.initial_state(1))[0].sum().backward()
    # Keys of the block and of the one before, the prefix, and the extra dimensions for it: nothing near time * time.
    assert largest.elements <= 4 * time * dim * 2


def test_rotation_by_hand() -> None:
    x = torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]], dtype=DOUBLE)
    expected = torch.tensor([[1.0, 0.0], [math.cos(1), math.sin(1)], [-math.sin(2), math.cos(2)]], dtype=DOUBLE)
    torch.testing.assert_close(rotate(x, torch.arange(3))[0, 0], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("offset", [1, 1000, 10_000_000])
def test_rotary_scores_depend_on_position_differences_only(offset: int) -> None:
    q, k, positions = randn(1, 2, 9, 8), randn(1, 2, 9, 8, seed=1), torch.arange(9)
    scores = rotate(q, positions) @ rotate(k, positions).transpose(-1, -2)
    shifted = rotate(q, positions + offset) @ rotate(k, positions + offset).transpose(-1, -2)
    torch.testing.assert_close(shifted, scores, rtol=0, atol=1e-7 if offset > 10_000 else 1e-11)
    unequal = rotate(q, positions + 1) @ rotate(k, positions).transpose(-1, -2)
    assert not torch.allclose(unequal, scores, atol=1e-3)


def turned(x: Tensor, position: int) -> Tensor:
    """RoPE of one vector [d], by complex numbers."""
    half = x.shape[-1] // 2
    angles = position * 10_000.0 ** (-torch.arange(half, dtype=DOUBLE) / half)
    z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag])


def attend_naively(
    layer: MultiHeadAttention, query: Tensor, position: int, seen: list[tuple[Tensor, int]], prefix: Tensor
) -> Tensor:
    """One token's attention output [dim]: head by head, key by key; persistent keys meet the unrotated query."""
    dim = query.shape[0]
    size = dim // layer.heads
    heads = []
    for head in range(layer.heads):
        rows = slice(head * size, (head + 1) * size)
        q = layer.query.weight[rows] @ query
        w_k, w_v = layer.key_value.weight[:dim][rows], layer.key_value.weight[dim:][rows]
        scores = [q @ (w_k @ p) for p in prefix]
        scores += [turned(q, position) @ turned(w_k @ x, place) for x, place in seen]
        weights = (torch.stack(scores) / math.sqrt(size)).softmax(0)
        values = torch.stack([w_v @ x for x in [*prefix, *(x for x, _ in seen)]])
        heads.append(weights @ values)
    return layer.out.weight @ torch.cat(heads)


@pytest.mark.parametrize("persistent", [0, 3])
@pytest.mark.parametrize("window", [1, 4])
def test_windowed_attention_equals_token_by_token_attention(window: int, persistent: int) -> None:
    attention = WindowAttention(16, heads=2, window=window).double()
    x, prefix = randn(1, 11, 16), randn(1, persistent, 16, seed=1)
    y, _ = attention(x, prefix, attention.initial_state(1))
    for t in range(11):
        seen = [(x[0, j], j) for j in range(max(0, t - window + 1), t + 1)]
        expected = attend_naively(attention.heads, x[0, t], t, seen, prefix[0])
        torch.testing.assert_close(y[0, t], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("persistent", [0, 3])
def test_segment_attention_equals_token_by_token_attention(persistent: int) -> None:
    attention = SegmentAttention(16, heads=2).double()
    x, retrieved, prefix = randn(1, 6, 16), randn(1, 6, 16, seed=1), randn(1, persistent, 16, seed=2)
    y, state = attention(x, retrieved, prefix, attention.initial_state(1))
    assert attention.length(state) == 6
    for t in range(6):
        seen = [(source[0, j], j) for j in range(t + 1) for source in (retrieved, x)]
        expected = attend_naively(attention.heads, x[0, t], t, seen, prefix[0])
        torch.testing.assert_close(y[0, t], expected, rtol=0, atol=1e-12)


def test_causal_attention_equals_token_by_token_attention() -> None:
    attention = CausalAttention(16, heads=4).double()
    x = randn(1, 7, 16)
    y, _ = attention(x, attention.initial_state(1))
    for t in range(7):
        expected = attend_naively(attention.heads, x[0, t], t, [(x[0, j], j) for j in range(t + 1)], x[0, :0])
        torch.testing.assert_close(y[0, t], expected, rtol=0, atol=1e-12)


def test_a_window_keeps_only_the_tokens_that_may_still_be_seen() -> None:
    attention = WindowAttention(16, heads=2, window=4).double()
    state, x = attention.initial_state(2), randn(2, 9, 16)
    for t in range(9):
        _, state = attention(x[:, t : t + 1], x[:, :0], state)
        assert state.keys.shape[2] == state.values.shape[2] == min(t + 1, 3)


def test_a_window_forgets_all_before_it_even_its_place_in_the_stream() -> None:
    attention = WindowAttention(16, heads=2, window=4).double()
    x, prefix = randn(1, 203, 16), randn(1, 2, 16, seed=1)
    whole, _ = attention(x, prefix, attention.initial_state(1))
    end, _ = attention(x[:, -4:], prefix, attention.initial_state(1))
    torch.testing.assert_close(end[:, -1], whole[:, -1], rtol=0, atol=1e-12)


def test_a_cache_of_another_type_takes_the_type_of_what_follows() -> None:
    attention = WindowAttention(16, heads=2, window=4)
    state = attention.initial_state(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(3):
            _, state = attention(torch.randn(1, 3, 16), torch.randn(1, 2, 16), state)
    assert state.keys.dtype == state.values.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("dim", "heads", "fitting"), [(64, 3, "1, 2, 4, 8, 16, 32"), (48, 16, "1, 2, 3, 4, 6, 8, 12, 24")]
)
def test_heads_that_do_not_fit_are_refused(dim: int, heads: int, fitting: str) -> None:
    with pytest.raises(ConfigError, match=rf"{heads} heads do not divide .* dim {dim} .*fit dim {dim}: {fitting}$"):
        MultiHeadAttention(dim, heads)


def test_attention_has_no_biases() -> None:
    layers = [module for module in MultiHeadAttention(16, 2).modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 3 and all(layer.bias is None for layer in layers)
