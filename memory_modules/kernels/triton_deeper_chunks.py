"""The kernels of a memory of L matrices that take every chunk of a stretch by itself, one a program: the queries.

They find the memory at each chunk's start, X and D where triton_deeper_walk left them; its letters and tensors, and
read [n, g, BC, p]; inner [n, g, BC, BC]; q, y, d_y, d_q [n, g, BC, BD]. With Q_0 = Q the queries are

    Z'_l = read_0 Q_{l-1} W_l + read_1 Q_{l-1} S_l - (inner * Q_{l-1} X_{l-1}^T) D_l      Q_l = f(Z'_l)
    y    = Z'_L (+ Q)

and back from g(Z'_L) = g(y), written g(x) for the gradient of x,

    g(scores)  = -g(Z'_l) D_l^T              g(inner) += g(scores) * Q_{l-1} X_{l-1}^T      G = inner * g(scores)
    g(Q_{l-1}) = read_0 g(Z'_l) W_l^T + read_1 g(Z'_l) S_l^T + G X_{l-1}                    g(Z'_l) = g(Q_l) * f'(Z'_l)
    g(D_l)     = -(inner * Q_{l-1} X_{l-1}^T)^T g(Z'_l) + ..      g(X_{l-1}) = G^T Q_{l-1} + ..

With four matrices in bfloat16 what rounding took from Q_l and g(Z'_l) meets W and S, too: the errors of eight roundings
after one another would be 5e-3.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_activations import value_and_slope
from titanlab.memory_modules.kernels.triton_deeper_tiles import (
    after,
    before,
    found,
    leave,
    leave_both,
    pair,
    plus,
    products,
    rounded,
)


@triton.jit(do_not_specialize=["g", "begin"])
def answer(  # type: ignore[no-untyped-def]
    q, k, read, inner, starts, xs, ds, errors, asks, rests, y, g, begin,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr,
    MOMENTUM: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """y of the chunks of a stretch; asks (Q_1 .. Q_{L-1}) and their rests as xs. Grid (count g,)."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    UNITS: tl.constexpr = BC * F
    place = tl.program_id(0).to(tl.int64)
    where = (begin + place // g) * g + place % g
    rows_of_chunk = where * (BC * BD)
    query, key, units = q + rows_of_chunk, k + rows_of_chunk, place * ((L - 1) * UNITS)
    ask, rest, error = asks + units, rests + units, errors + place * (BC * BD)
    for layer in tl.static_range(L):
        target = after(y + rows_of_chunk, ask, layer, L, UNITS)
        _ask(
            before(query, ask, layer, UNITS), before(rest, rest, layer, UNITS), before(key, xs + units, layer, UNITS),
            after(error, ds + units, layer, L, UNITS), starts + place * (p * N), read, inner, where, query, target,
            rest + layer * UNITS, target, layer,
            BC, BD, F, L, T, MOMENTUM, RESIDUAL, ACTIVATION, TYPE, PRECISION, False,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit(do_not_specialize=["g", "begin"])
def back_through_queries(  # type: ignore[no-untyped-def]
    q, k, read, inner, starts, xs, ds, errors, d_y, tilts, rests, asks, d_asks, d_backs, d_values,
    d_errors, d_keys, d_scores, d_q, d_read, d_inner, g, begin,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr,
    MOMENTUM: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, TYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """From g(y) to g(Q), g(read) and g(inner), and what this leaves for `walk_back`. Grid (count g,).

    As slopes: room for f'(Z'_l), tilts. As xs: room for rests, and asks (Q_l), d_asks (g(Z'_l)), and the shares of
    g(D_l) and g(X_l), d_backs and d_values. The shares of g(E) and g(K), d_errors and d_keys, are [count, g, BC, BD]
    float32; d_scores is room for g(inner) [count, g, BC, BC] float32.
    """
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    UNITS: tl.constexpr = BC * F
    place = tl.program_id(0).to(tl.int64)
    where = (begin + place // g) * g + place % g
    tokens, rows_of_place, units = where * (BC * BD), place * (BC * BD), place * ((L - 1) * UNITS)
    query, key, start = q + tokens, k + tokens, starts + place * (p * N)
    x, d, ask, rest, tilt = xs + units, ds + units, asks + units, rests + units, tilts + units
    d_ask, d_back, d_value = d_asks + units, d_backs + units, d_values + units
    for layer in tl.static_range(L - 1):
        here = layer * UNITS
        _ask(
            before(query, ask, layer, UNITS), before(rest, rest, layer, UNITS), before(key, x, layer, UNITS), d + here,
            start, read, inner, where, query, ask + here, rest + here, tilt + here, layer,
            BC, BD, F, L, T, MOMENTUM, RESIDUAL, ACTIVATION, TYPE, PRECISION, True,
        )  # fmt: skip
        tl.debug_barrier()
    for back in tl.static_range(L):
        _unask(
            before(query, ask, L - 1 - back, UNITS), before(key, x, L - 1 - back, UNITS),
            after(errors + rows_of_place, d, L - 1 - back, L, UNITS),
            after(d_y + tokens, d_ask, L - 1 - back, L, UNITS), after(rest, rest, L - 1 - back, L, UNITS),
            start, read, inner, where, d_y + tokens,
            after(d_errors + rows_of_place, d_back, L - 1 - back, L, UNITS),
            before(d_keys + rows_of_place, d_value, L - 1 - back, UNITS), before(tilt, tilt, L - 1 - back, UNITS),
            before(d_q + tokens, d_ask, L - 1 - back, UNITS), before(rest, rest, L - 1 - back, UNITS),
            d_read + where * (BC * p), d_scores + place * (BC * BC), d_inner, L - 1 - back,
            BC, BD, F, L, T, MOMENTUM, RESIDUAL, TYPE, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    query, x, inner, where, BC: tl.constexpr, IN: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """inner and Q_{l-1} X_{l-1}^T."""
    rows = tl.arange(0, BC)
    overlap, _ = products(query, query, x, x, rows, rows, IN, IN, IN, True, False, False, T, PRECISION)
    C = tl.load(inner + where * (BC * BC) + (rows[:, None] * BC + rows[None, :])).to(tl.float32)
    return C, overlap


@triton.jit(noinline=True)
def _ask(  # type: ignore[no-untyped-def]
    query, query_rest, x, d, start, read, inner, where, first, target, target_rest, slope, LAYER: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr, MOMENTUM: tl.constexpr,
    RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """From Q_{l-1} to Q_l, with SLOPE to f'(Z'_l), too; after the last matrix to y."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    IN: tl.constexpr = BD if LAYER == 0 else F
    OUT: tl.constexpr = BD if LAYER == L - 1 else F
    AT: tl.constexpr = 0 if LAYER == 0 else BD * F + (LAYER - 1) * F * F
    rows = tl.arange(0, BC)
    seen, felt = pair(read, where, rows, p)
    C, overlap = _scores(query, x, inner, where, BC, IN, T, PRECISION)
    scores = rounded(-C * overlap, TYPE, PRECISION)
    for tile in range(OUT // T):
        columns = tile * T + tl.arange(0, T)
        plain, moved = products(
            query, query_rest, start + AT, start + (p - 1) * N + AT, rows, columns, IN, OUT, IN, False, MOMENTUM,
            L > 3 and LAYER > 0 and TYPE == tl.bfloat16, T, PRECISION,
        )  # fmt: skip
        z = seen[:, None] * plain
        if MOMENTUM:
            z += felt[:, None] * moved
        places = rows[:, None] * OUT + columns[None, :]
        z = plus(z, scores, found(d, places), PRECISION)
        if LAYER < L - 1:
            f, tilt = value_and_slope(z, ACTIVATION)
            if L > 3:
                leave_both(target, target_rest, places, f, PRECISION)
            else:
                leave(target, places, f, PRECISION)
            if SLOPE:
                leave(slope, places, tilt, PRECISION)
        else:
            if RESIDUAL:
                z += tl.load(first + places).to(tl.float32)
            leave(target, places, z, PRECISION)


@triton.jit(noinline=True)
def _unask(  # type: ignore[no-untyped-def]
    query, x, d, d_z, d_z_rest, start, read, inner, where, d_y, d_back, d_value, tilt, target, target_rest, d_read,
    d_scores, d_inner, LAYER: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr,
    MOMENTUM: tl.constexpr, RESIDUAL: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From g(Z'_l) to g(Z'_{l-1}), or before the first matrix to g(Q); adds to g(read), and to g(inner) in d_scores."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    IN: tl.constexpr = BD if LAYER == 0 else F
    OUT: tl.constexpr = BD if LAYER == L - 1 else F
    AT: tl.constexpr = 0 if LAYER == 0 else BD * F + (LAYER - 1) * F * F
    rows = tl.arange(0, BC)
    seen, felt = pair(read, where, rows, p)
    C, overlap = _scores(query, x, inner, where, BC, IN, T, PRECISION)
    missed, _ = products(d_z, d_z, d, d, rows, rows, OUT, OUT, OUT, True, False, False, T, PRECISION)
    square = rows[:, None] * BC + rows[None, :]
    d_seen = tl.zeros([BC], tl.float32)
    d_felt, g_inner = d_seen, -missed * overlap
    if LAYER < L - 1:
        d_seen, d_felt = tl.load(d_read + rows * p), tl.load(d_read + rows * p + p - 1)
        g_inner += tl.load(d_scores + square)
    if LAYER > 0:
        tl.store(d_scores + square, g_inner)
    else:
        leave(d_inner + where * (BC * BC), square, g_inner, PRECISION)
    scores = tl.trans(rounded(-C * overlap, TYPE, PRECISION))
    d_overlap = rounded(-C * missed, TYPE, PRECISION)
    for tile in range(OUT // T):
        places = rows[:, None] * OUT + (tile * T + tl.arange(0, T))[None, :]
        nothing = tl.zeros([BC, T], tl.float32)
        leave(d_back, places, plus(nothing, scores, found(d_z, places), PRECISION), PRECISION)
    for tile in range(IN // T):
        columns = tile * T + tl.arange(0, T)
        places = rows[:, None] * IN + columns[None, :]
        query_ = found(query, places)
        nothing = tl.zeros([BC, T], tl.float32)
        leave(d_value, places, plus(nothing, tl.trans(d_overlap), query_, PRECISION), PRECISION)
        plain, moved = products(
            d_z, d_z_rest, start + AT, start + (p - 1) * N + AT, rows, columns, OUT, OUT, OUT, True, MOMENTUM,
            L > 3 and LAYER < L - 1 and TYPE == tl.bfloat16, T, PRECISION,
        )  # fmt: skip
        d_seen += tl.sum(plain * query_.to(tl.float32), 1)
        g_q = seen[:, None] * plain
        if MOMENTUM:
            d_felt += tl.sum(moved * query_.to(tl.float32), 1)
            g_q += felt[:, None] * moved
        g_q = plus(g_q, d_overlap, found(x, places), PRECISION)
        if LAYER > 0:
            g_q *= found(tilt, places).to(tl.float32)
        elif RESIDUAL:
            g_q += tl.load(d_y + places).to(tl.float32)
        if L > 3 and LAYER > 0:
            leave_both(target, target_rest, places, g_q, PRECISION)
        else:
            leave(target, places, g_q, PRECISION)
    tl.store(d_read + rows * p, d_seen)
    if MOMENTUM:
        tl.store(d_read + rows * p + 1, d_felt)
