"""What attention computes and holds for a row of tokens: the sums behind `flops` and `state_size`."""

from __future__ import annotations

FLOAT32 = 4
"""Bytes."""


def attention_flops(
    dim: int, heads: int, keys: float, *, persistent: int = 0, prefixes_a_token: float = 0.0, keys_a_token: int = 1
) -> float:
    """Operations a token of `MultiHeadAttention`.

        projections  4 dim^2 of query and output, 4 dim^2 of each new key and its value
        products     4 w keys, w = dim: the query with each key it sees, its weight with the value

    With persistent tokens the query sees `persistent` keys more, its scores with them are 2 dim each, and heads are
    wider by that number rounded up to a multiple of 8: w = dim + heads * extra. This is how the backend `sdpa` attends
    (see `_widened`); the others do not widen heads.

    Args:
        dim: width of the model.
        heads: number of heads.
        keys: keys that a token sees, on average over the row, persistent ones aside.
        persistent: persistent tokens.
        prefixes_a_token: how often these are projected to keys and values, over the tokens of the row.
        keys_a_token: keys made of each token.
    """
    width = dim + heads * (-(-persistent // 8) * 8)
    projections = 4 * dim**2 * (1 + keys_a_token + persistent * prefixes_a_token)
    return projections + 4 * width * (keys + persistent) + 2 * dim * persistent


def mean_window(window: int, length: int) -> float:
    """Tokens that a token sees on average over a row, itself included: sum of min(t + 1, window) over length."""
    growing = min(window, length)
    return (growing * (growing + 1) / 2 + (length - growing) * window) / length


def mean_segment(segment: int, length: int) -> float:
    """Tokens of its segment up to itself that a token sees on average over a row."""
    whole, rest = divmod(length, segment)
    return (whole * segment * (segment + 1) / 2 + rest * (rest + 1) / 2) / length


def key_value_bytes(dim: int, tokens: int) -> int:
    """Keys and values of tokens in float32."""
    return 2 * tokens * dim * FLOAT32
