"""The gradient of `projected_heads` in one pass: a program walks along the tokens and keeps what they share.

With z = [before | x], so that z_t is the oldest and x_t the newest token that u_t sees, step t is

    u_t = sum_j tap_j z_{t + j}      d_u_t from u_t and d_y_t
    d_z_t = sum_j tap_j d_u_{t - j}      d_tap_j += z_t d_u_{t - j}

The last w of z and of d_u are tiles [heads, d] in registers: nothing moves along time but their names, x and d_y are
read once, d_x is written once. Only the w - 1 tokens on either side of a program's own are read by two.
"""

import triton
import triton.language as tl


@triton.jit
def _tokens(source, step, left, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile of each of the next tokens, the first of which `source` points at; 0 where no more are `left`."""
    tiles = ()
    for row in tl.static_range(ROWS):
        tiles = tiles + (tl.load(source + row * step, row < left, 0.0),)  # type: ignore[assignment]
    return tiles


@triton.jit
def _of_u(d_y, u, normed, EPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gradient of u from that of y = s / max(||s||, EPS), s where not normed, with s = u sigmoid(u)."""
    # sigmoid(u) = 1 / (1 + e^-u), the root squared: one instruction more, where a division is five
    root = tl.rsqrt(1.0 + tl.exp2(u * -1.4426950408889634))
    gate = root * root
    s = u * gate
    square = tl.sum(s * s, 1)
    scale = tl.where(normed, tl.rsqrt(tl.maximum(square, EPS * EPS)), 1.0)
    along = tl.where(normed & (square > EPS * EPS), tl.sum(d_y * s, 1) * scale * scale, 0.0)
    d_s = (d_y - s * along[:, None]) * scale[:, None]
    return d_s * (gate + s * (1.0 - gate))


@triton.jit
def _step(z, d_u, d_taps, taps, x, d_y, normed, own, W: tl.constexpr, EPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Step t: the newest w - 1 of z and d_u after it, d_taps with this step's share if z_t is `own`, and d_z_t."""
    z = z + (x.to(tl.float32),)
    u = taps[0] * z[0]
    for tap in tl.static_range(1, W):
        u += taps[tap] * z[tap]
    d_u = d_u + (_of_u(d_y.to(tl.float32), u, normed, EPS),)
    oldest = tl.where(own, z[0], 0.0)
    d_z, added = taps[0] * d_u[W - 1], (d_taps[0] + oldest * d_u[W - 1],)
    for tap in tl.static_range(1, W):
        d_z += taps[tap] * d_u[W - 1 - tap]
        added = added + (d_taps[tap] + oldest * d_u[W - 1 - tap],)  # type: ignore[assignment]
    return z[1:], d_u[1:], added, d_z


@triton.jit(do_not_specialize=["tokens"])
def projected_heads_back(  # type: ignore[no-untyped-def]
    x, before, taps, time, x_row, x_step, before_row, before_step, H, d_part_0, d_part_1, d_part_2, d_x, d_before,
    d_taps, C, tokens, W: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BH: tl.constexpr, ROWS: tl.constexpr,
    TAPS: tl.constexpr, NORM_0: tl.constexpr, NORM_1: tl.constexpr, NORM_2: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Gradients of `tokens` of x, in the first program along time of those before x, too; and a share of the taps'."""
    groups, tiles = tl.cdiv(H, BH), tl.cdiv(time, tokens)
    part, batch = tl.program_id(0) // groups, (tl.program_id(1) // tiles).to(tl.int64)
    start = (tl.program_id(1) % tiles).to(tl.int64) * tokens
    heads, dims = tl.program_id(0) % groups * BH + tl.arange(0, BH), tl.arange(0, BD)
    inside = (heads < H)[:, None] & (dims < D)[None, :]
    places = heads[:, None] * D + dims[None, :]
    columns = part * (H * D) + places
    if part == 0:
        normed, d_y = NORM_0, d_part_0
    elif part == 1:
        normed, d_y = NORM_1, d_part_1
    else:
        normed, d_y = NORM_2, d_part_2
    x += batch * x_row + start * x_step + columns
    before += batch * before_row + columns
    d_y += (batch * time + start) * (H * D) + places
    d_x += (batch * time + start) * C + columns
    d_before += batch * (W - 1) * C + columns
    # tokens of this program, and those from its first on that it sees; none where there is no column
    own = tl.where(inside, tl.minimum(time - start, tokens).to(tl.int32), 0)
    seen = tl.where(inside, tl.minimum(time - start, tokens + (W - 1)).to(tl.int32), 0)

    weights, shares, z, d_u = (), (), (), ()
    for tap in tl.static_range(W):
        if TAPS:
            weight = tl.load(taps + columns * W + tap, inside, 0.0).to(tl.float32)
        else:
            weight = tl.full((BH, BD), 1.0, tl.float32)
        weights = weights + (weight,)  # type: ignore[assignment]
        shares = shares + (tl.zeros((BH, BD), tl.float32),)  # type: ignore[assignment]

    # W - 1 steps whose oldest token stands before this program's, and is nobody's if it stands before x
    nobodys, anothers = tl.where(inside, start, 1) == 0, tl.where(inside, start, 0) > 0
    for row in tl.static_range(W - 1):
        held = tl.load(x + (row - (W - 1)) * x_step, anothers, 0.0)
        earlier = tl.load(before + row * before_step, nobodys, 0.0)
        # as the rows of x are held
        z = z + (held.to(tl.float32) + earlier.to(held.dtype).to(tl.float32),)  # type: ignore[assignment]
        d_u = d_u + (tl.zeros((BH, BD), tl.float32),)  # type: ignore[assignment]
    early, d_early = _tokens(x, x_step, seen, W - 1), _tokens(d_y, H * D, seen, W - 1)
    x, d_y, seen = x + (W - 1) * x_step, d_y + (W - 1) * (H * D), seen - (W - 1)
    ahead, d_ahead = _tokens(x, x_step, seen, ROWS), _tokens(d_y, H * D, seen, ROWS)
    for row in tl.static_range(W - 1):
        z, d_u, shares, d_z = _step(z, d_u, shares, weights, early[row], d_early[row], normed, nobodys, W, EPS)
        tl.store(d_before + row * C, d_z.to(d_before.dtype.element_ty), nobodys)

    # ROWS steps at a time, while the tokens of the next ones are on their way
    for _ in range(tl.cdiv(tl.minimum(time - start, tokens).to(tl.int32), ROWS)):
        x, d_y, seen = x + ROWS * x_step, d_y + ROWS * (H * D), seen - ROWS
        new, d_new = ahead, d_ahead
        ahead, d_ahead = _tokens(x, x_step, seen, ROWS), _tokens(d_y, H * D, seen, ROWS)
        for row in tl.static_range(ROWS):
            z, d_u, shares, d_z = _step(z, d_u, shares, weights, new[row], d_new[row], normed, True, W, EPS)
            tl.store(d_x + row * C, d_z.to(d_x.dtype.element_ty), row < own)
        d_x, own = d_x + ROWS * C, own - ROWS
    if TAPS:
        share = d_taps + tl.program_id(1).to(tl.int64) * W * C
        for tap in tl.static_range(W):
            tl.store(share + tap * C + columns, shares[tap], inside)
