"""Triton kernels of the matrix rules: chunks in order with the state on chip, everything else on all chunks at once.

Every rule here is linear in the state that a chunk starts from. With p parts of the state (S, and momentum's P):

    U = offsets + sum_j reads_j S_j (SOLVE)  or  the values          Y = sum_j asks_j S_j + scores U
    S_j' = sum_l mix_jl S_l + writes_j^T U (+ added)

SCALED: asks_j = read_j q, writes_j = write_j k and scores = inner * Q K^T, a number for each token; mix is p x p. Else
asks, writes and scores are arrays of their own, p = 1, and mix is a number for each key channel. With SOLVE
U = T X for the inverse T of a unit lower triangular matrix, where X = V - sum_j early_j K S_j, early_j being read_j or,
with SHIFT, that of the token before (SCALED), or X = values + before S; so offsets and reads are T times a part of X.

Value columns do not mix, so a walk's state is cut into blocks of BV columns. Every number is written by one program, so
a result never changes between two runs.

Letters: n chunks of c tokens (padded to BC), heads H, g = batch x heads, key width DK (padded to BK), value width DV.
Tensors: q, k [b, n c, H, DK]; v, u, y and their gradients [b, n c, H, DV]; read, write [g, n, c, p];
inner, scores, system, solution [g, n, c, c]; reads [g, n, p, c, DK]; starts (S at each chunk's start), ends (gradients
at each chunk's end), added [g, n, p, DK, DV]; state [g, p, DK, DV]; mix [g, n, p, p] or [g, n, DK].
TYPE and PRECISION are those of the products; sums are float32.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_products import plus_product, product, token_rows


@triton.jit
def early_read(read, place, c, rows, token, part: tl.constexpr, PARTS: tl.constexpr, SHIFT: tl.constexpr):  # type: ignore[no-untyped-def]
    """How much of a part of the state each token's error reads; the first token of a shifted chunk reads S itself."""
    own: tl.constexpr = 1.0 if part == 0 and SHIFT else 0.0
    return tl.load(read + (place * c + rows - SHIFT) * PARTS + part, token & (rows >= SHIFT), own)


