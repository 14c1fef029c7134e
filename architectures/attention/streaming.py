"""The three ways a sequence attends to itself as it goes by; the cache is the state, so it may be cut anywhere."""

from __future__ import annotations

import torch
from torch import nn

from titanlab.architectures.attention.backend import AttentionName, Causal, SlidingWindow
from titanlab.architectures.attention.layer import KeyValues, MultiHeadAttention
from titanlab.platform.tensors import Hidden


class CausalAttention(nn.Module):
    """Every token sees itself and all tokens before it; the cache grows with the sequence."""

    def __init__(self, dim: int, *, heads: int, attention: AttentionName = "auto") -> None:
        super().__init__()
        self.heads = MultiHeadAttention(dim, heads, attention=attention)

    def initial_state(self, batch: int) -> KeyValues:
        """The cache before the first token."""
        return self.heads.no_tokens(batch)

    def forward(self, x: Hidden, state: KeyValues) -> tuple[Hidden, KeyValues]:
        """Attends within x [b, t, dim] and to the cached tokens."""
        seen = state.followed_by(self.heads.project(x))
        return self.heads(x, seen, x[:, :0], Causal()), seen


class WindowAttention(nn.Module):
    """Every token sees the persistent tokens, itself and the `window` - 1 tokens before it; these are the cache."""

    def __init__(self, dim: int, *, heads: int, window: int, attention: AttentionName = "auto") -> None:
        super().__init__()
        self.heads, self.window = MultiHeadAttention(dim, heads, attention=attention), window

    def initial_state(self, batch: int) -> KeyValues:
        """The cache before the first token."""
        return self.heads.no_tokens(batch)

    def forward(self, x: Hidden, prefix: Hidden, state: KeyValues) -> tuple[Hidden, KeyValues]:
        """Attends within x [b, t, dim], to the cached tokens and to the persistent ones, prefix [b, p, dim], p >= 0."""
        seen = state.followed_by(self.heads.project(x))
        return self.heads(x, seen, prefix, SlidingWindow(self.window)), seen.last(self.window - 1)


class SegmentAttention(nn.Module):
    """Token i of a segment sees the persistent tokens, and of tokens j <= i both x_j and what memory retrieved for it.

    The two stand at the same position j. The cache holds the segment so far and is emptied by the caller at its end.
    """

    def __init__(self, dim: int, *, heads: int, attention: AttentionName = "auto") -> None:
        super().__init__()
        self.heads = MultiHeadAttention(dim, heads, attention=attention)

    def initial_state(self, batch: int) -> KeyValues:
        """The cache at a segment's start."""
        return self.heads.no_tokens(batch)

    @staticmethod
    def length(state: KeyValues) -> int:
        """Tokens of the segment so far."""
        return state.keys.shape[2] // 2

    def forward(self, x: Hidden, retrieved: Hidden, prefix: Hidden, state: KeyValues) -> tuple[Hidden, KeyValues]:
        """Attends from x [b, t, dim], tokens of one segment.

        Args:
            x: the tokens.
            retrieved: what memory holds for each of them [b, t, dim].
            prefix: persistent tokens [b, p, dim], p >= 0.
            state: the cache.
        """
        pairs = torch.stack([retrieved, x], 2).flatten(1, 2)  # h_0 x_0 h_1 x_1 ...
        seen = state.followed_by(self.heads.project(pairs))
        return self.heads(x, seen, prefix, Causal(keys_per_token=2)), seen
