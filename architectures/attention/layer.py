"""Multi-head attention with rotary positions and persistent tokens, over keys and values that the caller keeps."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from titanlab.architectures.attention.backend import Keys, Pattern, Queries
from titanlab.architectures.attention.rotary import rotate
from titanlab.architectures.attention.selection import select
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.tensors import Hidden


class KeyValues(NamedTuple):
    """Keys and values [b, h, s, d] of tokens that may still be seen, the keys not yet rotated.

    Positions are counted from the cache's first token, so a stream of any length keeps small, exact angles.
    """

    keys: Keys
    values: Keys

    def followed_by(self, other: KeyValues) -> KeyValues:
        """These tokens, then the other ones, in the type of the other ones."""
        pairs = zip(self, other, strict=True)
        return KeyValues(*(torch.cat([mine.to(theirs.dtype), theirs], 2) for mine, theirs in pairs))

    def last(self, count: int) -> KeyValues:
        """The newest `count` tokens, or all if there are fewer."""
        start = max(self.keys.shape[2] - count, 0)
        return KeyValues(self.keys[:, :, start:], self.values[:, :, start:])


class MultiHeadAttention(nn.Module):
    """Projections and heads (arXiv 1706.03762, section 3.2.2) without biases; the caller says who sees whom.

    Args:
        dim: width of the input and output.
        heads: number of heads; divides dim into heads of an even size.

    Raises:
        ConfigError: the heads do not fit.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        _check_heads(dim, heads)
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def no_tokens(self, batch: int) -> KeyValues:
        """The cache before the first token."""
        dim = self.out.in_features
        empty = self.out.weight.new_zeros(batch, self.heads, 0, dim // self.heads)
        return KeyValues(empty, empty)

    def project(self, context: Hidden) -> KeyValues:
        """Keys and values of the tokens [b, s, dim] that are attended to."""
        keys, values = self.key_value(context).chunk(2, -1)
        return KeyValues(self._split(keys), self._split(values))

    def forward(self, x: Hidden, seen: KeyValues, prefix: Hidden, pattern: Pattern, keys_per_token: int = 1) -> Hidden:
        """Attends from x [b, t, dim].

        Args:
            x: the newest t tokens.
            seen: keys and values of the cached tokens, then the newest ones.
            prefix: persistent tokens [b, p, dim], p >= 0: no position, and seen by every token.
            pattern: who sees whom among the keys [prefix | seen].
            keys_per_token: successive keys of `seen` that stand at one position.

        Returns:
            [b, t, dim]
        """
        q, count = self._split(self.query(x)), seen.keys.shape[2]
        positions = torch.arange(count, device=x.device) // keys_per_token
        rotated_q = rotate(q, torch.arange(count // keys_per_token, device=x.device)[-x.shape[1] :])
        k, v, scale = rotate(seen.keys, positions), seen.values, q.shape[-1] ** -0.5
        if prefix.shape[1]:
            rotated_q, k, v = _with_prefix(q, rotated_q, KeyValues(k, v), self.project(prefix))
        y = select(rotated_q, pattern).attend(rotated_q, k, v, pattern, scale)
        return self.out(y[..., : q.shape[-1]].transpose(1, 2).flatten(2))

    def _split(self, x: Hidden) -> Queries:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _with_prefix(q: Queries, rotated_q: Queries, seen: KeyValues, prefix: KeyValues) -> tuple[Queries, Keys, Keys]:
    """Puts persistent keys before the others so that one call of any backend attends to both.

    A persistent token has no position, so its score is q k_p with the query as it was before rotation. The scores are
    computed here and enter as extra dimensions of the head: the query carries its p scores, persistent key number r
    the unit vector r, every other key zeros. Values are widened by zeros, for kernels want one width.
    """
    count = prefix.keys.shape[2]
    extra = -(-count // 8) * 8  # fused kernels want a head dimension divisible by 8
    scores = q @ prefix.keys.transpose(-1, -2)
    units = torch.eye(count, extra, dtype=q.dtype, device=q.device).expand(*q.shape[:2], -1, -1)
    queries = torch.cat([rotated_q, F.pad(scores, (0, extra - count))], -1)
    prefix_keys = torch.cat([torch.zeros_like(prefix.keys), units], -1)
    keys = torch.cat([prefix_keys, F.pad(seen.keys, (0, extra))], 2)
    values = F.pad(torch.cat([prefix.values, seen.values], 2), (0, extra))
    return queries, keys, values


def _check_heads(dim: int, heads: int) -> None:
    if heads >= 1 and dim % (2 * heads) == 0:
        return
    fitting = ", ".join(str(number) for number in range(1, dim // 2 + 1) if dim % (2 * number) == 0)
    message = (
        f"{heads} heads do not divide a model of dim {dim} into heads of an even size (rotary positions turn pairs); "
        f"heads that fit dim {dim}: {fitting}"
    )
    raise ConfigError(Problem(message, "model.architecture.heads"))