@triton.jit(do_not_specialize=["n", "H"])
def prepare(  # type: ignore[no-untyped-def]
    q, k, v, read, inner, before, scores, solution, u, reads, n, H, c,
    DK: tl.constexpr, DV: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PARTS: tl.constexpr,
    SCALED: tl.constexpr, SOLVE: tl.constexpr, SHIFT: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores (SCALED); offsets (in u) and reads (SOLVE). Grid (g n,); BV covers all columns."""
    place = tl.program_id(0).to(tl.int64)
    head, i = place // n, place % n
    rows, dims, columns = tl.arange(0, BC), tl.arange(0, BK), tl.arange(0, BV)
    token, dim, column = rows < c, dims < DK, columns < DV
    wide, narrow = token[:, None] & dim[None, :], token[:, None] & column[None, :]
    square = token[:, None] & token[None, :]
    corner = (place * c + rows)[:, None] * c + rows[None, :]
    if SCALED:
        key = tl.load(token_rows(k, i, head, n, c, H, DK, rows, dims), wide, 0.0)
        query = tl.load(token_rows(q, i, head, n, c, H, DK, rows, dims), wide, 0.0)
        weighed = tl.load(inner + corner, square, 0.0) * product(query, tl.trans(key), TYPE, PRECISION)
        tl.store(scores + corner, weighed.to(TYPE), square)
    if SOLVE:
        inverse = tl.load(solution + corner, square, 0.0)
        value = tl.load(token_rows(v, i, head, n, c, H, DV, rows, columns), narrow, 0.0)
        offset = product(inverse, value, TYPE, PRECISION)
        tl.store(token_rows(u, i, head, n, c, H, DV, rows, columns), offset.to(TYPE), narrow)
        for part in tl.static_range(PARTS):
            if SCALED:
                asked = -early_read(read, place, c, rows, token, part, PARTS, SHIFT)[:, None] * key.to(tl.float32)
            else:
                asked = tl.load(before + (place * c + rows)[:, None] * DK + dims[None, :], wide, 0.0).to(tl.float32)
            to = reads + ((place * PARTS + part) * c + rows)[:, None] * DK + dims[None, :]
            tl.store(to, product(inverse, asked, TYPE, PRECISION).to(TYPE), wide)


@triton.jit(do_not_specialize=["n", "H"])
def walk_forward(  # type: ignore[no-untyped-def]
    k, u, write, mix, reads, added, state, starts, end, n, H, c,
    DK: tl.constexpr, DV: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PARTS: tl.constexpr,
    SCALED: tl.constexpr, SOLVE: tl.constexpr, ADDED: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the first chunk to the last: writes starts and the end, makes U of offsets. Grid (g, blocks of columns)."""
    head = tl.program_id(0).to(tl.int64)
    rows, dims, columns = tl.arange(0, BC), tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    token, dim, column = rows < c, dims < DK, columns < DV
    tile, inside = dims[:, None] * DV + columns[None, :], dim[:, None] & column[None, :]
    wide, narrow = token[:, None] & dim[None, :], token[:, None] & column[None, :]
    size: tl.constexpr = DK * DV
    s = tl.load(state + head * PARTS * size + tile, inside, 0.0)
    if PARTS == 2:
        p = tl.load(state + (head * PARTS + 1) * size + tile, inside, 0.0)
    for i in range(n):
        place = head * n + i
        tl.store(starts + place * PARTS * size + tile, s.to(TYPE), inside)
        to = token_rows(u, i, head, n, c, H, DV, rows, columns)
        written = tl.load(to, narrow, 0.0).to(tl.float32)
        keys = tl.trans(tl.load(token_rows(k, i, head, n, c, H, DK, rows, dims), wide, 0.0))
        if SOLVE:
            from_s = reads + (place * PARTS * c + rows)[:, None] * DK + dims[None, :]
            written = plus_product(written, tl.load(from_s, wide, 0.0), s, TYPE, PRECISION)
            if PARTS == 2:
                written = plus_product(written, tl.load(from_s + c * DK, wide, 0.0), p, TYPE, PRECISION)
            tl.store(to, written.to(TYPE), narrow)
        if PARTS == 2:
            tl.store(starts + (place * PARTS + 1) * size + tile, p.to(TYPE), inside)
            felt = tl.load(write + (place * c + rows) * PARTS + 1, token, 0.0)
            m = mix + place * 4
            before = s
            s = tl.load(m) * before + tl.load(m + 1) * p
            p = tl.load(m + 2) * before + tl.load(m + 3) * p
            p = plus_product(p, keys, felt[:, None] * written, TYPE, PRECISION)
        elif SCALED:
            s = tl.load(mix + place) * s
        else:
            s = tl.load(mix + place * DK + dims, dim, 0.0)[:, None] * s
        if SCALED:
            written = tl.load(write + (place * c + rows) * PARTS, token, 0.0)[:, None] * written
        if ADDED:
            s += tl.load(added + place * size + tile, inside, 0.0).to(tl.float32)
        s = plus_product(s, keys, written, TYPE, PRECISION)
    tl.store(end + head * PARTS * size + tile, s, inside)
    if PARTS == 2:
        tl.store(end + (head * PARTS + 1) * size + tile, p, inside)


@triton.jit(do_not_specialize=["n", "H"])
def answer(  # type: ignore[no-untyped-def]
    q, u, read, scores, starts, y, n, H, c,
    DK: tl.constexpr, DV: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PARTS: tl.constexpr,
    SCALED: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Y of every chunk from the state at its start. Grid (g n, blocks of columns)."""
    place = tl.program_id(0).to(tl.int64)
    head, i = place // n, place % n
    rows, dims, columns = tl.arange(0, BC), tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    token, dim, column = rows < c, dims < DK, columns < DV
    tile, inside = dims[:, None] * DV + columns[None, :], dim[:, None] & column[None, :]
    narrow, square = token[:, None] & column[None, :], token[:, None] & token[None, :]
    size: tl.constexpr = DK * DV
    query = tl.load(token_rows(q, i, head, n, c, H, DK, rows, dims), token[:, None] & dim[None, :], 0.0)
    result = product(query, tl.load(starts + place * PARTS * size + tile, inside, 0.0), TYPE, PRECISION)
    if SCALED:
        result *= tl.load(read + (place * c + rows) * PARTS, token, 0.0)[:, None]
    if PARTS == 2:
        surprise = tl.load(read + (place * c + rows) * PARTS + 1, token, 0.0)
        p = tl.load(starts + (place * PARTS + 1) * size + tile, inside, 0.0)
        result += surprise[:, None] * product(query, p, TYPE, PRECISION)
    weights = tl.load(scores + (place * c + rows)[:, None] * c + rows[None, :], square, 0.0)
    written = tl.load(token_rows(u, i, head, n, c, H, DV, rows, columns), narrow, 0.0)
    result = plus_product(result, weights, written, TYPE, PRECISION)
    tl.store(token_rows(y, i, head, n, c, H, DV, rows, columns), result.to(y.dtype.element_ty), narrow)


@triton.jit(do_not_specialize=["n", "H"])
def walk_backward(  # type: ignore[no-untyped-def]
    q, k, read, write, mix, scores, reads, d_y, d_end, d_u, ends, d_state, n, H, c,
    DK: tl.constexpr, DV: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PARTS: tl.constexpr,
    SCALED: tl.constexpr, SOLVE: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the last chunk to the first: writes ends and U's gradient. Grid (g, blocks of columns)."""
    head = tl.program_id(0).to(tl.int64)
    rows, dims, columns = tl.arange(0, BC), tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    token, dim, column = rows < c, dims < DK, columns < DV
    tile, inside = dims[:, None] * DV + columns[None, :], dim[:, None] & column[None, :]
    wide, narrow = token[:, None] & dim[None, :], token[:, None] & column[None, :]
    square = token[:, None] & token[None, :]
    size: tl.constexpr = DK * DV
    d_s = tl.load(d_end + head * PARTS * size + tile, inside, 0.0)
    if PARTS == 2:
        d_p = tl.load(d_end + (head * PARTS + 1) * size + tile, inside, 0.0)
    for step in range(n):
        i = n - 1 - step
        place = head * n + i
        tl.store(ends + place * PARTS * size + tile, d_s.to(TYPE), inside)
        key = tl.load(token_rows(k, i, head, n, c, H, DK, rows, dims), wide, 0.0)
        queries = tl.trans(tl.load(token_rows(q, i, head, n, c, H, DK, rows, dims), wide, 0.0))
        asked = tl.load(token_rows(d_y, i, head, n, c, H, DV, rows, columns), narrow, 0.0)
        weights = tl.load(scores + (place * c + rows)[:, None] * c + rows[None, :], square, 0.0)
        felt = product(key, d_s, TYPE, PRECISION)
        if SCALED:
            felt *= tl.load(write + (place * c + rows) * PARTS, token, 0.0)[:, None]
        felt = plus_product(felt, tl.trans(weights), asked, TYPE, PRECISION)
        if PARTS == 2:
            tl.store(ends + (place * PARTS + 1) * size + tile, d_p.to(TYPE), inside)
            weight = tl.load(write + (place * c + rows) * PARTS + 1, token, 0.0)
            felt += weight[:, None] * product(key, d_p, TYPE, PRECISION)
            m = mix + place * 4
            after = d_s
            d_s = tl.load(m) * after + tl.load(m + 2) * d_p
            d_p = tl.load(m + 1) * after + tl.load(m + 3) * d_p
            surprise = tl.load(read + (place * c + rows) * PARTS + 1, token, 0.0)
            d_p = plus_product(d_p, queries, surprise[:, None] * asked.to(tl.float32), TYPE, PRECISION)
        elif SCALED:
            d_s = tl.load(mix + place) * d_s
        else:
            d_s = tl.load(mix + place * DK + dims, dim, 0.0)[:, None] * d_s
        tl.store(token_rows(d_u, i, head, n, c, H, DV, rows, columns), felt.to(TYPE), narrow)
        if SCALED:
            asked = tl.load(read + (place * c + rows) * PARTS, token, 0.0)[:, None] * asked.to(tl.float32)
        d_s = plus_product(d_s, queries, asked, TYPE, PRECISION)
        if SOLVE:
            from_s = reads + (place * PARTS * c + rows)[:, None] * DK + dims[None, :]
            d_s = plus_product(d_s, tl.trans(tl.load(from_s, wide, 0.0)), felt, TYPE, PRECISION)
            if PARTS == 2:
                d_p = plus_product(d_p, tl.trans(tl.load(from_s + c * DK, wide, 0.0)), felt, TYPE, PRECISION)
    tl.store(d_state + head * PARTS * size + tile, d_s, inside)
    if PARTS == 2:
        tl.store(d_state + (head * PARTS + 1) * size + tile, d_p, inside)
