"""Triton kernels of the matrix rules' gradients, of every chunk at once; `triton_rule_kernels` has the letters."""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_products import plus_product, product, token_rows
from titanlab.memory_modules.kernels.triton_rule_kernels import early_read


@triton.jit(do_not_specialize=["n", "H"])
def inputs_backward(  # type: ignore[no-untyped-def]
    q, k, u, read, inner, write, starts, ends, d_y, d_q, d_k, d_read, d_scores, d_write, d_mix, n, H, c,
    DK: tl.constexpr, DV: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PARTS: tl.constexpr,
    SCALED: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of asks, writes, scores, mix; SCALED: of what they are made of, d_scores being inner's. Grid (g n,)."""
    place = tl.program_id(0).to(tl.int64)
    head, i = place // n, place % n
    rows, dims = tl.arange(0, BC), tl.arange(0, BK)
    token, dim = rows < c, dims < DK
    wide, square = token[:, None] & dim[None, :], token[:, None] & token[None, :]
    size: tl.constexpr = DK * DV
    # sums over all columns, and weighed by token only then: tokens weigh rows, so the loop holds nothing but sums
    asks_sum, writes_sum = tl.zeros([BC, BK], tl.float32), tl.zeros([BC, BK], tl.float32)
    scores_sum = tl.zeros([BC, BC], tl.float32)
    if SCALED:
        mix_00 = 0.0
    else:
        mix_sum = tl.zeros([BK], tl.float32)
    if PARTS == 2:
        asks_of_p, writes_to_p = tl.zeros([BC, BK], tl.float32), tl.zeros([BC, BK], tl.float32)
        mix_01 = 0.0
        mix_10 = 0.0
        mix_11 = 0.0
    for first in range(0, DV, BV):
        columns = first + tl.arange(0, BV)
        column = columns < DV
        tile, inside = dims[:, None] * DV + columns[None, :], dim[:, None] & column[None, :]
        narrow = token[:, None] & column[None, :]
        s = tl.load(starts + place * PARTS * size + tile, inside, 0.0)
        d_s = tl.load(ends + place * PARTS * size + tile, inside, 0.0)
        asked = tl.load(token_rows(d_y, i, head, n, c, H, DV, rows, columns), narrow, 0.0)
        value = tl.load(token_rows(u, i, head, n, c, H, DV, rows, columns), narrow, 0.0)
        scores_sum = plus_product(scores_sum, asked, tl.trans(value), TYPE, PRECISION)
        asks_sum = plus_product(asks_sum, asked, tl.trans(s), TYPE, PRECISION)
        writes_sum = plus_product(writes_sum, value, tl.trans(d_s), TYPE, PRECISION)
        if SCALED:
            mix_00 += tl.sum(d_s.to(tl.float32) * s.to(tl.float32))
        else:
            mix_sum += tl.sum(d_s.to(tl.float32) * s.to(tl.float32), 1)
        if PARTS == 2:
            p = tl.load(starts + (place * PARTS + 1) * size + tile, inside, 0.0)
            d_p = tl.load(ends + (place * PARTS + 1) * size + tile, inside, 0.0)
            asks_of_p = plus_product(asks_of_p, asked, tl.trans(p), TYPE, PRECISION)
            writes_to_p = plus_product(writes_to_p, value, tl.trans(d_p), TYPE, PRECISION)
            mix_01 += tl.sum(d_s.to(tl.float32) * p.to(tl.float32))
            mix_10 += tl.sum(d_p.to(tl.float32) * s.to(tl.float32))
            mix_11 += tl.sum(d_p.to(tl.float32) * p.to(tl.float32))
    corner = (place * c + rows)[:, None] * c + rows[None, :]
    if SCALED:
        query = tl.load(token_rows(q, i, head, n, c, H, DK, rows, dims), wide, 0.0)
        key = tl.load(token_rows(k, i, head, n, c, H, DK, rows, dims), wide, 0.0)
        gate = (place * c + rows) * PARTS
        tl.store(d_read + gate, tl.sum(asks_sum * query.to(tl.float32), 1), token)
        tl.store(d_write + gate, tl.sum(writes_sum * key.to(tl.float32), 1), token)
        tl.store(d_mix + place * PARTS * PARTS, mix_00)
        asks_sum *= tl.load(read + gate, token, 0.0)[:, None]
        writes_sum *= tl.load(write + gate, token, 0.0)[:, None]
        if PARTS == 2:
            tl.store(d_read + gate + 1, tl.sum(asks_of_p * query.to(tl.float32), 1), token)
            tl.store(d_write + gate + 1, tl.sum(writes_to_p * key.to(tl.float32), 1), token)
            tl.store(d_mix + place * 4 + 1, mix_01)
            tl.store(d_mix + place * 4 + 2, mix_10)
            tl.store(d_mix + place * 4 + 3, mix_11)
            asks_sum += tl.load(read + gate + 1, token, 0.0)[:, None] * asks_of_p
            writes_sum += tl.load(write + gate + 1, token, 0.0)[:, None] * writes_to_p
        tl.store(d_scores + corner, scores_sum * product(query, tl.trans(key), TYPE, PRECISION), square)
        scores_sum *= tl.load(inner + corner, square, 0.0)
        asks_sum = plus_product(asks_sum, scores_sum, key, TYPE, PRECISION)
        writes_sum = plus_product(writes_sum, tl.trans(scores_sum), query, TYPE, PRECISION)
    else:
        tl.store(d_scores + corner, scores_sum.to(TYPE), square)
        tl.store(d_mix + place * DK + dims, mix_sum, dim)
    tl.store(token_rows(d_q, i, head, n, c, H, DK, rows, dims), asks_sum.to(d_q.dtype.element_ty), wide)
    tl.store(token_rows(d_k, i, head, n, c, H, DK, rows, dims), writes_sum.to(d_k.dtype.element_ty), wide)


@triton.jit(do_not_specialize=["n", "H"])
def solve_backward(  # type: ignore[no-untyped-def]
    k, u, d_u, read, inner, solution, starts, part, d_v, d_k, d_read, d_system, n, H, c,
    DK: tl.constexpr, DV: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PARTS: tl.constexpr,
    SCALED: tl.constexpr, SHIFT: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Through U = T X: d_v = T^T dU is X's gradient, and -d_v U^T that of the triangular matrix. Grid (g n,).

    SCALED adds to d_read and to inner's gradient (d_system), and d_k has `part` added. Else d_k is the gradient of
    `before`, and d_system that of system.
    """
    place = tl.program_id(0).to(tl.int64)
    head, i = place // n, place % n
    rows, dims = tl.arange(0, BC), tl.arange(0, BK)
    token, dim = rows < c, dims < DK
    wide, square = token[:, None] & dim[None, :], token[:, None] & token[None, :]
    corner = (place * c + rows)[:, None] * c + rows[None, :]
    size: tl.constexpr = DK * DV
    transposed = tl.trans(tl.load(solution + corner, square, 0.0))
    key_sum, lower_sum = tl.zeros([BC, BK], tl.float32), tl.zeros([BC, BC], tl.float32)
    if PARTS == 2:
        key_of_p = tl.zeros([BC, BK], tl.float32)
    for first in range(0, DV, BV):
        columns = first + tl.arange(0, BV)
        column = columns < DV
        tile, inside = dims[:, None] * DV + columns[None, :], dim[:, None] & column[None, :]
        narrow = token[:, None] & column[None, :]
        s = tl.load(starts + place * PARTS * size + tile, inside, 0.0)
        d_value = tl.load(token_rows(d_u, i, head, n, c, H, DV, rows, columns), narrow, 0.0)
        d_value = product(transposed, d_value, TYPE, PRECISION)
        to = token_rows(d_v, i, head, n, c, H, DV, rows, columns)
        tl.store(to, d_value.to(d_v.dtype.element_ty), narrow)
        value = tl.load(token_rows(u, i, head, n, c, H, DV, rows, columns), narrow, 0.0)
        lower_sum = plus_product(lower_sum, -d_value, tl.trans(value), TYPE, PRECISION)
        key_sum = plus_product(key_sum, d_value, tl.trans(s), TYPE, PRECISION)
        if PARTS == 2:
            p = tl.load(starts + (place * PARTS + 1) * size + tile, inside, 0.0)
            key_of_p = plus_product(key_of_p, d_value, tl.trans(p), TYPE, PRECISION)
    below = square & (rows[:, None] > rows[None, :])
    if SCALED:
        key = tl.load(token_rows(k, i, head, n, c, H, DK, rows, dims), wide, 0.0)
        later = token & (rows >= SHIFT)
        to = d_read + (place * c + rows - SHIFT) * PARTS
        tl.store(to, tl.load(to, later, 0.0) - tl.sum(key_sum * key.to(tl.float32), 1), later)
        key_sum *= -early_read(read, place, c, rows, token, 0, PARTS, SHIFT)[:, None]
        if PARTS == 2:
            tl.store(to + 1, tl.load(to + 1, later, 0.0) - tl.sum(key_of_p * key.to(tl.float32), 1), later)
            key_sum -= early_read(read, place, c, rows, token, 1, PARTS, SHIFT)[:, None] * key_of_p
        d_inner = d_system + corner - SHIFT * c
        change = lower_sum * product(key, tl.trans(key), TYPE, PRECISION)
        tl.store(d_inner, tl.load(d_inner, below, 0.0) + change, below)
        lower_sum *= tl.load(inner + corner - SHIFT * c, below, 0.0)
        key_sum = plus_product(key_sum, lower_sum, key, TYPE, PRECISION)
        key_sum = plus_product(key_sum, tl.trans(lower_sum), key, TYPE, PRECISION)
        key_sum += tl.load(token_rows(part, i, head, n, c, H, DK, rows, dims), wide, 0.0)
        tl.store(token_rows(d_k, i, head, n, c, H, DK, rows, dims), key_sum.to(d_k.dtype.element_ty), wide)
    else:
        tl.store(d_system + corner, tl.where(below, -lower_sum, 0.0), square)
        tl.store(d_k + (place * c + rows)[:, None] * DK + dims[None, :], key_sum.to(d_k.dtype.element_ty), wide)
