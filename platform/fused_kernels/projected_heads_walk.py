"""What the kernels of `projected_heads` share, each of which walks along the tokens of some heads of a part.

A token's columns are a tile [heads, d] in registers. With z = [before | x], so that z_t is the oldest and x_t the
newest token that u_t sees, the last w - 1 of z stay there: nothing moves along time but their names.
"""

import triton
import triton.language as tl


@triton.jit
def own_place(time, tokens, H, D: tl.constexpr, BD: tl.constexpr, BH: tl.constexpr):  # type: ignore[no-untyped-def]
    """This program's part, row and first token; the places of its columns in a part, and which of them there are."""
    groups, tiles = tl.cdiv(H, BH), tl.cdiv(time, tokens)
    part, batch = tl.program_id(0) // groups, (tl.program_id(1) // tiles).to(tl.int64)
    start = (tl.program_id(1) % tiles).to(tl.int64) * tokens
    heads, dims = tl.program_id(0) % groups * BH + tl.arange(0, BH), tl.arange(0, BD)
    inside = (heads < H)[:, None] & (dims < D)[None, :]
    return part, batch, start, heads[:, None] * D + dims[None, :], inside


@triton.jit
def of_part(part, x_0, x_1, x_2, NORM_0: tl.constexpr, NORM_1: tl.constexpr, NORM_2: tl.constexpr):  # type: ignore[no-untyped-def]
    """The tensor of a part and whether it is normed."""
    if part == 0:
        x, normed = x_0, NORM_0
    elif part == 1:
        x, normed = x_1, NORM_1
    else:
        x, normed = x_2, NORM_2
    return x, normed


@triton.jit
def weights_of(taps, columns, inside, W: tl.constexpr, TAPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile of each tap, 1 where there are none."""
    weights = ()
    for tap in tl.static_range(W):
        if TAPS:
            weight = tl.load(taps + columns * W + tap, inside, 0.0).to(tl.float32)
        else:
            weight = tl.full(inside.shape, 1.0, tl.float32)
        weights = weights + (weight,)  # type: ignore[assignment]
    return weights


@triton.jit
def earlier_tokens(x, before, start, x_step, before_step, inside, W: tl.constexpr):  # type: ignore[no-untyped-def]
    """The w - 1 tokens before the one that `x` points at, token `start`: of `before` if that is the first."""
    nobodys, anothers = tl.where(inside, start, 1) == 0, tl.where(inside, start, 0) > 0
    z = ()
    for row in tl.static_range(W - 1):
        held = tl.load(x + (row - (W - 1)) * x_step, anothers, 0.0)
        earlier = tl.load(before + row * before_step, nobodys, 0.0)
        # as the rows of x are held
        z = z + (held.to(tl.float32) + earlier.to(held.dtype).to(tl.float32),)  # type: ignore[assignment]
    return z


@triton.jit
def next_tokens(source, step, left, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile of each of the next tokens, the first of which `source` points at; 0 where no more are `left`."""
    tiles = ()
    for row in tl.static_range(ROWS):
        tiles = tiles + (tl.load(source + row * step, row < left, 0.0),)  # type: ignore[assignment]
    return tiles


@triton.jit
def convolved(z, taps, W: tl.constexpr):  # type: ignore[no-untyped-def]
    """u_t = sum_j tap_j z_{t + j} from z_t and the w - 1 after it."""
    u = taps[0] * z[0]
    for tap in tl.static_range(1, W):
        u += taps[tap] * z[tap]
    return u


@triton.jit
def scale_of(square, normed, EPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """What s is multiplied by where ||s||^2 is `square`: 1 / max(||s||, EPS), 1 where not normed."""
    return tl.where(normed, tl.rsqrt(tl.where(square < EPS * EPS, EPS * EPS, square)), 1.0)  # NaN stays NaN
