"""Triton kernels of the chunkwise dual form of one matrix; `triton_matrix_memory` launches them.

The equations are dual_form's at depth 1; G = -dE is the gradient of the values, ' marks the end of a chunk:

    E = K R - V (+ K)             y = read_0 Q W + read_1 Q S - (inner * Q K^T) E (+ Q)
    W' = mix_00 W + mix_01 S - K^T (write_0 E)                  S' = mix_10 W + mix_11 S - K^T (write_1 E)

Value columns do not mix, so W and S are cut into blocks of BV columns. Only what must be done in order is: the walks
keep their block of W and S (or of its gradients) on chip and leave it behind at every chunk; the other kernels run on
all chunks at once. Every number is written by one program, so a result never changes between two runs.

Letters: n chunks of c tokens (padded to BC), heads H of width D (padded to BD), g = batch x heads, p = 2 with MOMENTUM
else 1. Tensors: q, k, v, y, d_y, d_q, d_k, d_v [b, n c, H, D]; read, write [n, g, c, p]; inner [n, g, c, c];
mix [n, g, p, p]; starts (W, S at each chunk's start) and ends (the gradients of W', S') [n, g, p, D, D];
reference [g, D, D], used where SEPARATE (and n = 1); state [g, p, D, D].
TYPE and PRECISION are those of the products; sums are float32.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_products import plus_product, product, token_rows


@triton.jit(do_not_specialize=["n", "g", "H"])
def walk_forward(  # type: ignore[no-untyped-def]
    k, v, write, mix, reference, state, starts, end, n, g, H, c,
    D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    MOMENTUM: tl.constexpr, SEPARATE: tl.constexpr, RESIDUAL: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W and S from the first chunk to the last: writes starts and the end. Grid (g, blocks of columns)."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    head = tl.program_id(0).to(tl.int64)
    rows, dims, columns = tl.arange(0, BC), tl.arange(0, BD), tl.program_id(1) * BV + tl.arange(0, BV)
    token, dim, column = rows < c, dims < D, columns < D
    tile, inside = dims[:, None] * D + columns[None, :], dim[:, None] & column[None, :]
    w = tl.load(state + head * p * D * D + tile, inside, 0.0)
    if MOMENTUM:
        s = tl.load(state + (head * p + 1) * D * D + tile, inside, 0.0)
    for i in range(n):
        place = i * g + head
        tl.store(starts + place * p * D * D + tile, w.to(TYPE), inside)
        key = tl.load(token_rows(k, i, head, n, c, H, D, rows, dims), token[:, None] & dim[None, :], 0.0)
        value = tl.load(token_rows(v, i, head, n, c, H, D, rows, columns), token[:, None] & column[None, :], 0.0)
        if SEPARATE:
            r = tl.load(reference + head * D * D + tile, inside, 0.0)
        else:
            r = w
        error = product(key, r, TYPE, PRECISION) - value.to(tl.float32)
        if RESIDUAL:
            part = tl.load(token_rows(k, i, head, n, c, H, D, rows, columns), token[:, None] & column[None, :], 0.0)
            error += part.to(tl.float32)
        written = tl.load(write + (place * c + rows) * p, token, 0.0)
        change = -written[:, None] * error
        keys = tl.trans(key)
        if MOMENTUM:
            tl.store(starts + (place * p + 1) * D * D + tile, s.to(TYPE), inside)
            felt = tl.load(write + (place * c + rows) * p + 1, token, 0.0)
            m = mix + place * 4
            before = w
            w = tl.load(m) * before + tl.load(m + 1) * s
            s = tl.load(m + 2) * before + tl.load(m + 3) * s
            s = plus_product(s, keys, -felt[:, None] * error, TYPE, PRECISION)
        else:
            w = tl.load(mix + place) * w
        w = plus_product(w, keys, change, TYPE, PRECISION)
    tl.store(end + head * p * D * D + tile, w, inside)
    if MOMENTUM:
        tl.store(end + (head * p + 1) * D * D + tile, s, inside)


@triton.jit(do_not_specialize=["n", "g", "H"])
def answer(  # type: ignore[no-untyped-def]
    q, k, v, read, inner, reference, starts, y, n, g, H, c,
    D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    MOMENTUM: tl.constexpr, SEPARATE: tl.constexpr, RESIDUAL: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y of every chunk from the memory at its start. Grid (n g, blocks of columns)."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    place = tl.program_id(0).to(tl.int64)
    i, head = place // g, place % g
    rows, dims, columns = tl.arange(0, BC), tl.arange(0, BD), tl.program_id(1) * BV + tl.arange(0, BV)
    token, dim, column = rows < c, dims < D, columns < D
    tile, inside = dims[:, None] * D + columns[None, :], dim[:, None] & column[None, :]
    wide, narrow = token[:, None] & dim[None, :], token[:, None] & column[None, :]
    query = tl.load(token_rows(q, i, head, n, c, H, D, rows, dims), wide, 0.0)
    key = tl.load(token_rows(k, i, head, n, c, H, D, rows, dims), wide, 0.0)
    w = tl.load(starts + place * p * D * D + tile, inside, 0.0)
    if SEPARATE:
        r = tl.load(reference + head * D * D + tile, inside, 0.0).to(TYPE)
    else:
        r = w
    error = product(key, r, TYPE, PRECISION)
    error -= tl.load(token_rows(v, i, head, n, c, H, D, rows, columns), narrow, 0.0).to(tl.float32)
    if RESIDUAL:
        error += tl.load(token_rows(k, i, head, n, c, H, D, rows, columns), narrow, 0.0).to(tl.float32)
    result = product(query, w, TYPE, PRECISION)
    result *= tl.load(read + (place * c + rows) * p, token, 0.0)[:, None]
    if MOMENTUM:
        s = tl.load(starts + (place * p + 1) * D * D + tile, inside, 0.0)
        surprise = tl.load(read + (place * c + rows) * p + 1, token, 0.0)
        result += surprise[:, None] * product(query, s, TYPE, PRECISION)
    square = token[:, None] & token[None, :]
    weights = tl.load(inner + (place * c + rows)[:, None] * c + rows[None, :], square, 0.0).to(tl.float32)
    weights *= product(query, tl.trans(key), TYPE, PRECISION)
    result -= product(weights, error, TYPE, PRECISION)
    if RESIDUAL:
        result += tl.load(token_rows(q, i, head, n, c, H, D, rows, columns), narrow, 0.0).to(tl.float32)
    tl.store(token_rows(y, i, head, n, c, H, D, rows, columns), result.to(y.dtype.element_ty), narrow)


@triton.jit(do_not_specialize=["n", "g", "H"])
def values_within(  # type: ignore[no-untyped-def]
    q, k, inner, d_y, d_v, n, g, H, c,
    D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The part of G that comes from the answers of the same chunk. Grid (n g, blocks of columns)."""
    place = tl.program_id(0).to(tl.int64)
    i, head = place // g, place % g
    rows, dims, columns = tl.arange(0, BC), tl.arange(0, BD), tl.program_id(1) * BV + tl.arange(0, BV)
    token, dim, column = rows < c, dims < D, columns < D
    wide, narrow = token[:, None] & dim[None, :], token[:, None] & column[None, :]
    query = tl.load(token_rows(q, i, head, n, c, H, D, rows, dims), wide, 0.0)
    key = tl.load(token_rows(k, i, head, n, c, H, D, rows, dims), wide, 0.0)
    asked = tl.load(token_rows(d_y, i, head, n, c, H, D, rows, columns), narrow, 0.0)
    square = token[:, None] & token[None, :]
    transposed = inner + (place * c + rows)[None, :] * c + rows[:, None]
    weights = tl.load(transposed, square, 0.0).to(tl.float32) * product(key, tl.trans(query), TYPE, PRECISION)
    result = product(weights, asked, TYPE, PRECISION)
    tl.store(token_rows(d_v, i, head, n, c, H, D, rows, columns), result.to(TYPE), narrow)


