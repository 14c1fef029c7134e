"""The backward walk over the chunks of a memory of L matrices; letters and tensors as in triton_deeper_walk.

It holds g(W) and g(S), and takes what the queries do to a chunk (triton_deeper_chunks) as given. Written g(x) for the
gradient of x, with g(W), g(S) those at the chunk's end on the right sides, layers up, then layers down, then the state:

    g(D_l)     = share - write_0 X_{l-1} g(W_l) - write_1 X_{l-1} g(S_l) + B_{l-1} W_l      B_l = g(D_l) * f'(Z_l)
    g(E)       = g(D_L) = -g(V) = g(Z_L)
    g(X_{l-1}) = share - write_0 D_l g(W_l)^T - write_1 D_l g(S_l)^T + g(Z_l) W_l^T
    g(Z_l)     = g(X_l) * f'(Z_l) + g(D_l) * D_{l+1} W_{l+1}^T * f''(Z_l)
    g(W_l)    <- mix_00 g(W_l) + Q_{l-1}^T (read_0 g(Z'_l)) + X_{l-1}^T g(Z_l) + B_{l-1}^T D_l
    g(S_l)    <- mix_01 g(W_l) + mix_11 g(S_l) + Q_{l-1}^T (read_1 g(Z'_l))

where X_0 = K, Q_0 = Q, and B_0 is none.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_deeper_tiles import (
    after,
    before,
    found,
    leave,
    meet,
    mixing,
    pair,
    plus,
    products,
    rounded,
)


@triton.jit(do_not_specialize=["n", "g", "begin", "count"])
def walk_back(  # type: ignore[no-untyped-def]
    q, k, read, write, mix, d_y, starts, xs, slopes, bents, ds, errors, asks, d_asks, d_backs, d_values, d_errors,
    d_keys, d_state, halves, d_k, d_v, d_write, d_mix, counters, n, g, begin, count,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    MOMENTUM: tl.constexpr, RESIDUAL: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the last chunk of a stretch to the first, with the gradients of the state [g, p, N], which d_state holds
    before and after. Grid and counters as of `walk`.

    bents, d_backs and d_values, read and written, hold g(D) * bent, B and g(Z) in the end. halves: room for the state's
    gradients in TYPE [g, p, N]. d_write [P, n, g, BC, p] and d_mix [P, n, g, p, p] are for the caller to add.
    """
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    UNITS: tl.constexpr = BC * F
    ROWS: tl.constexpr = BC * BD
    ticket = tl.program_id(0)
    if P > 1:
        ticket = tl.atomic_add(counters, 1)
    head, part = (ticket // P).to(tl.int64), ticket % P
    counter, arrivals = counters + 1 + head, 0
    mine, half = d_state + head * (p * N), halves + head * (p * N)
    for tile in range(part, p * N // (T * T), P):
        places = tile * (T * T) + tl.arange(0, T * T)
        leave(half, places, found(mine, places), PRECISION)
    arrivals = meet(counter, arrivals, P)
    for back in range(count):
        step = count - 1 - back
        where, place = (begin + step) * g + head, step * g + head
        tokens, units = where * ROWS, place * ((L - 1) * UNITS)
        start, error, key, query = starts + place * (p * N), errors + place * ROWS, k + tokens, q + tokens
        x, slope, bent, d = xs + units, slopes + units, bents + units, ds + units
        ask, d_ask, rear, d_z = asks + units, d_asks + units, d_backs + units, d_values + units
        into = part.to(tl.int64) * n * g + where
        for layer in tl.static_range(L):
            here = layer * UNITS
            _up(
                before(key, x, layer, UNITS), after(error, d, layer, L, UNITS), before(rear, rear, layer, UNITS),
                start, half, write, where, after(d_errors + place * ROWS, rear, layer, L, UNITS), slope + here,
                bent + here, after(d_v + tokens, rear, layer, L, UNITS), d_write + into * (BC * p), part, layer,
                BC, BD, F, L, T, P, MOMENTUM, TYPE, PRECISION,
            )  # fmt: skip
            arrivals = meet(counter, arrivals, P)
        for down in tl.static_range(L):
            below = (L - 2 - down) * UNITS
            _down(
                after(error, d, L - 1 - down, L, UNITS), after(d_v + tokens, d_z, L - 1 - down, L, UNITS), start,
                half, write, where, before(d_keys + place * ROWS, d_z, L - 1 - down, UNITS), slope + below,
                bent + below, d_v + tokens, before(d_k + tokens, d_z, L - 1 - down, UNITS), part, L - 1 - down,
                BC, BD, F, L, T, P, MOMENTUM, RESIDUAL, TYPE, PRECISION,
            )  # fmt: skip
            arrivals = meet(counter, arrivals, P)
        kept, moved, carried = 0.0, 0.0, 0.0
        for layer in tl.static_range(L):
            kept, moved, carried = _unlearn(
                before(query, ask, layer, UNITS), before(key, x, layer, UNITS), before(rear, rear, layer, UNITS),
                after(d_y + tokens, d_ask, layer, L, UNITS), after(d_v + tokens, d_z, layer, L, UNITS),
                after(error, d, layer, L, UNITS), start, mine, half, read, mix, where, kept, moved, carried,
                part, layer, BC, BD, F, L, T, P, MOMENTUM, TYPE, PRECISION,
            )  # fmt: skip
        tl.store(d_mix + into * (p * p), kept)
        if MOMENTUM:
            tl.store(d_mix + into * 4 + 1, moved)
            tl.store(d_mix + into * 4 + 2, 0.0)
            tl.store(d_mix + into * 4 + 3, carried)
        arrivals = meet(counter, arrivals, P)


@triton.jit(noinline=True)
def _up(  # type: ignore[no-untyped-def]
    x, d, rear, start, half, write, where, share, slope, bent, target, d_write, part, LAYER: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    MOMENTUM: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g(D_l) and B_l, or after the last matrix g(V); adds to this program's part of g(write)."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    IN: tl.constexpr = BD if LAYER == 0 else F
    OUT: tl.constexpr = BD if LAYER == L - 1 else F
    AT: tl.constexpr = 0 if LAYER == 0 else BD * F + (LAYER - 1) * F * F
    rows = tl.arange(0, BC)
    written, felt = pair(write, where, rows, p)
    d_written = tl.zeros([BC], tl.float32)
    d_felt = d_written
    if LAYER > 0:
        d_written, d_felt = tl.load(d_write + rows * p), tl.load(d_write + rows * p + p - 1)
    for tile in range(part, OUT // T, P):
        columns = tile * T + tl.arange(0, T)
        places = rows[:, None] * OUT + columns[None, :]
        plain, moved = products(
            x, x, half + AT, half + (p - 1) * N + AT, rows, columns, IN, OUT, IN, False, MOMENTUM, False, T, PRECISION
        )  # fmt: skip
        d_ = found(d, places).to(tl.float32)
        g_d = found(share, places).to(tl.float32) - written[:, None] * plain
        d_written -= tl.sum(plain * d_, 1)
        if MOMENTUM:
            g_d -= felt[:, None] * moved
            d_felt -= tl.sum(moved * d_, 1)
        if LAYER > 0:
            more, _ = products(
                rear, rear, start + AT, start, rows, columns, IN, OUT, IN, False, False, False, T, PRECISION
            )  # fmt: skip
            g_d += more
        if LAYER < L - 1:
            leave(target, places, g_d * found(slope, places).to(tl.float32), PRECISION)
            leave(bent, places, g_d * found(bent, places).to(tl.float32), PRECISION)
        else:
            leave(target, places, -g_d, PRECISION)
    tl.store(d_write + rows * p, d_written)
    if MOMENTUM:
        tl.store(d_write + rows * p + 1, d_felt)


@triton.jit(noinline=True)
def _down(  # type: ignore[no-untyped-def]
    d, d_z, start, half, write, where, share, slope, bent, d_v, target, part, LAYER: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    MOMENTUM: tl.constexpr, RESIDUAL: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g(Z_{l-1}), or before the first matrix g(K); after the last one d_z is g(V), which is -g(Z_L)."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    IN: tl.constexpr = BD if LAYER == 0 else F
    OUT: tl.constexpr = BD if LAYER == L - 1 else F
    AT: tl.constexpr = 0 if LAYER == 0 else BD * F + (LAYER - 1) * F * F
    SIGN: tl.constexpr = -1.0 if LAYER == L - 1 else 1.0
    rows = tl.arange(0, BC)
    written, felt = pair(write, where, rows, p)
    for tile in range(part, IN // T, P):
        columns = tile * T + tl.arange(0, T)
        places = rows[:, None] * IN + columns[None, :]
        plain, moved = products(
            d, d, half + AT, half + (p - 1) * N + AT, rows, columns, OUT, OUT, OUT, True, MOMENTUM, False, T, PRECISION
        )  # fmt: skip
        g_x = found(share, places).to(tl.float32) - written[:, None] * plain
        if MOMENTUM:
            g_x -= felt[:, None] * moved
        more, _ = products(
            d_z, d_z, start + AT, start, rows, columns, OUT, OUT, OUT, True, False, False, T, PRECISION
        )  # fmt: skip
        g_x += SIGN * more
        if LAYER > 0:
            g_x = g_x * found(slope, places).to(tl.float32) + found(bent, places).to(tl.float32)
        elif RESIDUAL:
            g_x -= found(d_v, places).to(tl.float32)
        leave(target, places, g_x, PRECISION)


@triton.jit(noinline=True)
def _unlearn(  # type: ignore[no-untyped-def]
    query, x, rear, d_ask, d_z, d, start, d_state, half, read, mix, where, d_kept, d_moved, d_carried, part,
    LAYER: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    MOMENTUM: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """g(W_l) and g(S_l) at the chunk's start; adds to this program's parts of g(mix)."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    IN: tl.constexpr = BD if LAYER == 0 else F
    OUT: tl.constexpr = BD if LAYER == L - 1 else F
    AT: tl.constexpr = 0 if LAYER == 0 else BD * F + (LAYER - 1) * F * F
    rows = tl.arange(0, BC)
    seen, felt = pair(read, where, rows, p)
    kept, moved, carried = mixing(mix, where, p)
    for tile in range(part, (IN // T) * (OUT // T), P):
        ins, outs = tile // (OUT // T) * T + tl.arange(0, T), tile % (OUT // T) * T + tl.arange(0, T)
        places = AT + ins[:, None] * OUT + outs[None, :]
        lefts, rights = rows[:, None] * IN + ins[None, :], rows[:, None] * OUT + outs[None, :]
        g_w = found(d_state, places)
        d_kept += _sum(g_w * found(start, places).to(tl.float32))
        queries, g_ask = tl.trans(found(query, lefts)), found(d_ask, rights).to(tl.float32)
        if MOMENTUM:
            g_s, s = found(d_state, N + places), found(start, N + places).to(tl.float32)
            d_moved += _sum(g_w * s)
            d_carried += _sum(g_s * s)
            g_s = moved * g_w + carried * g_s
            g_s = plus(g_s, queries, rounded(felt[:, None] * g_ask, TYPE, PRECISION), PRECISION)
            tl.store(d_state + N + places, g_s)
            leave(half, N + places, g_s, PRECISION)
        g_w = plus(kept * g_w, queries, rounded(seen[:, None] * g_ask, TYPE, PRECISION), PRECISION)
        g_z = found(d_z, rights)
        if LAYER == L - 1:
            g_z = rounded(-g_z.to(tl.float32), TYPE, PRECISION)  # the interpreter cannot negate bfloat16
        g_w = plus(g_w, tl.trans(found(x, lefts)), g_z, PRECISION)
        if LAYER > 0:
            g_w = plus(g_w, tl.trans(found(rear, lefts)), found(d, rights), PRECISION)
        tl.store(d_state + places, g_w)
        leave(half, places, g_w, PRECISION)
    return d_kept, d_moved, d_carried


@triton.jit
def _sum(x):  # type: ignore[no-untyped-def]
    return tl.sum(tl.sum(x, 1), 0)
