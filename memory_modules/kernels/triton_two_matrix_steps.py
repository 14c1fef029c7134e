"""The steps of the backward kernel of a memory of two matrices; see triton_two_matrix_backward for the equations.

Each is one program's share of one chunk. They leave [8, BC, BF] for each other: X, D, Y1, g(Z1), g(X), g(D) and then B,
what g(Z) has from f'', and f'(Z); and for all programs of the head [4, BC, BW], BW = max(BC, BD): g(Q), g(K), g(inner)
and what g(E) has from the queries.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_activations import value_and_slope, value_slope_curvature
from titanlab.memory_modules.kernels.triton_meeting import fresh
from titanlab.memory_modules.kernels.triton_products import loaded, plus_product, product, stored, token_rows


@triton.jit(noinline=True)
def again(  # type: ignore[no-untyped-def]
    k, write, mix, errors, room, start, i, head, n, g,
    H: tl.constexpr, c: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
    MOMENTUM: tl.constexpr, ACTIVATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk forward again: its start is left in `start`, the state after it in `room`."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    ROWS: tl.constexpr = c == BC and D == BD
    SQUARE: tl.constexpr = c == BC
    rows, dims = tl.arange(0, BC).to(tl.int64), tl.arange(0, BD).to(tl.int64)
    token = rows < c
    wide = token[:, None] & (dims < D)[None, :]
    tile = tl.arange(0, BD)[:, None] * BF + tl.arange(0, BF)[None, :]
    place = i * g + head
    key = loaded(token_rows(k, i, head, n, c, H, D, rows, dims), wide, ROWS)
    error = loaded(errors + place * (c * D) + (rows[:, None] * D + dims[None, :]), wide, ROWS)
    written = loaded(write + place * (c * p) + rows * p, token, SQUARE)
    w1, w2 = tl.load(room + tile), tl.load(room + BD * BF + tile)
    tl.store(start + tile, w1.to(TYPE))
    tl.store(start + BD * BF + tile, w2.to(TYPE))
    x, slope = value_and_slope(product(key, w1, TYPE, PRECISION), ACTIVATION)
    x = x.to(TYPE)
    d = product(error, w2, TYPE, PRECISION) * slope
    keys, mistakes = tl.trans(key), tl.trans(error)
    if MOMENTUM:
        s1, s2 = tl.load(room + 2 * BD * BF + tile), tl.load(room + 3 * BD * BF + tile)
        tl.store(start + 2 * BD * BF + tile, s1.to(TYPE))
        tl.store(start + 3 * BD * BF + tile, s2.to(TYPE))
        felt = loaded(write + place * (c * p) + (rows * p + 1), token, SQUARE)
        m = mix + place * 4
        kept, moved, carried = tl.load(m), tl.load(m + 1), tl.load(m + 3)
        w1 = kept * w1 + moved * s1
        w2 = kept * w2 + moved * s2
        s1 = plus_product(carried * s1, keys, -felt[:, None] * d, TYPE, PRECISION)
        s2 = plus_product(carried * s2, mistakes, -felt[:, None] * x, TYPE, PRECISION)
        tl.store(room + 2 * BD * BF + tile, s1)
        tl.store(room + 3 * BD * BF + tile, s2)
    else:
        kept = tl.load(mix + place)
        w1, w2 = kept * w1, kept * w2
    tl.store(room + tile, plus_product(w1, keys, -written[:, None] * d, TYPE, PRECISION))
    tl.store(room + BD * BF + tile, plus_product(w2, mistakes, -written[:, None] * x, TYPE, PRECISION))
    tl.debug_barrier()


@triton.jit(noinline=True)
def through_queries(  # type: ignore[no-untyped-def]
    q, k, read, inner, errors, d_y, d_read, start, left, rests, i, head, n, g, part,
    H: tl.constexpr, c: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
    MOMENTUM: tl.constexpr, ACTIVATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From g(y) through the queries of a chunk: leaves g(Z1), X, D, the parts of g(X), g(D), g(E) that come from here,
    and its parts of g(Q) and g(inner)."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    ROWS: tl.constexpr = c == BC and D == BD
    SQUARE: tl.constexpr = c == BC
    BW: tl.constexpr = BC if BC > BD else BD
    rows, dims = tl.arange(0, BC).to(tl.int64), tl.arange(0, BD).to(tl.int64)
    token = rows < c
    wide, square = token[:, None] & (dims < D)[None, :], token[:, None] & token[None, :]
    tile = start + (tl.arange(0, BD)[:, None] * BF + tl.arange(0, BF)[None, :])
    slim = left + (rows[:, None] * BF + tl.arange(0, BF)[None, :])
    place = i * g + head
    corner = inner + place * (c * c) + (rows[:, None] * c + rows[None, :])
    full, corners = rests + (rows[:, None] * BD + dims[None, :]), rests + (rows[:, None] * BC + rows[None, :])
    key = loaded(token_rows(k, i, head, n, c, H, D, rows, dims), wide, ROWS)
    query = loaded(token_rows(q, i, head, n, c, H, D, rows, dims), wide, ROWS)
    error = loaded(errors + place * (c * D) + (rows[:, None] * D + dims[None, :]), wide, ROWS)
    seen = loaded(read + place * (c * p) + rows * p, token, SQUARE)
    w1, w2 = tl.load(tile), tl.load(tile + BD * BF)
    x, slope = value_and_slope(product(key, w1, TYPE, PRECISION), ACTIVATION)
    x = x.to(TYPE)
    d = (product(error, w2, TYPE, PRECISION) * slope).to(TYPE)
    tl.store(slim, x)
    tl.store(slim + BC * BF, d)
    scores = loaded(corner, square, SQUARE).to(tl.float32) * product(query, tl.trans(key), TYPE, PRECISION)
    scores = scores.to(TYPE)
    z = seen[:, None] * product(query, w1, TYPE, PRECISION)
    if MOMENTUM:
        surprise = loaded(read + place * (c * p) + (rows * p + 1), token, SQUARE)
        z += surprise[:, None] * product(query, tl.load(tile + 2 * BD * BF), TYPE, PRECISION)
    z -= product(scores, d, TYPE, PRECISION)
    wanted, tilt = value_and_slope(z, ACTIVATION)  # Y1
    tl.store(slim + 2 * BC * BF, wanted.to(TYPE))
    asked = loaded(token_rows(d_y, i, head, n, c, H, D, rows, dims), wide, ROWS).to(TYPE)
    share = product(asked, w2, TYPE, PRECISION)
    gates = (part * n * g + place) * (c * p) + rows * p
    g_seen = tl.sum(share * wanted, 1)
    g_z = seen[:, None] * share
    if MOMENTUM:
        share = product(asked, tl.load(tile + 3 * BD * BF), TYPE, PRECISION)
        g_surprise = tl.sum(share * wanted, 1)
        g_z += surprise[:, None] * share
    deep = product(wanted, tl.trans(x), TYPE, PRECISION)
    missed = product(asked, tl.trans(error), TYPE, PRECISION)
    g_inner = -missed * deep
    C = loaded(corner, square, SQUARE).to(tl.float32)
    missed = (C * missed).to(TYPE)
    g_z = ((g_z - product(missed, x, TYPE, PRECISION)) * tilt).to(TYPE)
    tl.store(slim + 3 * BC * BF, g_z)
    tl.store(slim + 4 * BC * BF, (-product(tl.trans(missed), wanted, TYPE, PRECISION)).to(TYPE))
    tl.store(slim + 5 * BC * BF, (-product(tl.trans(scores), g_z, TYPE, PRECISION)).to(TYPE))
    deep = (C * deep).to(TYPE)
    tl.store(full + 3 * BC * BW, -product(tl.trans(deep), asked, TYPE, PRECISION))
    # g(Q)
    through = product(g_z, tl.trans(d), TYPE, PRECISION)
    g_inner -= through * product(query, tl.trans(key), TYPE, PRECISION)
    tl.store(corners + 2 * BC * BW, g_inner)
    through = (loaded(corner, square, SQUARE).to(tl.float32) * through).to(TYPE)
    share = product(g_z, tl.trans(w1), TYPE, PRECISION)
    g_seen += tl.sum(share * query.to(tl.float32), 1)
    g_q = seen[:, None] * share - product(through, key, TYPE, PRECISION)
    if MOMENTUM:
        share = product(g_z, tl.trans(tl.load(tile + 2 * BD * BF)), TYPE, PRECISION)
        g_surprise += tl.sum(share * query.to(tl.float32), 1)
        g_q += surprise[:, None] * share
        stored(d_read + gates + 1, g_surprise, token, SQUARE)
    stored(d_read + gates, g_seen, token, SQUARE)
    tl.store(full, g_q)
    tl.store(full + BC * BW, -product(tl.trans(through), query, TYPE, PRECISION))
    tl.debug_barrier()


@triton.jit(noinline=True)
def through_errors(  # type: ignore[no-untyped-def]
    k, write, errors, start, room, left, rests, mine, i, head, n, g,
    H: tl.constexpr, c: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
    MOMENTUM: tl.constexpr, ACTIVATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradients of D and of E's part of a chunk: g(E) goes to `mine`, B and g(D) E W2^T f''(Z) are left."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    ROWS: tl.constexpr = c == BC and D == BD
    SQUARE: tl.constexpr = c == BC
    BW: tl.constexpr = BC if BC > BD else BD
    rows, dims = tl.arange(0, BC).to(tl.int64), tl.arange(0, BD).to(tl.int64)
    token = rows < c
    wide = token[:, None] & (dims < D)[None, :]
    tile = tl.arange(0, BD)[:, None] * BF + tl.arange(0, BF)[None, :]
    slim = left + (rows[:, None] * BF + tl.arange(0, BF)[None, :])
    full = rows[:, None] * BD + dims[None, :]
    place = i * g + head
    key = loaded(token_rows(k, i, head, n, c, H, D, rows, dims), wide, ROWS)
    written = loaded(write + place * (c * p) + rows * p, token, SQUARE)
    g_d = tl.load(slim + 5 * BC * BF).to(tl.float32)
    g_d -= written[:, None] * product(key, tl.load(room + tile), TYPE, PRECISION)
    if MOMENTUM:
        felt = loaded(write + place * (c * p) + (rows * p + 1), token, SQUARE)
        g_d -= felt[:, None] * product(key, tl.load(room + 2 * BD * BF + tile), TYPE, PRECISION)
    error = loaded(errors + place * (c * D) + (rows[:, None] * D + dims[None, :]), wide, ROWS)
    w2 = tl.load(start + BD * BF + tile)
    x, slope, curvature = value_slope_curvature(product(key, tl.load(start + tile), TYPE, PRECISION), ACTIVATION)
    rear = (g_d * slope).to(TYPE)  # B
    tl.store(slim + 5 * BC * BF, rear)
    tl.store(slim + 6 * BC * BF, (g_d * curvature * product(error, w2, TYPE, PRECISION)).to(TYPE))
    tl.store(slim + 7 * BC * BF, slope.to(TYPE))
    x = x.to(TYPE)
    g_e = tl.load(rests + 3 * BC * BW + full)
    g_e -= written[:, None] * product(x, tl.trans(tl.load(room + BD * BF + tile).to(TYPE)), TYPE, PRECISION)
    if MOMENTUM:
        g_e -= felt[:, None] * product(x, tl.trans(tl.load(room + 3 * BD * BF + tile).to(TYPE)), TYPE, PRECISION)
    tl.store(mine + full, plus_product(g_e, rear, tl.trans(w2), TYPE, PRECISION))
    tl.debug_barrier()


@triton.jit(noinline=True)
def through_state(  # type: ignore[no-untyped-def]
    q, k, read, write, mix, errors, d_y, d_write, d_mix, start, room, left, rests, i, head, n, g, part,
    H: tl.constexpr, c: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
    MOMENTUM: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What needs no g(E): the gradients of the gates that write, the parts of g(X) and g(K), and of the state's
    gradients, that they and the queries give."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    ROWS: tl.constexpr = c == BC and D == BD
    SQUARE: tl.constexpr = c == BC
    BW: tl.constexpr = BC if BC > BD else BD
    rows, dims = tl.arange(0, BC).to(tl.int64), tl.arange(0, BD).to(tl.int64)
    token = rows < c
    wide = token[:, None] & (dims < D)[None, :]
    tile = tl.arange(0, BD)[:, None] * BF + tl.arange(0, BF)[None, :]
    slim = left + (rows[:, None] * BF + tl.arange(0, BF)[None, :])
    full = rests + BC * BW + (rows[:, None] * BD + dims[None, :])
    place = i * g + head
    error = loaded(errors + place * (c * D) + (rows[:, None] * D + dims[None, :]), wide, ROWS)
    written = loaded(write + place * (c * p) + rows * p, token, SQUARE)
    key = loaded(token_rows(k, i, head, n, c, H, D, rows, dims), wide, ROWS)
    g_w1, g_w2 = tl.load(room + tile), tl.load(room + BD * BF + tile)
    m, d_m = mix + place * p * p, d_mix + (part * n * g + place) * p * p
    gates = (part * n * g + place) * (c * p) + rows * p
    w1, w2 = tl.load(start + tile).to(tl.float32), tl.load(start + BD * BF + tile).to(tl.float32)
    tl.store(d_m, tl.sum(g_w1 * w1) + tl.sum(g_w2 * w2))
    x, d = tl.load(slim), tl.load(slim + BC * BF)
    share = product(d, tl.trans(g_w1.to(TYPE)), TYPE, PRECISION)
    g_written = -tl.sum(share * key.to(tl.float32), 1)
    g_k = tl.load(full) - written[:, None] * share
    share = product(error, g_w2, TYPE, PRECISION)
    g_written -= tl.sum(share * x.to(tl.float32), 1)
    g_x = tl.load(slim + 4 * BC * BF).to(tl.float32) - written[:, None] * share
    stored(d_write + gates, g_written, token, SQUARE)
    if MOMENTUM:
        felt = loaded(write + place * (c * p) + (rows * p + 1), token, SQUARE)
        g_s1, g_s2 = tl.load(room + 2 * BD * BF + tile), tl.load(room + 3 * BD * BF + tile)
        share = product(d, tl.trans(g_s1.to(TYPE)), TYPE, PRECISION)
        g_felt = -tl.sum(share * key.to(tl.float32), 1)
        g_k -= felt[:, None] * share
        share = product(error, g_s2, TYPE, PRECISION)
        g_felt -= tl.sum(share * x.to(tl.float32), 1)
        g_x -= felt[:, None] * share
        stored(d_write + gates + 1, g_felt, token, SQUARE)
    tl.store(full, g_k)
    tl.store(slim + 4 * BC * BF, g_x.to(TYPE))
    query = loaded(token_rows(q, i, head, n, c, H, D, rows, dims), wide, ROWS)
    asked = loaded(token_rows(d_y, i, head, n, c, H, D, rows, dims), wide, ROWS).to(TYPE)
    seen = loaded(read + place * (c * p) + rows * p, token, SQUARE)
    wanted, g_z = tl.load(slim + 2 * BC * BF), tl.load(slim + 3 * BC * BF)
    queries, asks = tl.trans(query), tl.trans(asked)
    kept = tl.load(m)
    if MOMENTUM:
        surprise = loaded(read + place * (c * p) + (rows * p + 1), token, SQUARE)
        moved, carried = tl.load(m + 1), tl.load(m + 3)
        s1 = tl.load(start + 2 * BD * BF + tile).to(tl.float32)
        s2 = tl.load(start + 3 * BD * BF + tile).to(tl.float32)
        tl.store(d_m + 1, tl.sum(g_w1 * s1) + tl.sum(g_w2 * s2))
        tl.store(d_m + 2, 0.0)
        tl.store(d_m + 3, tl.sum(g_s1 * s1) + tl.sum(g_s2 * s2))
        g_s1 = plus_product(moved * g_w1 + carried * g_s1, queries, surprise[:, None] * g_z, TYPE, PRECISION)
        tl.store(room + 2 * BD * BF + tile, g_s1)
        g_s2 = plus_product(moved * g_w2 + carried * g_s2, asks, surprise[:, None] * wanted, TYPE, PRECISION)
        tl.store(room + 3 * BD * BF + tile, g_s2)
    tl.store(room + tile, plus_product(kept * g_w1, queries, seen[:, None] * g_z, TYPE, PRECISION))
    g_w2 = plus_product(kept * g_w2, asks, seen[:, None] * wanted, TYPE, PRECISION)
    rear = tl.load(slim + 5 * BC * BF)
    tl.store(room + BD * BF + tile, plus_product(g_w2, tl.trans(error), rear, TYPE, PRECISION))
    tl.debug_barrier()


@triton.jit(noinline=True)
def through_keys(  # type: ignore[no-untyped-def]
    k, d_v, start, room, left, rests, i, head, n,
    H: tl.constexpr, c: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From g(E) = -g(V) through the keys of a chunk: completes its part of g(K) and the state's gradients."""
    ROWS: tl.constexpr = c == BC and D == BD
    BW: tl.constexpr = BC if BC > BD else BD
    rows, dims = tl.arange(0, BC).to(tl.int64), tl.arange(0, BD).to(tl.int64)
    wide = (rows < c)[:, None] & (dims < D)[None, :]
    tile = tl.arange(0, BD)[:, None] * BF + tl.arange(0, BF)[None, :]
    slim = left + (rows[:, None] * BF + tl.arange(0, BF)[None, :])
    full = rests + BC * BW + (rows[:, None] * BD + dims[None, :])
    g_v = fresh(token_rows(d_v, i, head, n, c, H, D, rows, dims), wide, ROWS)
    g_e = (-g_v.to(tl.float32)).to(TYPE)
    g_x = tl.load(slim + 4 * BC * BF).to(tl.float32)
    g_x = plus_product(g_x, g_e, tl.load(start + BD * BF + tile), TYPE, PRECISION)
    bent = tl.load(slim + 6 * BC * BF).to(tl.float32)
    g_z = (g_x * tl.load(slim + 7 * BC * BF).to(tl.float32) + bent).to(TYPE)
    tl.store(full, plus_product(tl.load(full), g_z, tl.trans(tl.load(start + tile)), TYPE, PRECISION))
    key = loaded(token_rows(k, i, head, n, c, H, D, rows, dims), wide, ROWS)
    tl.store(room + tile, plus_product(tl.load(room + tile), tl.trans(key), g_z, TYPE, PRECISION))
    g_w2 = tl.load(room + BD * BF + tile)
    tl.store(room + BD * BF + tile, plus_product(g_w2, tl.trans(g_e), tl.load(slim), TYPE, PRECISION))
    tl.debug_barrier()
