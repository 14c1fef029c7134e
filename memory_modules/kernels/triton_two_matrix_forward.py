"""The forward Triton kernel of a memory of two matrices; `triton_two_matrix_memory` launches it.

The equations are dual_form's at depth 2, f the activation, ' the end of a chunk, p the parts W and S of the state:

    Z = K W1       X = f(Z)       E = X W2 - V (+ K)       D = (E W2^T) * f'(Z)
    Y1 = f(read_0 Q W1 + read_1 Q S1 - (inner * Q K^T) D)
    y  =   read_0 Y1 W2 + read_1 Y1 S2 - (inner * Y1 X^T) E (+ Q)
    W1' = mix_00 W1 + mix_01 S1 - K^T (write_0 D)          S1' = mix_11 S1 - K^T (write_1 D)
    W2' = mix_00 W2 + mix_01 S2 - X^T (write_0 E)          S2' = mix_11 S2 - X^T (write_1 E)

The hidden units are cut into slices of BF, one program each, which walks the chunks with its slice of all four matrices
in a room of its own, float32 (W2 and S2 transposed, so that every tile is BD x BF): the rooms of the programs that run
at once fit the second-level cache. Only E and y are sums over units.
The programs of a head meet twice a chunk: when all have left their parts of E, each adds up its share of the tokens,
and when all have done that, each reads the whole of E; the parts of y are added a chunk later. E is rounded to TYPE
once, so the backward kernel, which reads it, computes every memory again exactly as it was.

Letters: n chunks of c tokens (padded to BC), heads H of width D (padded to BD), F hidden units, P = ceil(F / BF)
slices, g = batch x heads, p = 2 with MOMENTUM else 1. Tensors: q, k, v, y [b, n c, H, D]; errors (E) [n, g, c, D];
read, write [n, g, c, p]; inner [n, g, c, c]; mix [n, g, p, p]; state_1, end_1 [g, p, D, F]; state_2, end_2
[g, p, F, D]; marks, the state before every chunk of number `every`, 2 every, ... [.., g, P, 2 p, BD, BF];
rooms [groups P, 2 p, BD, BF]; sums, where programs of a head leave what is to be added [groups, 3, P, BC, BD].
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_activations import value_and_slope, value_of
from titanlab.memory_modules.kernels.triton_meeting import arrive, fresh, summed, wait
from titanlab.memory_modules.kernels.triton_products import loaded, plus_product, product, stored, token_rows
from titanlab.memory_modules.kernels.triton_rooms import copy, move


@triton.jit
def _add_errors(  # type: ignore[no-untyped-def]
    parts, k, v, errors, i, head, shares, n, g, H: tl.constexpr, c: tl.constexpr, D: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, P: tl.constexpr, BR: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """E of this program's share of a chunk's tokens."""
    WHOLE: tl.constexpr = c == BC and D == BD and P * BR == BC
    dims = tl.arange(0, BD).to(tl.int64)
    mask = (shares < c)[:, None] & (dims < D)[None, :]
    error = summed(parts, BC * BD, shares[:, None] * BD + dims[None, :], mask, P, WHOLE)
    error -= loaded(token_rows(v, i, head, n, c, H, D, shares, dims), mask, WHOLE).to(tl.float32)
    if RESIDUAL:
        error += loaded(token_rows(k, i, head, n, c, H, D, shares, dims), mask, WHOLE).to(tl.float32)
    result = errors + (i * g + head) * (c * D) + (shares[:, None] * D + dims[None, :])
    stored(result, error.to(errors.dtype.element_ty), mask, WHOLE)


@triton.jit
def _add_answers(  # type: ignore[no-untyped-def]
    parts, q, y, i, head, shares, n, H: tl.constexpr, c: tl.constexpr, D: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, P: tl.constexpr, BR: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """y of this program's share of a chunk's tokens."""
    WHOLE: tl.constexpr = c == BC and D == BD and P * BR == BC
    dims = tl.arange(0, BD).to(tl.int64)
    mask = (shares < c)[:, None] & (dims < D)[None, :]
    answer = summed(parts, BC * BD, shares[:, None] * BD + dims[None, :], mask, P, WHOLE)
    if RESIDUAL:
        answer += loaded(token_rows(q, i, head, n, c, H, D, shares, dims), mask, WHOLE).to(tl.float32)
    stored(token_rows(y, i, head, n, c, H, D, shares, dims), answer.to(y.dtype.element_ty), mask, WHOLE)


@triton.jit(noinline=True)
def _step(  # type: ignore[no-untyped-def]
    q, k, v, read, inner, write, mix, y, errors, room, exchange, counter, arrivals, chunks, i, head, part, n, g,
    H: tl.constexpr, c: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr,
    P: tl.constexpr, BR: tl.constexpr, MOMENTUM: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk: its errors, its answers, and the state after it."""
    p: tl.constexpr = 2 if MOMENTUM else 1
    ROWS: tl.constexpr = c == BC and D == BD
    SQUARE: tl.constexpr = c == BC
    rows, dims = tl.arange(0, BC).to(tl.int64), tl.arange(0, BD).to(tl.int64)
    shares = part * BR + tl.arange(0, BR).to(tl.int64)  # the tokens whose E and y this program adds up
    token, dim = rows < c, dims < D
    wide, square = token[:, None] & dim[None, :], token[:, None] & token[None, :]
    tile = room + (tl.arange(0, BD)[:, None] * BF + tl.arange(0, BF)[None, :])
    full = rows[:, None] * BD + dims[None, :]
    place = i * g + head
    key = loaded(token_rows(k, i, head, n, c, H, D, rows, dims), wide, ROWS)
    w1_, w2_ = tl.load(tile).to(TYPE), tl.load(tile + BD * BF).to(TYPE)
    x, slope = value_and_slope(product(key, w1_, TYPE, PRECISION), ACTIVATION)
    x = x.to(TYPE)
    error = product(x, tl.trans(w2_), TYPE, PRECISION)
    tl.store(exchange + part * BC * BD + full, error)
    arrive(counter, P)
    # what needs no error, while the others arrive
    query = loaded(token_rows(q, i, head, n, c, H, D, rows, dims), wide, ROWS)
    corner = place * (c * c) + (rows[:, None] * c + rows[None, :])
    seen = loaded(read + place * (c * p) + rows * p, token, SQUARE)
    scores = loaded(inner + corner, square, SQUARE).to(tl.float32)
    scores = (scores * product(query, tl.trans(key), TYPE, PRECISION)).to(TYPE)
    z = seen[:, None] * product(query, w1_, TYPE, PRECISION)
    if MOMENTUM:
        surprise = loaded(read + place * (c * p) + (rows * p + 1), token, SQUARE)
        z += surprise[:, None] * product(query, tl.load(tile + 2 * BD * BF), TYPE, PRECISION)
    wait(counter, arrivals + P, P)
    _add_errors(exchange, k, v, errors, i, head, shares, n, g, H, c, D, BC, BD, P, BR, RESIDUAL)
    arrive(counter, P)
    if i > 0:
        answers = exchange + (1 + (chunks + 1) % 2) * (P * BC * BD)
        _add_answers(answers, q, y, i - 1, head, shares, n, H, c, D, BC, BD, P, BR, RESIDUAL)
    wait(counter, arrivals + 2 * P, P)
    error = fresh(errors + place * (c * D) + (rows[:, None] * D + dims[None, :]), wide, ROWS)
    d = product(error, w2_, TYPE, PRECISION) * slope
    z = z - product(scores, d, TYPE, PRECISION)
    asked = value_of(z, ACTIVATION).to(TYPE)
    scores = loaded(inner + corner, square, SQUARE).to(tl.float32)
    scores = (scores * product(asked, tl.trans(x), TYPE, PRECISION)).to(TYPE)
    answer = seen[:, None] * product(asked, tl.trans(w2_), TYPE, PRECISION)
    if MOMENTUM:
        answer += surprise[:, None] * product(asked, tl.trans(tl.load(tile + 3 * BD * BF).to(TYPE)), TYPE, PRECISION)
    answer -= product(scores, error, TYPE, PRECISION)
    tl.store(exchange + ((chunks % 2 + 1) * P + part) * BC * BD + full, answer)
    keys, mistakes = tl.trans(key), tl.trans(error)
    written = loaded(write + place * (c * p) + rows * p, token, SQUARE)
    if MOMENTUM:
        felt = loaded(write + place * (c * p) + (rows * p + 1), token, SQUARE)
        m = mix + place * 4
        kept, moved, carried = tl.load(m), tl.load(m + 1), tl.load(m + 3)
        s = tl.load(tile + 2 * BD * BF)
        w = plus_product(kept * tl.load(tile) + moved * s, keys, -written[:, None] * d, TYPE, PRECISION)
        tl.store(tile, w)
        tl.store(tile + 2 * BD * BF, plus_product(carried * s, keys, -felt[:, None] * d, TYPE, PRECISION))
        s = tl.load(tile + 3 * BD * BF)
        w = plus_product(kept * tl.load(tile + BD * BF) + moved * s, mistakes, -written[:, None] * x, TYPE, PRECISION)
        tl.store(tile + BD * BF, w)
        tl.store(tile + 3 * BD * BF, plus_product(carried * s, mistakes, -felt[:, None] * x, TYPE, PRECISION))
    else:
        kept = tl.load(mix + place)
        w = plus_product(kept * tl.load(tile), keys, -written[:, None] * d, TYPE, PRECISION)
        tl.store(tile, w)
        w = plus_product(kept * tl.load(tile + BD * BF), mistakes, -written[:, None] * x, TYPE, PRECISION)
        tl.store(tile + BD * BF, w)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["n", "g", "groups", "every"])
