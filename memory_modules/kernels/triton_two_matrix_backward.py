"""The backward Triton kernel of a memory of two matrices; see triton_two_matrix_forward for the equations and letters.

A group of P programs walks the chunks of a head from the last to the first, a segment of `every` chunks at a time: each
computes its slice of the memory at every chunk of the segment again, from the mark before it and the saved errors, and
leaves it in `starts`; then it goes back through them with the gradients of its slice in its room. Written g(x) for the
gradient of x, with g(W), g(S) those at the chunk's end on the right sides:

    g(Y1) = read_0 g(y) W2^T + read_1 g(y) S2^T - (inner * g(y) E^T) X               g(Z1) = g(Y1) * f'(Z1)
    g(D)  = -write_0 K g(W1) - write_1 K g(S1) - (inner * Q K^T)^T g(Z1)             B = g(D) * f'(Z)
    g(E)  = -write_0 X g(W2) - write_1 X g(S2) - (inner * Y1 X^T)^T g(y) + B W2
    g(X)  = -write_0 E g(W2)^T - write_1 E g(S2)^T - (inner * g(y) E^T)^T Y1 + g(E) W2^T
    g(Z)  = g(X) * f'(Z) + g(D) * E W2^T * f''(Z)
    g(Q)  = read_0 g(Z1) W1^T + read_1 g(Z1) S1^T - (inner * g(Z1) D^T) K
    g(K)  = -write_0 D g(W1)^T - write_1 D g(S1)^T - (inner * g(Z1) D^T)^T Q + g(Z) W1^T
    g(inner) = -(g(Z1) D^T) * (Q K^T) - (g(y) E^T) * (Y1 X^T)
    g(W1) <- mix_00 g(W1) + Q^T (read_0 g(Z1)) + K^T g(Z)
    g(W2) <- mix_00 g(W2) + Y1^T (read_0 g(y)) + X^T g(E) + B^T E
    g(S)  <- mix_01 g(W) + mix_11 g(S) + Q^T (read_1 g(Z1))  or  Y1^T (read_1 g(y))

g(E), g(Q), g(K) and g(inner) are sums over hidden units: g(E) = -g(V) is added at two meetings, as E is forward, and
the rest a chunk later. d_v is of TYPE. d_read, d_write [P, n, g, c, p] and d_mix [P, n, g, p, p] are for the caller to
add.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_meeting import arrive, fresh, summed, wait
from titanlab.memory_modules.kernels.triton_products import loaded, stored, token_rows
from titanlab.memory_modules.kernels.triton_rooms import copy, move
from titanlab.memory_modules.kernels.triton_two_matrix_steps import (
    again,
    through_errors,
    through_keys,
    through_queries,
    through_state,
)


@triton.jit
def _add_values(  # type: ignore[no-untyped-def]
    parts, d_v, i, head, shares, n, H: tl.constexpr, c: tl.constexpr, D: tl.constexpr,
    BC: tl.constexpr, BD: tl.constexpr, BW: tl.constexpr, P: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """g(V) of this program's share of a chunk's tokens."""
    WHOLE: tl.constexpr = c == BC and D == BD and P * BR == BC
    dims = tl.arange(0, BD).to(tl.int64)
    mask = (shares < c)[:, None] & (dims < D)[None, :]
    g_e = summed(parts, BC * BW, shares[:, None] * BD + dims[None, :], mask, P, WHOLE)
    stored(token_rows(d_v, i, head, n, c, H, D, shares, dims), (-g_e).to(d_v.dtype.element_ty), mask, WHOLE)


@triton.jit
def _add_rest(  # type: ignore[no-untyped-def]
    parts, d_y, d_q, d_k, d_v, d_inner, i, head, shares, n, g,
    H: tl.constexpr, c: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr,
    BW: tl.constexpr, P: tl.constexpr, BR: tl.constexpr,
    RESIDUAL: tl.constexpr,
):  # fmt: skip
    """This program's rows of d_q, d_k and d_inner of chunk i, from what all programs of the head left of them."""
    ROWS: tl.constexpr = c == BC and D == BD and P * BR == BC
    SQUARE: tl.constexpr = c == BC and P * BR == BC
    rows, dims, share = tl.arange(0, BC).to(tl.int64), tl.arange(0, BD).to(tl.int64), shares < c
    wide, square = share[:, None] & (dims < D)[None, :], share[:, None] & (rows < c)[None, :]
    places = shares[:, None] * BD + dims[None, :]
    g_q = summed(parts, 4 * BC * BW, places, wide, P, ROWS)
    g_k = summed(parts + BC * BW, 4 * BC * BW, places, wide, P, ROWS)
    if RESIDUAL:
        g_q += loaded(token_rows(d_y, i, head, n, c, H, D, shares, dims), wide, ROWS).to(tl.float32)
        values = token_rows(d_v, i, head, n, c, H, D, shares, dims)
        g_k -= fresh(values, wide, ROWS).to(tl.float32)
    stored(token_rows(d_q, i, head, n, c, H, D, shares, dims), g_q.to(d_q.dtype.element_ty), wide, ROWS)
    stored(token_rows(d_k, i, head, n, c, H, D, shares, dims), g_k.to(d_k.dtype.element_ty), wide, ROWS)
    g_inner = summed(parts + 2 * BC * BW, 4 * BC * BW, shares[:, None] * BC + rows[None, :], square, P, SQUARE)
    result = d_inner + (i * g + head) * (c * c) + (shares[:, None] * c + rows[None, :])
    stored(result, g_inner.to(d_inner.dtype.element_ty), square, SQUARE)


