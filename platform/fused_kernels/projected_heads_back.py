"""The gradient of `projected_heads` in one pass: a program walks along the tokens and keeps what they share.

With z as in projected_heads_walk, step t is

    u_t = sum_j tap_j z_{t + j}      d_u_t from u_t and d_y_t
    d_z_t = sum_j tap_j d_u_{t - j}      d_tap_j += z_t d_u_{t - j}

The last w of z and of d_u are tiles [heads, d] in registers: nothing moves along time but their names, x and d_y are
read once, d_x is written once. Only the w - 1 tokens on either side of a program's own are read by two.
"""

import triton
import triton.language as tl

from titanlab.platform.fused_kernels.projected_heads_walk import (
    convolved,
    earlier_tokens,
    next_tokens,
    of_part,
    own_place,
    scale_of,
    weights_of,
)
from titanlab.platform.fused_kernels.sigmoid import sigmoid


@triton.jit
def _of_u(d_y, u, normed, EPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gradient of u from that of y = s / max(||s||, EPS), s where not normed, with s = u sigmoid(u)."""
    gate = sigmoid(u)
    s = u * gate
    square = tl.sum(s * s, 1)
    scale = scale_of(square, normed, EPS)
    along = tl.where(normed & (square > EPS * EPS), tl.sum(d_y * s, 1) * scale * scale, 0.0)
    d_s = (d_y - s * along[:, None]) * scale[:, None]
    return d_s * (gate + s * (1.0 - gate))


@triton.jit
def _step(z, d_u, d_taps, taps, x, d_y, normed, own, W: tl.constexpr, EPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Step t: the newest w - 1 of z and d_u after it, d_taps with this step's share if z_t is `own`, and d_z_t."""
    z = z + (x.to(tl.float32),)
    d_u = d_u + (_of_u(d_y.to(tl.float32), convolved(z, taps, W), normed, EPS),)
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
    part, batch, start, places, inside = own_place(time, tokens, H, D, BD, BH)
    d_y, normed = of_part(part, d_part_0, d_part_1, d_part_2, NORM_0, NORM_1, NORM_2)
    columns = part * (H * D) + places
    x += batch * x_row + start * x_step + columns
    d_y += (batch * time + start) * (H * D) + places
    d_x += (batch * time + start) * C + columns
    d_before += batch * (W - 1) * C + columns
    # tokens of this program, and those from its first on that it sees; none where there is no column
    own = tl.where(inside, tl.minimum(time - start, tokens).to(tl.int32), 0)
    seen = tl.where(inside, tl.minimum(time - start, tokens + (W - 1)).to(tl.int32), 0)

    weights, none = weights_of(taps, columns, inside, W, TAPS), tl.zeros((BH, BD), tl.float32)
    shares, d_u = (none,) * W, (none,) * (W - 1)

    # W - 1 steps whose oldest token stands before this program's, and is nobody's if it stands before x
    nobodys = tl.where(inside, start, 1) == 0
    z = earlier_tokens(x, before + batch * before_row + columns, start, x_step, before_step, inside, W)
    early, d_early = next_tokens(x, x_step, seen, W - 1), next_tokens(d_y, H * D, seen, W - 1)
    x, d_y, seen = x + (W - 1) * x_step, d_y + (W - 1) * (H * D), seen - (W - 1)
    ahead, d_ahead = next_tokens(x, x_step, seen, ROWS), next_tokens(d_y, H * D, seen, ROWS)
    for row in tl.static_range(W - 1):
        z, d_u, shares, d_z = _step(z, d_u, shares, weights, early[row], d_early[row], normed, nobodys, W, EPS)
        tl.store(d_before + row * C, d_z.to(d_before.dtype.element_ty), nobodys)

    # ROWS steps at a time, while the tokens of the next ones are on their way
    for _ in range(tl.cdiv(tl.minimum(time - start, tokens).to(tl.int32), ROWS)):
        x, d_y, seen = x + ROWS * x_step, d_y + ROWS * (H * D), seen - ROWS
        new, d_new = ahead, d_ahead
        ahead, d_ahead = next_tokens(x, x_step, seen, ROWS), next_tokens(d_y, H * D, seen, ROWS)
        for row in tl.static_range(ROWS):
            z, d_u, shares, d_z = _step(z, d_u, shares, weights, new[row], d_new[row], normed, True, W, EPS)
            tl.store(d_x + row * C, d_z.to(d_x.dtype.element_ty), row < own)
        d_x, own = d_x + ROWS * C, own - ROWS
    if TAPS:
        share = d_taps + tl.program_id(1).to(tl.int64) * W * C
        for tap in tl.static_range(W):
            tl.store(share + tap * C + columns, shares[tap], inside)
