"""The results of `projected_heads` in one pass: a program walks along the tokens and keeps what they share.

With z as in projected_heads_walk,

    u_t = sum_j tap_j z_{t + j}      s = u sigmoid(u)      y = s / max(||s||, EPS), s where not normed

x is read once, y written once; only the w - 1 tokens before a program's own are read by two.
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


@triton.jit(do_not_specialize=["tokens"])
def projected_heads_forward(  # type: ignore[no-untyped-def]
    x, before, taps, time, x_row, x_step, before_row, before_step, H, part_0, part_1, part_2, tokens,
    W: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BH: tl.constexpr, ROWS: tl.constexpr, TAPS: tl.constexpr,
    NORM_0: tl.constexpr, NORM_1: tl.constexpr, NORM_2: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """`tokens` of a part."""
    part, batch, start, places, inside = own_place(time, tokens, H, D, BD, BH)
    y, normed = of_part(part, part_0, part_1, part_2, NORM_0, NORM_1, NORM_2)
    columns = part * (H * D) + places
    x += batch * x_row + start * x_step + columns
    y += (batch * time + start) * (H * D) + places
    count = tl.minimum(time - start, tokens).to(tl.int32)
    own = tl.where(inside, count, 0)  # none where there is no column

    weights = weights_of(taps, columns, inside, W, TAPS)
    z = earlier_tokens(x, before + batch * before_row + columns, start, x_step, before_step, inside, W)
    ahead = next_tokens(x, x_step, own, ROWS)
    # ROWS steps at a time, while the tokens of the next ones are on their way
    for _ in range(tl.cdiv(count, ROWS)):
        x, new = x + ROWS * x_step, ahead
        ahead = next_tokens(x, x_step, own - ROWS, ROWS)
        for row in tl.static_range(ROWS):
            z = z + (new[row].to(tl.float32),)
            u = convolved(z, weights, W)
            s = u * sigmoid(u)
            scale = scale_of(tl.sum(s * s, 1), normed, EPS)
            tl.store(y + row * (H * D), (s * scale[:, None]).to(y.dtype.element_ty), row < own)
            z = z[1:]
        y, own = y + ROWS * (H * D), own - ROWS