@triton.jit(do_not_specialize=["n", "g", "groups", "every"])
def backward(  # type: ignore[no-untyped-def]
    q, k, read, inner, write, mix, errors, state_1, state_2, marks, d_y,
    d_q, d_k, d_v, d_read, d_inner, d_write, d_mix, d_state_1, d_state_2, rooms, starts, lefts, counters, sums,
    n, g, groups, every,
    H: tl.constexpr, c: tl.constexpr, F: tl.constexpr, D: tl.constexpr, BC: tl.constexpr, BD: tl.constexpr,
    BF: tl.constexpr, P: tl.constexpr, BR: tl.constexpr,
    MOMENTUM: tl.constexpr, RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (groups P,), counters [1 + groups] of zeros. d_state_1, d_state_2 hold the end's gradients at first.

    Room to work in: rooms [groups P, 2, 2 p, BD, BF], starts [groups P, every, 2 p, BD, BF], lefts
    [groups P, 8, BC, BF] and sums [groups, P + 2 P 4, BC, BW].
    """
    p: tl.constexpr = 2 if MOMENTUM else 1
    BW: tl.constexpr = BC if BC > BD else BD
    ticket = tl.program_id(0)
    if P > 1:
        ticket = tl.atomic_add(counters, 1)
    group, part = ticket // P, ticket % P
    ticket = ticket.to(tl.int64)
    counter = counters + 1 + group
    room = rooms + ticket * (4 * p * BD * BF)
    forth = room + 2 * p * BD * BF
    mine, left = starts + ticket * every * (2 * p * BD * BF), lefts + ticket * (8 * BC * BF)
    exchange = sums + group.to(tl.int64) * (9 * P * BC * BW)
    shares = part * BR + tl.arange(0, BR).to(tl.int64)  # the tokens whose gradients this program adds up
    arrivals, chunks = 0, 0
    for turn in range(tl.cdiv(g - group, groups)):
        head = group.to(tl.int64) + turn * groups
        move(room, d_state_1, d_state_2, head, part, False, F, D, BD, BF, p)
        for back in range(tl.cdiv(n, every)):
            segment = tl.cdiv(n, every) - 1 - back
            begin, stop = segment * every, tl.minimum(segment * every + every, n)
            if segment == 0:
                move(forth, state_1, state_2, head, part, False, F, D, BD, BF, p)
            else:
                copy(marks + (((segment - 1) * g + head) * P + part) * (2 * p * BD * BF), forth, BD, BF, 2 * p)
            for i in range(begin, stop):
                again(
                    k, write, mix, errors, forth, mine + (i - begin) * (2 * p * BD * BF), i, head, n, g,
                    H, c, D, BC, BD, BF, MOMENTUM, ACTIVATION, TYPE, PRECISION,
                )  # fmt: skip
            for step in range(stop - begin):
                i = stop - 1 - step
                start = mine + (i - begin) * (2 * p * BD * BF)
                rests = exchange + (P + (chunks % 2) * (4 * P) + part * 4) * (BC * BW)
                through_queries(
                    q, k, read, inner, errors, d_y, d_read, start, left, rests, i, head, n, g, part,
                    H, c, D, BC, BD, BF, MOMENTUM, ACTIVATION, TYPE, PRECISION,
                )  # fmt: skip
                through_errors(
                    k, write, errors, start, room, left, rests, exchange + part * (BC * BW), i, head, n, g,
                    H, c, D, BC, BD, BF, MOMENTUM, ACTIVATION, TYPE, PRECISION,
                )  # fmt: skip
                arrive(counter, P)
                # what needs no g(E), while the others arrive
                through_state(
                    q, k, read, write, mix, errors, d_y, d_write, d_mix, start, room, left, rests, i, head, n, g, part,
                    H, c, D, BC, BD, BF, MOMENTUM, TYPE, PRECISION,
                )  # fmt: skip
                arrivals += P
                wait(counter, arrivals, P)
                _add_values(exchange, d_v, i, head, shares, n, H, c, D, BC, BD, BW, P, BR)
                arrive(counter, P)
                if (step > 0) | (back > 0):
                    _add_rest(
                        exchange + (P + ((chunks + 1) % 2) * (4 * P)) * (BC * BW), d_y, d_q, d_k, d_v, d_inner,
                        i + 1, head, shares, n, g, H, c, D, BC, BD, BW, P, BR, RESIDUAL,
                    )  # fmt: skip
                arrivals += P
                wait(counter, arrivals, P)
                through_keys(k, d_v, start, room, left, rests, i, head, n, H, c, D, BC, BD, BF, TYPE, PRECISION)
                chunks += 1
        arrive(counter, P)
        arrivals += P
        wait(counter, arrivals, P)
        _add_rest(
            exchange + (P + ((chunks + 1) % 2) * (4 * P)) * (BC * BW), d_y, d_q, d_k, d_v, d_inner,
            0, head, shares, n, g, H, c, D, BC, BD, BW, P, BR, RESIDUAL,
        )  # fmt: skip
        move(room, d_state_1, d_state_2, head, part, True, F, D, BD, BF, p)