def forward(  # type: ignore[no-untyped-def]
    q, k, v, read, inner, write, mix, state_1, state_2, y, errors, marks, end_1, end_2, rooms, counters, sums,
    n, g, groups, every,
    H: tl.constexpr, c: tl.constexpr, F: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr,
    BF: tl.constexpr, P: tl.constexpr, BR: tl.constexpr,
    MOMENTUM: tl.constexpr, RESIDUAL: tl.constexpr, KEEPING: tl.constexpr, ACTIVATION: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the first chunk to the last. Grid (groups P,), counters [1 + groups] of zeros.

    A group of P programs takes every groups-th head. KEEPING writes marks for the gradient.
    """
    p: tl.constexpr = 2 if MOMENTUM else 1
    ticket = tl.program_id(0)
    if P > 1:
        ticket = tl.atomic_add(counters, 1)
    group, part = ticket // P, ticket % P
    counter = counters + 1 + group
    room = rooms + ticket.to(tl.int64) * (2 * p * BD * BF)
    exchange = sums + group.to(tl.int64) * (3 * P * BC * BD)
    arrivals, chunks = 0, 0
    for turn in range(tl.cdiv(g - group, groups)):
        head = group.to(tl.int64) + turn * groups
        move(room, state_1, state_2, head, part, False, F, D, BD, BF, p)
        for i in range(n):
            if KEEPING:
                if (i > 0) & (i % every == 0):
                    mark = marks + (((i // every - 1) * g + head) * P + part) * (2 * p * BD * BF)
                    copy(room, mark, BD, BF, 2 * p)
            _step(
                q, k, v, read, inner, write, mix, y, errors, room, exchange, counter, arrivals, chunks, i, head, part,
                n, g, H, c, D, BC, BD, BF, P, BR, MOMENTUM, RESIDUAL, ACTIVATION, TYPE, PRECISION,
            )  # fmt: skip
            arrivals += 2 * P
            chunks += 1
        arrive(counter, P)
        arrivals += P
        wait(counter, arrivals, P)
        answers = exchange + (1 + (chunks + 1) % 2) * (P * BC * BD)
        shares = part * BR + tl.arange(0, BR).to(tl.int64)
        _add_answers(answers, q, y, n - 1, head, shares, n, H, c, D, BC, BD, P, BR, RESIDUAL)
        move(room, end_1, end_2, head, part, True, F, D, BD, BF, p)
