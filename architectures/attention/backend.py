"""The one interface through which every layer attends; a faster kernel joins by implementing `AttentionBackend`.

Who sees whom is said by a small value, not by a mask, so that a kernel that knows the pattern never builds one. In
every pattern the queries are the last t tokens of the keys (after a prefix), as in decoding with a cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Bool, Float
from torch import Tensor

Queries: TypeAlias = Float[Tensor, "b h t d"]
Keys: TypeAlias = Float[Tensor, "b h s d"]  # s >= t: prefix, cached tokens, then the t new ones; values alike


@dataclass(frozen=True)
class Causal:
    """Query i of t sees the keys 0 .. s - t + i: itself and everything before it, a prefix included."""


@dataclass(frozen=True)
class SlidingWindow:
    """Query i of t sees the first `prefix` keys, itself and the `window` - 1 tokens before it.

    Args:
        window: tokens a query sees, its own included, >= 1.
        prefix: keys at the start that every query sees (persistent tokens), >= 0.
    """

    window: int
    prefix: int = 0


@dataclass(frozen=True, eq=False)
class Explicit:
    """Query i sees the keys where row i of `mask` [t, s] is True; every row has one, or its softmax would be 0 / 0."""

    mask: Bool[Tensor, "t s"]


Pattern: TypeAlias = Causal | SlidingWindow | Explicit


class AttentionBackend(ABC):
    """softmax(scale * q k^T) v over the keys that a pattern lets each query see (arXiv 1706.03762, eq. 1)."""

    @abstractmethod
    def supports(self, q: Queries, pattern: Pattern) -> bool:
        """Whether this backend can take queries of this device, type and head dimension under this pattern."""

    @abstractmethod
    def attend(self, q: Queries, k: Keys, v: Keys, pattern: Pattern, scale: float) -> Queries:
        """The attention's output [b, h, t, d].

        Args:
            q: queries [b, h, t, d], t >= 1.
            k: keys [b, h, s, d], s >= t.
            v: values [b, h, s, d].
            pattern: which keys a query sees.
            scale: what the scores are multiplied with before the softmax.
        """
