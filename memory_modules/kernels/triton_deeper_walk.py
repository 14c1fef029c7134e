"""The forward walk over the chunks of a memory of L matrices: what no chunk can do before its neighbour has.

It needs the keys alone; the kernels of triton_deeper_chunks compute the rest for all chunks of a stretch at once. The
equations are dual_form's, with X_0 = K, E = D_L, ' for the end of a chunk and p parts, W and S, of the state:

    Z_l = X_{l-1} W_l      X_l = f(Z_l)      E = Z_L - V (+ K)      D_l = (D_{l+1} W_{l+1}^T) * f'(Z_l)
    W_l' = mix_00 W_l + mix_01 S_l - X_{l-1}^T (write_0 D_l)        S_l' = mix_11 S_l - X_{l-1}^T (write_1 D_l)

The state, float32, lies in memory and in the second-level cache, as it is many times what fits on chip. P programs of a
head share out the tiles of each product and meet before the next: 2 L times a chunk; with P = 1 a meeting is a barrier.
In bfloat16 what rounding took from W, X and D is multiplied, too, three products for one: the errors would multiply,
with each other in deep memories and over chunks of strong forgetting.

Letters: n chunks of BC tokens, g = batch x heads, D (BD), F, N, L and T as in triton_deeper_tiles, p = 2 with MOMENTUM
else 1; a stretch of chunks begins at `begin` and has `count`. Tensors: k, v [n, g, BC, BD]; write [n, g, BC, p]; mix
[n, g, p, p]; state [g, p, N] float32; of a stretch: starts, the memory as chunks find it, [count, g, p, N]; errors (E)
[count, g, BC, BD]; what is by unit, for the layers 1 .. L-1: xs (X), slopes (f'(Z)), ds (D) [count, g, L-1, BC, F];
and what rounding took from W, X, D and E of the chunk under way, w_rests [g, N], x_rests, d_rests [g, L-1, BC, F]
and e_rests [g, BC, BD]. Slopes, which are no factors of products, are float16 where the
others are bfloat16: they are some 1 at most, and 8 times as exact.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_activations import value_slope_curvature
from titanlab.memory_modules.kernels.triton_deeper_tiles import (
    after,
    before,
    exact_product,
    found,
    leave,
    leave_both,
    meet,
    mixing,
    pair,
    plus,
    rounded,
)


@triton.jit(do_not_specialize=["g", "begin", "count"])
def walk(  # type: ignore[no-untyped-def]
    k, v, write, mix, state, starts, xs, slopes, bents, ds, errors, w_rests, x_rests, d_rests, e_rests, counters,
    g, begin, count,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    MOMENTUM: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, TYPE: tl.constexpr,
    PRECISION: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    """From the first chunk of a stretch to the last. Grid (g P,), counters [1 + g] of zeros.

    AGAIN, for the gradient: leaves bents, which are D_{l+1} W_{l+1}^T * f''(Z_l), as ds, and not the last chunk's end.
    """
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    UNITS: tl.constexpr = BC * F
    ticket = tl.program_id(0)
    if P > 1:
        ticket = tl.atomic_add(counters, 1)
    head, part = (ticket // P).to(tl.int64), ticket % P
    counter, arrivals = counters + 1 + head, 0
    mine, w_rest, e_rest = state + head * (p * N), w_rests + head * N, e_rests + head * (BC * BD)
    x_rest, d_rest = x_rests + head * ((L - 1) * UNITS), d_rests + head * ((L - 1) * UNITS)
    _begin(mine, starts + head * (p * N), w_rest, part, p, N, T, P, TYPE, PRECISION)
    arrivals = meet(counter, arrivals, P)
    for step in range(count):
        where, place = (begin + step) * g + head, step * g + head
        start, units = starts + place * (p * N), place * ((L - 1) * UNITS)
        key, value, error = k + where * (BC * BD), v + where * (BC * BD), errors + place * (BC * BD)
        x, slope, bent, d = xs + units, slopes + units, bents + units, ds + units
        for layer in tl.static_range(L):
            here = layer * UNITS
            _forth(
                before(key, x, layer, UNITS), before(x_rest, x_rest, layer, UNITS), start, w_rest,
                key, value, x + here, x_rest + here, slope + here, bent + here, error, e_rest, part, layer,
                BC, BD, F, L, T, P, RESIDUAL, ACTIVATION, TYPE, PRECISION, AGAIN,
            )  # fmt: skip
            arrivals = meet(counter, arrivals, P)
        for back in tl.static_range(L - 1):
            here = (L - 2 - back) * UNITS
            _back(
                after(error, d, L - 1 - back, L, UNITS), after(e_rest, d_rest, L - 1 - back, L, UNITS), start,
                w_rest, slope + here, bent + here, d + here, d_rest + here, part, L - 1 - back,
                BC, BD, F, L, T, P, TYPE, PRECISION, AGAIN,
            )  # fmt: skip
            arrivals = meet(counter, arrivals, P)
        more = step + 1 < count
        for layer in tl.static_range(L):
            _learn(
                before(key, x, layer, UNITS), before(x_rest, x_rest, layer, UNITS),
                after(error, d, layer, L, UNITS), after(e_rest, d_rest, layer, L, UNITS),
                write, mix, where, mine, starts + (place + g) * (p * N), w_rest, part, more, layer,
                BC, BD, F, L, T, P, MOMENTUM, TYPE, PRECISION, AGAIN,
            )  # fmt: skip
        arrivals = meet(counter, arrivals, P)


@triton.jit(noinline=True)
def _begin(  # type: ignore[no-untyped-def]
    state, start, rest, part,
    p: tl.constexpr, N: tl.constexpr, T: tl.constexpr, P: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The memory before the first chunk in the type of the products."""
    for tile in range(part, N // (T * T), P):
        places = tile * (T * T) + tl.arange(0, T * T)
        leave_both(start, rest, places, found(state, places), PRECISION)
        if p == 2:
            leave(start, N + places, found(state, N + places), PRECISION)


@triton.jit(noinline=True)
def _forth(  # type: ignore[no-untyped-def]
    x, x_rest, start, w_rest, key, value, target, target_rest, slope, bent, error, e_rest, part, LAYER: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    """From X_{l-1} to X_l and f'(Z_l), and after the last matrix to E; bent holds f''(Z_l) until `_back`."""
    IN: tl.constexpr = BD if LAYER == 0 else F
    OUT: tl.constexpr = BD if LAYER == L - 1 else F
    AT: tl.constexpr = 0 if LAYER == 0 else BD * F + (LAYER - 1) * F * F
    RESTS: tl.constexpr = 0 if TYPE == tl.float32 else (1 if LAYER == 0 else 2)
    rows = tl.arange(0, BC)
    for tile in range(part, OUT // T, P):
        columns = tile * T + tl.arange(0, T)
        z = exact_product(
            x, x_rest, start + AT, w_rest + AT, rows, columns, IN, OUT, IN, False, RESTS, T, PRECISION
        )  # fmt: skip
        places = rows[:, None] * OUT + columns[None, :]
        if LAYER < L - 1:
            f, first, second = value_slope_curvature(z, ACTIVATION)
            leave_both(target, target_rest, places, f, PRECISION)
            leave(slope, places, first, PRECISION)
            if AGAIN:
                leave(bent, places, second, PRECISION)
        else:
            z -= tl.load(value + places).to(tl.float32)
            if RESIDUAL:
                z += tl.load(key + places).to(tl.float32)
            leave_both(error, e_rest, places, z, PRECISION)


@triton.jit(noinline=True)
def _back(  # type: ignore[no-untyped-def]
    d, d_rest, start, w_rest, slope, bent, target, target_rest, part, LAYER: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    """D before a matrix from D after it."""
    OUT: tl.constexpr = BD if LAYER == L - 1 else F
    AT: tl.constexpr = 0 if LAYER == 0 else BD * F + (LAYER - 1) * F * F
    RESTS: tl.constexpr = 0 if TYPE == tl.float32 else 2
    rows = tl.arange(0, BC)
    for tile in range(part, F // T, P):
        columns = tile * T + tl.arange(0, T)
        back = exact_product(
            d, d_rest, start + AT, w_rest + AT, rows, columns, OUT, OUT, OUT, True, RESTS, T, PRECISION
        )  # fmt: skip
        places = rows[:, None] * F + columns[None, :]
        leave_both(target, target_rest, places, back * found(slope, places).to(tl.float32), PRECISION)
        if AGAIN:
            leave(bent, places, back * found(bent, places).to(tl.float32), PRECISION)


@triton.jit(noinline=True)
def _learn(  # type: ignore[no-untyped-def]
    x, x_rest, d, d_rest, write, mix, where, state, following, w_rest, part, more, LAYER: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, F: tl.constexpr, L: tl.constexpr, T: tl.constexpr, P: tl.constexpr,
    MOMENTUM: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    """One matrix at the chunk's end, and if there are `more` chunks, as the following one finds it."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    N: tl.constexpr = 2 * BD * F + (L - 2) * F * F
    IN: tl.constexpr = BD if LAYER == 0 else F
    OUT: tl.constexpr = BD if LAYER == L - 1 else F
    AT: tl.constexpr = 0 if LAYER == 0 else BD * F + (LAYER - 1) * F * F
    rows = tl.arange(0, BC)
    written, felt = pair(write, where, rows, p)
    kept, moved, carried = mixing(mix, where, p)
    stop = (IN // T) * (OUT // T)
    if AGAIN:
        stop = tl.where(more, stop, 0)
    for tile in range(part, stop, P):
        ins, outs = tile // (OUT // T) * T + tl.arange(0, T), tile % (OUT // T) * T + tl.arange(0, T)
        places = AT + ins[:, None] * OUT + outs[None, :]
        lefts, rights = rows[:, None] * IN + ins[None, :], rows[:, None] * OUT + outs[None, :]
        x_, errors = tl.trans(found(x, lefts)), found(d, rights).to(tl.float32)
        rest_ = x_
        if TYPE == tl.bfloat16:
            errors += found(d_rest, rights).to(tl.float32)
            if LAYER > 0:
                rest_ = tl.trans(found(x_rest, lefts))
        w = kept * found(state, places)
        if MOMENTUM:
            s = found(state, N + places)
            w += moved * s
            s = _written(carried * s, x_, rest_, -felt[:, None] * errors, LAYER, TYPE, PRECISION)
            tl.store(state + N + places, s)
            if more:
                leave(following, N + places, s, PRECISION)
        w = _written(w, x_, rest_, -written[:, None] * errors, LAYER, TYPE, PRECISION)
        tl.store(state + places, w)
        if more:
            leave_both(following, w_rest, places, w, PRECISION)


@triton.jit
def _written(  # type: ignore[no-untyped-def]
    total, x, x_rest, d, LAYER: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """total + X^T d, with the rests of both; K has none."""
    d_ = rounded(d, TYPE, PRECISION)
    if TYPE == tl.bfloat16:
        total = plus(total, x, rounded(d - d_.to(tl.float32), TYPE, PRECISION), PRECISION)
        if LAYER > 0:
            total = plus(total, x_rest, d_, PRECISION)
    return plus(total, x, d_, PRECISION)
