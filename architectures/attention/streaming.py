"""The three ways a sequence attends to itself as it goes by; the cache is the state, so it may be cut anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from titanlab.architectures.attention.backend import (
    AttentionName,
    Call,
    CallInStreams,
    Causal,
    Keys,
    Prefix,
    SlidingWindow,
    Stream,
    beside,
)
from titanlab.architectures.attention.layer import KeyValues, MultiHeadAttention
from titanlab.architectures.attention.rotary import rotation, turned
from titanlab.platform.fused_kernels.choice import kernels_take
from titanlab.platform.tensors import Hidden, PerHead, compute_type


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


class Asked(NamedTuple):
    """What attention within segments makes of tokens alone, [b, t, h, d] each."""

    queries: PerHead
    turned_queries: PerHead
    """Rotated by their place in the segment."""
    keys: PerHead
    turned_keys: PerHead
    values: PerHead
    rotation: Float[Tensor, "2 t half"]
    """Of the places."""


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

    def ask(self, x: Hidden, places: Int[Tensor, " t"], sizes: Sequence[int]) -> list[Asked]:
        """What does not depend on what is retrieved, for tokens [b, t, dim] of any number of segments, in pieces.

        Args:
            x: the tokens.
            places: where each stands in its segment.
            sizes: tokens of each piece, t in all.
        """
        dim = x.shape[-1] // self.heads.heads
        turns = rotation(places, dim, compute_type(x))
        if kernels_take(x, turns):
            from titanlab.platform.fused_kernels.turned_pieces import fits, turned_pieces

            if fits(dim):
                pieces = turned_pieces(self.heads.query_key_value(x), turns, self.heads.heads, sizes)
                cut = turns.split(list(sizes), 1)
                return [Asked(*piece, rotation=part) for piece, part in zip(pieces, cut, strict=True)]
        q, own = self.heads.queries(x), self.heads.project(x)
        rows = (q, turned(q, turns), own.keys, turned(own.keys, turns), own.values)
        # cut once, since the gradient of each slice alone is a whole row
        parts = [*(row.transpose(1, 2).split(list(sizes), 1) for row in rows), turns.split(list(sizes), 1)]
        return [Asked(*piece) for piece in zip(*parts, strict=True)]

    def forward(self, x: Hidden, retrieved: Hidden, prefix: Hidden, state: KeyValues) -> tuple[Hidden, KeyValues]:
        """Attends from x [b, t, dim], tokens of one segment.

        Args:
            x: the tokens.
            retrieved: what memory holds for each of them [b, t, dim].
            prefix: persistent tokens [b, p, dim], p >= 0.
            state: the cache.
        """
        past = self.length(state)
        (asked,) = self.ask(x, torch.arange(past, past + x.shape[1], device=x.device), [x.shape[1]])
        return self.answer(asked, self.heads.key_value(retrieved), self.always(prefix), state)

    def always(self, prefix: Hidden) -> KeyValues | None:
        """Keys and values of the persistent tokens [b, p, dim]; None where there are none."""
        return self.heads.project(prefix) if prefix.shape[1] else None

    def answer(
        self, asked: Asked, found: Hidden, always: KeyValues | None, state: KeyValues, *, ends: bool = False
    ) -> tuple[Hidden, KeyValues]:
        """As `forward`, for tokens of one segment that were asked for before.

        Args:
            asked: of the tokens, t of them.
            found: keys and values side by side, [b, t, 2 dim], of what memory holds for each of them.
            always: of the persistent tokens.
            state: the cache.
            ends: whether the segment ends here, and the next cache is empty.
        """
        queries, turned_queries, own_keys, turned_keys, own_values = (x.transpose(1, 2) for x in asked[:5])
        past, scale = self.length(state), queries.shape[-1] ** -0.5
        prefix = None if always is None else Prefix(queries, *always)
        after = empty = self.initial_state(found.shape[0])
        if past:
            theirs = self.heads.cut(found)
        else:
            theirs, turned_theirs = self._turned(found, asked.rotation)
        if past or not ends:
            newest = KeyValues(beside([theirs.keys, own_keys]), beside([theirs.values, own_values]))
            after = state.followed_by(newest)
        if past:
            places = torch.arange(past + found.shape[1], device=found.device)
            turns = rotation(places, queries.shape[-1], queries.dtype).repeat_interleave(2, 1)
            call = Call(turned_queries, turned(after.keys, turns), after.values, Causal(2), scale, prefix)
        else:
            streams = [Stream(turned_theirs, theirs.values), Stream(turned_keys, own_values)]
            call = CallInStreams(turned_queries, streams, scale, prefix)
        return self.heads.attend(call), empty if ends else after

    def _turned(self, found: Hidden, turns: Float[Tensor, "2 t half"]) -> tuple[KeyValues, Keys]:
        """Keys and values that stand side by side, and the keys rotated."""
        if kernels_take(found, turns):
            from titanlab.platform.fused_kernels.turned_pieces import fits, turned_keys_values

            if fits(found.shape[-1] // (2 * self.heads.heads)):
                rows = turned_keys_values(found, turns, self.heads.heads)
                keys, turned_keys, values = (x.transpose(1, 2) for x in rows)
                return KeyValues(keys, values), turned_keys
        theirs = self.heads.cut(found)
        return theirs, turned(theirs.keys, turns)
