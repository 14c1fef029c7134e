"""Multi-head attention with rotary positions and persistent tokens, over keys and values that the caller keeps."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from titanlab.architectures.attention.backend import AttentionName, Call, Keys, Pattern, Prefix, Queries
from titanlab.architectures.attention.rotary import rotation, turned
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
        if self.keys.shape[2] == 0:
            return other
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
        attention: which backend attends (see `select`).

    Raises:
        ConfigError: the heads do not fit.
    """

    def __init__(self, dim: int, heads: int, *, attention: AttentionName = "auto") -> None:
        super().__init__()
        _check_heads(dim, heads)
        self.heads, self.attention = heads, attention
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def attend(self, call: Call) -> Hidden:
        """What the backend of the setting makes of a call, projected, [b, t, dim].

        Raises:
            ConfigError: the backend that the setting names cannot attend to this.
        """
        return self.out(select(self.attention, call).attend(call).transpose(1, 2).flatten(2))

    def queries(self, x: Hidden) -> Queries:
        """Queries of the tokens [b, t, dim], not yet rotated."""
        return self._split(self.query(x))

    def query_key_value(self, x: Hidden) -> Hidden:
        """Queries, keys and values of the same tokens side by side, [b, t, 3 dim], by one product."""
        return F.linear(x, torch.cat([self.query.weight, self.key_value.weight]))

    def no_tokens(self, batch: int) -> KeyValues:
        """The cache before the first token."""
        dim = self.out.in_features
        empty = self.out.weight.new_zeros(batch, self.heads, 0, dim // self.heads)
        return KeyValues(empty, empty)

    def project(self, context: Hidden) -> KeyValues:
        """Keys and values of the tokens [b, s, dim] that are attended to."""
        return self.cut(self.key_value(context))

    def cut(self, both: Hidden) -> KeyValues:
        """Keys and values that stand side by side, [b, s, 2 dim], in heads."""
        keys, values = both.chunk(2, -1)
        return KeyValues(self._split(keys), self._split(values))

    def forward(self, x: Hidden, seen: KeyValues, prefix: Hidden, pattern: Pattern) -> Hidden:
        """Attends from x [b, t, dim].

        Args:
            x: the newest t tokens.
            seen: keys and values of the cached tokens, then the newest ones.
            prefix: persistent tokens [b, p, dim], p >= 0: no position, and seen by every token.
            pattern: who sees whom among the keys of `seen`; its keys_per_token successive ones stand at one position.

        Returns:
            [b, t, dim]

        Raises:
            ConfigError: the backend that the setting names cannot attend to this.
        """
        time = x.shape[1]
        if time == 0:
            return x
        q = self.queries(x)
        tokens = torch.arange(seen.keys.shape[2] // pattern.keys_per_token, device=x.device)
        turns = rotation(tokens, q.shape[-1], q.dtype)
        k = turned(seen.keys, turns.repeat_interleave(pattern.keys_per_token, 1))
        always = Prefix(q, *self.project(prefix)) if prefix.shape[1] else None
        call = Call(turned(q, turns[:, -time:]), k, seen.values, pattern, q.shape[-1] ** -0.5, always)
        return self.attend(call)

    def _split(self, x: Hidden) -> Queries:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _check_heads(dim: int, heads: int) -> None:
    if heads >= 1 and dim % (2 * heads) == 0:
        return
    fitting = ", ".join(str(number) for number in range(1, dim // 2 + 1) if dim % (2 * number) == 0)
    message = (
        f"{heads} heads do not divide a model of dim {dim} into heads of an even size (rotary positions turn pairs); "
        f"heads that fit dim {dim}: {fitting}"
    )
    raise ConfigError(Problem(message, "model.architecture.heads"))