@triton.jit(do_not_specialize=["n", "g", "H"])
def walk_backward(  # type: ignore[no-untyped-def]
    q, k, read, write, mix, d_y, d_end, d_v, ends, d_state, d_reference, n, g, H, c,
    D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    MOMENTUM: tl.constexpr, SEPARATE: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of W and S from the last chunk to the first: writes ends, completes G. Grid (g, blocks of columns)."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    head = tl.program_id(0).to(tl.int64)
    rows, dims, columns = tl.arange(0, BC), tl.arange(0, BD), tl.program_id(1) * BV + tl.arange(0, BV)
    token, dim, column = rows < c, dims < D, columns < D
    tile, inside = dims[:, None] * D + columns[None, :], dim[:, None] & column[None, :]
    wide, narrow = token[:, None] & dim[None, :], token[:, None] & column[None, :]
    d_w = tl.load(d_end + head * p * D * D + tile, inside, 0.0)
    if MOMENTUM:
        d_s = tl.load(d_end + (head * p + 1) * D * D + tile, inside, 0.0)
    for step in range(n):
        i = n - 1 - step
        place = i * g + head
        tl.store(ends + place * p * D * D + tile, d_w.to(TYPE), inside)
        query = tl.load(token_rows(q, i, head, n, c, H, D, rows, dims), wide, 0.0)
        key = tl.load(token_rows(k, i, head, n, c, H, D, rows, dims), wide, 0.0)
        asked = tl.load(token_rows(d_y, i, head, n, c, H, D, rows, columns), narrow, 0.0).to(tl.float32)
        G = tl.load(token_rows(d_v, i, head, n, c, H, D, rows, columns), narrow, 0.0).to(tl.float32)
        seen = tl.load(read + (place * c + rows) * p, token, 0.0)
        written = tl.load(write + (place * c + rows) * p, token, 0.0)
        G += written[:, None] * product(key, d_w, TYPE, PRECISION)
        queries, keys = tl.trans(query), tl.trans(key)
        if MOMENTUM:
            tl.store(ends + (place * p + 1) * D * D + tile, d_s.to(TYPE), inside)
            felt = tl.load(write + (place * c + rows) * p + 1, token, 0.0)
            G += felt[:, None] * product(key, d_s, TYPE, PRECISION)
            surprise = tl.load(read + (place * c + rows) * p + 1, token, 0.0)
            m = mix + place * 4
            after = d_w
            d_w = tl.load(m) * after + tl.load(m + 2) * d_s
            d_s = tl.load(m + 1) * after + tl.load(m + 3) * d_s
            d_s = plus_product(d_s, queries, surprise[:, None] * asked, TYPE, PRECISION)
        else:
            d_w = tl.load(mix + place) * d_w
        d_w = plus_product(d_w, queries, seen[:, None] * asked, TYPE, PRECISION)
        tl.store(token_rows(d_v, i, head, n, c, H, D, rows, columns), G.to(TYPE), narrow)
        if SEPARATE:
            tl.store(d_reference + head * D * D + tile, product(keys, -G, TYPE, PRECISION), inside)
        else:
            d_w = plus_product(d_w, keys, -G, TYPE, PRECISION)
    tl.store(d_state + head * p * D * D + tile, d_w, inside)
    if MOMENTUM:
        tl.store(d_state + (head * p + 1) * D * D + tile, d_s, inside)


@triton.jit(do_not_specialize=["n", "g", "H"])
def inputs_backward(  # type: ignore[no-untyped-def]
    q, k, v, read, inner, write, reference, starts, ends, d_y, d_v,
    d_q, d_k, d_read, d_inner, d_write, d_mix, n, g, H, c,
    D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    MOMENTUM: tl.constexpr, SEPARATE: tl.constexpr, RESIDUAL: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of queries, keys and the gates' arrays, of every chunk at once. Grid (n g,)."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    place = tl.program_id(0).to(tl.int64)
    i, head = place // g, place % g
    rows, dims = tl.arange(0, BC), tl.arange(0, BD)
    token, dim = rows < c, dims < D
    wide, square = token[:, None] & dim[None, :], token[:, None] & token[None, :]
    query = tl.load(token_rows(q, i, head, n, c, H, D, rows, dims), wide, 0.0)
    key = tl.load(token_rows(k, i, head, n, c, H, D, rows, dims), wide, 0.0)
    seen = tl.load(read + (place * c + rows) * p, token, 0.0)
    written = tl.load(write + (place * c + rows) * p, token, 0.0)
    query_sum, key_sum = tl.zeros([BC, BD], tl.float32), tl.zeros([BC, BD], tl.float32)
    scores_sum = tl.zeros([BC, BC], tl.float32)
    seen_sum, written_sum = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    mix_00 = 0.0
    if MOMENTUM:
        surprise = tl.load(read + (place * c + rows) * p + 1, token, 0.0)
        felt = tl.load(write + (place * c + rows) * p + 1, token, 0.0)
        surprise_sum, felt_sum = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
        mix_01 = 0.0
        mix_10 = 0.0
        mix_11 = 0.0
    for first in range(0, D, BV):
        columns = first + tl.arange(0, BV)
        column = columns < D
        tile, inside = dims[:, None] * D + columns[None, :], dim[:, None] & column[None, :]
        narrow = token[:, None] & column[None, :]
        w = tl.load(starts + place * p * D * D + tile, inside, 0.0)
        d_w = tl.load(ends + place * p * D * D + tile, inside, 0.0)
        if SEPARATE:
            r = tl.load(reference + head * D * D + tile, inside, 0.0).to(TYPE)
        else:
            r = w
        asked = tl.load(token_rows(d_y, i, head, n, c, H, D, rows, columns), narrow, 0.0)
        G = tl.load(token_rows(d_v, i, head, n, c, H, D, rows, columns), narrow, 0.0)
        error = product(key, r, TYPE, PRECISION)
        error -= tl.load(token_rows(v, i, head, n, c, H, D, rows, columns), narrow, 0.0).to(tl.float32)
        if RESIDUAL:
            error += tl.load(token_rows(k, i, head, n, c, H, D, rows, columns), narrow, 0.0).to(tl.float32)
        scores_sum -= product(asked, tl.trans(error), TYPE, PRECISION)
        share = product(asked, tl.trans(w), TYPE, PRECISION)
        seen_sum += tl.sum(share * query.to(tl.float32), 1)
        query_sum += seen[:, None] * share
        share = product(error, tl.trans(d_w), TYPE, PRECISION)
        written_sum -= tl.sum(share * key.to(tl.float32), 1)
        key_sum -= written[:, None] * share
        key_sum -= product(G, tl.trans(r), TYPE, PRECISION)
        mix_00 += tl.sum(d_w.to(tl.float32) * w.to(tl.float32))
        if MOMENTUM:
            s = tl.load(starts + (place * p + 1) * D * D + tile, inside, 0.0)
            d_s = tl.load(ends + (place * p + 1) * D * D + tile, inside, 0.0)
            share = product(asked, tl.trans(s), TYPE, PRECISION)
            surprise_sum += tl.sum(share * query.to(tl.float32), 1)
            query_sum += surprise[:, None] * share
            share = product(error, tl.trans(d_s), TYPE, PRECISION)
            felt_sum -= tl.sum(share * key.to(tl.float32), 1)
            key_sum -= felt[:, None] * share
            mix_01 += tl.sum(d_w.to(tl.float32) * s.to(tl.float32))
            mix_10 += tl.sum(d_s.to(tl.float32) * w.to(tl.float32))
            mix_11 += tl.sum(d_s.to(tl.float32) * s.to(tl.float32))
    corner = (place * c + rows)[:, None] * c + rows[None, :]
    overlap = product(query, tl.trans(key), TYPE, PRECISION)
    tl.store(d_inner + corner, (scores_sum * overlap).to(d_inner.dtype.element_ty), square)
    scores_sum *= tl.load(inner + corner, square, 0.0).to(tl.float32)
    query_sum += product(scores_sum, key, TYPE, PRECISION)
    key_sum += product(tl.trans(scores_sum), query, TYPE, PRECISION)
    if RESIDUAL:
        query_sum += tl.load(token_rows(d_y, i, head, n, c, H, D, rows, dims), wide, 0.0).to(tl.float32)
        key_sum -= tl.load(token_rows(d_v, i, head, n, c, H, D, rows, dims), wide, 0.0).to(tl.float32)
    tl.store(token_rows(d_q, i, head, n, c, H, D, rows, dims), query_sum.to(d_q.dtype.element_ty), wide)
    tl.store(token_rows(d_k, i, head, n, c, H, D, rows, dims), key_sum.to(d_k.dtype.element_ty), wide)
    tl.store(d_read + (place * c + rows) * p, seen_sum, token)
    tl.store(d_write + (place * c + rows) * p, written_sum, token)
    m = d_mix + place * p * p
    tl.store(m, mix_00)
    if MOMENTUM:
        tl.store(d_read + (place * c + rows) * p + 1, surprise_sum, token)
        tl.store(d_write + (place * c + rows) * p + 1, felt_sum, token)
        tl.store(m + 1, mix_01)
        tl.store(m + 2, mix_10)
        tl.store(m + 3, mix_11)
