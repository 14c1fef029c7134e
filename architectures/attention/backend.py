"""The one interface through which every layer attends; a faster kernel joins by implementing `AttentionBackend`.

Who sees whom is said by a small value, not by a mask, so that a kernel that knows the pattern never builds one. In
every pattern the queries are the last t tokens of the keys, as in decoding with a cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Queries: TypeAlias = Float[Tensor, "b h t d"]
Keys: TypeAlias = Float[Tensor, "b h s d"]  # s >= t: cached tokens, then the t new ones; values alike

AttentionName: TypeAlias = Literal["auto", "sdpa", "flex", "flash"]
"""What the setting `attention` of an architecture may be."""


@dataclass(frozen=True)
class Causal:
    """Query i of t sees every key of the tokens up to its own.

    Args:
        keys_per_token: successive keys that stand at one token, >= 1: s is a multiple of it.
    """

    keys_per_token: int = 1


@dataclass(frozen=True)
class SlidingWindow:
    """Query i of t sees itself and the `window` - 1 tokens before it.

    Args:
        window: tokens a query sees, its own included, >= 1.
    """

    window: int
    keys_per_token: ClassVar[int] = 1


Pattern: TypeAlias = Causal | SlidingWindow


class Prefix(NamedTuple):
    """Persistent tokens, which every query sees whatever the pattern says.

    They stand at no position, so the queries that meet them are those before rotation.
    """

    queries: Queries
    keys: Float[Tensor, "b h p d"]
    values: Float[Tensor, "b h p d"]


class Stream(NamedTuple):
    """One key of each token and its value, [b, h, tokens, d]."""

    keys: Keys
    values: Keys


@dataclass(frozen=True, eq=False)
class Call:
    """What a backend is given: one softmax over the prefix's keys and those that the pattern lets a query see.

    Args:
        q: queries [b, h, t, d], t >= 1.
        k: keys [b, h, s, d].
        v: values [b, h, s, d].
        pattern: which of the keys a query sees.
        scale: what the scores are multiplied with before the softmax.
        prefix: persistent tokens [b, h, p, d], p >= 1, or None.
    """

    q: Queries
    k: Keys
    v: Keys
    pattern: Pattern
    scale: float
    prefix: Prefix | None = None

    @property
    def streams(self) -> list[Stream]:
        """The first key of each token and its value, then the second ones, ...: each [b, h, tokens, d]."""
        count = self.pattern.keys_per_token
        return [Stream(*pair) for pair in zip(_apart(self.k, count), _apart(self.v, count), strict=True)]

    @property
    def past(self) -> int:
        """Tokens among the keys that come before the first query's."""
        return self.streams[0].keys.shape[2] - self.q.shape[2]

    @property
    def is_one_kernel(self) -> bool:
        """Whether a kernel that knows causal masks and windows computes it all at once."""
        return self.prefix is None and self.pattern.keys_per_token == 1

    @property
    def needs_gradients(self) -> bool:
        """Whether a backward pass may follow."""
        tensors = (self.q, *(x for stream in self.streams for x in stream), *(self.prefix or ()))
        return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


class CallInStreams(Call):
    """A causal call with several keys a token, which are put side by side only where a backend asks for it."""

    _streams: list[Stream]

    def __init__(self, q: Queries, streams: list[Stream], scale: float, prefix: Prefix | None = None) -> None:
        for name, value in {"q": q, "pattern": Causal(len(streams)), "scale": scale, "prefix": prefix}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_streams", streams)

    @property
    def streams(self) -> list[Stream]:
        return self._streams

    @cached_property
    def k(self) -> Keys:
        return beside([stream.keys for stream in self.streams])

    @cached_property
    def v(self) -> Keys:
        return beside([stream.values for stream in self.streams])


def beside(streams: list[Keys]) -> Keys:
    """The first stream's of a token, the second's, ...: all streams' keys [b, h, s, d] as one, token by token."""
    return streams[0] if len(streams) == 1 else torch.stack(streams, 3).flatten(2, 3)


def _apart(keys: Keys, count: int) -> tuple[Keys, ...]:
    return (keys,) if count == 1 else keys.unflatten(2, (-1, count)).unbind(3)


class AttentionBackend(ABC):
    """softmax(scale * q k^T) v over the keys that each query sees (arXiv 1706.03762, eq. 1)."""

    @abstractmethod
    def obstacle(self, call: Call) -> str:
        """Why this backend cannot take the call, in words that follow a colon, and what to do; empty if it can."""

    @abstractmethod
    def is_preferred(self, call: Call) -> bool:
        """Whether `auto` takes it where nothing stands in the way: such calls were checked on such a device."""

    @abstractmethod
    def attend(self, call: Call) -> Queries:
        """The attention's output [b, h, t, d]."""
