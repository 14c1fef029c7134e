"""The forward walk over the chunks of a memory of two matrices on Hopper: what no chunk can do before its neighbour.

It needs the keys alone; two_matrix_queries and two_matrix_writes compute the rest for all chunks of a stretch at once.
The equations are those of triton_two_matrix_forward.

The hidden units are cut into slices of BF, one program each, which holds its slice of the memory (or of its gradient)
in registers, float32, all the way. Only E (backward: g(E)) is a sum over units: each program of a head leaves its part
for the others and adds up all parts by itself, in the same order (see addition).

Letters: n chunks of c tokens (padded to BC), heads H of width D (padded to BD), F hidden units, P = ceil(F / BF)
slices, g = batch x heads, p = 2 with MOMENTUM else 1; a stretch of chunks begins at `begin` and has `count`.
Tensors: k, v [b, n c, H, D]; errors (E) [n, g, c, D]; write [n, g, c, p]; mix [n, g, p, p]; state_1, end_1
[g, p, D, F]; state_2, end_2 [g, p, F, D]; starts, the memory as chunks find it, [count, g, P, 2 p, BD, BF] with W2 and
S2 transposed; parts [groups, 2, P, BC, BD]; what is by chunk and unit, [count, g, P, BC, BF].
"""

from triton.language import constexpr

from titanlab.memory_modules.kernels.hopper.activations import value_and_slope
from titanlab.memory_modules.kernels.hopper.addition import added, leave
from titanlab.memory_modules.kernels.hopper.tiles import (
    along,
    ask,
    at,
    begun,
    begun_plus,
    copied,
    done,
    down,
    fetched,
    got,
    held,
    jit,
    lang,
    plus_product,
    product,
    put,
    ready,
    rest_of,
    room_for,
    turned,
    unhoisted,
    wide_columns,
    wide_rows,
    zeros,
)


@jit(do_not_specialize=["n", "g", "groups", "begin", "count"])
def walk(  # type: ignore[no-untyped-def]
    k, v, write, mix, state_1, state_2, errors, starts, end_1, end_2, counters, parts,
    n, g, groups, begin, count,
    H: constexpr, c: constexpr, F: constexpr, D: constexpr, BC: constexpr, BD: constexpr, BF: constexpr, P: constexpr,
    BR: constexpr, L: constexpr, MOMENTUM: constexpr, RESIDUAL: constexpr, ACTIVATION: constexpr, AGAIN: constexpr,
    THREADS: constexpr, SF: constexpr, SLICES: constexpr,
):  # fmt: skip
    """From the first chunk of a stretch to the last. Grid (groups P,), counters [1] and parts all zeros.

    A group of P programs takes every groups-th head. AGAIN: errors are known, nobody meets, and the end is not kept.
    """
    p: constexpr = 2 if MOMENTUM else 1
    ticket = lang.program_id(0)
    if P > 1 and not AGAIN:
        ticket = lang.atomic_add(counters, 1)
    group, part = ticket // P, ticket % P
    exchange = parts + group.to(lang.int64) * (2 * P * BC * BD)
    key_room, error_room = room_for(BC, BD, 2), room_for(BC, BD, 2)
    s1_room, s2_room = room_for(BD, BF), room_for(BD, BF)
    w1_room, w2_room, w1_rest_room, w2_rest_room = (
        room_for(BD, BF), room_for(BD, BF), room_for(BD, BF), room_for(BD, BF),
    )  # fmt: skip
    written_d_room, felt_d_room = room_for(BC, BF), room_for(BC, BF)
    written_x_room, felt_x_room, x_room = room_for(BC, BF), room_for(BC, BF), room_for(BC, BF)
    chunks = 0
    for turn in range(lang.cdiv(g - group, groups)):
        head = group.to(lang.int64) + turn * groups
        first, second, inside = places_of_state(head, part, p, F, D, BD, BF, L)
        w1, w2 = lang.load(state_1 + first, inside, 0.0), lang.load(state_2 + second, inside, 0.0)
        s1, s2 = w1, w2
        if MOMENTUM:
            s1 = lang.load(state_1 + D * F + first, inside, 0.0)
            s2 = lang.load(state_2 + D * F + second, inside, 0.0)
        key, error_ = _ask_of_walk(k, errors, key_room, error_room, chunks, begin, head, n, g, H, c, D, BC, BD, AGAIN)
        gates = writing_gates(write, mix, begin * g + head, c, BC, L, MOMENTUM)
        for step in range(count):
            i = begin + step
            zero = unhoisted(0)
            where = i * g + head
            start = (((head // H) * n + i) * c * H + head % H) * D
            w_rows, w_cols = wide_rows(BC, BD) + zero, wide_columns(BD, BD)
            w_mask = (w_rows < c)[:, None] & (w_cols < D)[None, :]
            memory = starts + ((step * g + head) * SLICES + part * (BF // SF)) * (2 * p * BD * SF)
            w1_, w2_ = put(at(w1_room, zero), w1), put(at(w2_room, zero), w2)
            # what rounding took from W: over many chunks its errors would multiply
            w1_rest = put(at(w1_rest_room, zero), rest_of(w1))
            rows, dims = down(BC, L) + zero, along(BD, L)
            token = rows < c
            written, felt, kept, moved, carried = gates
            now = zero + chunks % 2
            key, error_ = got(at(key_room, now), key), got(at(error_room, now), error_)
            fetched()
            ready()
            following = lang.minimum(i + 1, begin + count - 1)
            later_key, later_error = _ask_of_walk(
                k, errors, key_room, error_room, chunks + 1, following, head, n, g, H, c, D, BC, BD, AGAIN
            )
            if not AGAIN:
                mask = token[:, None] & (dims < D)[None, :]
                value = lang.load(v + start + (rows[:, None] * (H * D) + dims[None, :]), mask, 0.0)
            x, slope = value_and_slope(plus_product(begun(key, w1_, L), key, w1_rest), ACTIVATION)
            if not AGAIN:
                x_ = put(at(x_room, zero), x)
                ready()
                error = product(x_, turned(w2_), L)
                if P > 1:
                    place, number = exchange + (chunks % 2) * (P * BC * BD), 1 + (chunks // 2) % 255
                    leave(place + part * (BC * BD), error, number, THREADS)
            # what needs no E, while its parts are on their way
            w2_rest = put(at(w2_rest_room, zero), rest_of(w2))
            s1_, s2_ = w1_, w2_
            if MOMENTUM:
                s1_, s2_ = put(at(s1_room, zero), s1), put(at(s2_room, zero), s2)
            _keep_start(memory, w1_, w2_, s1_, s2_, part, zero, F, BD, BF, SF, MOMENTUM)
            written_x = put(at(written_x_room, zero), -written[:, None] * x)
            felt_x = written_x
            if MOMENTUM:
                felt_x = put(at(felt_x_room, zero), -felt[:, None] * x)
                w1, s1 = kept * w1 + moved * s1, carried * s1
                w2, s2 = kept * w2 + moved * s2, carried * s2
            else:
                w1, w2 = kept * w1, kept * w2
            gates = writing_gates(write, mix, following * g + head, c, BC, L, MOMENTUM)
            if not AGAIN:
                if P > 1:
                    error = added(place, zeros(BC, BD, L), number, P, THREADS)
                error -= value.to(lang.float32)
                if RESIDUAL:
                    error += held(key, L)
                error_ = put(at(error_room, now), lang.where(mask, error, 0.0))
                ready()
                w_error = errors + where * (c * D) + (w_rows[:, None] * D + w_cols[None, :])
                lang.store(w_error, copied(error_, BD), w_mask & (w_rows // BR == part)[:, None])
            else:
                ready()
            d = plus_product(begun(error_, w2_, L), error_, w2_rest) * slope
            written_d = put(at(written_d_room, zero), -written[:, None] * d)
            felt_d = written_d
            if MOMENTUM:
                felt_d = put(at(felt_d_room, zero), -felt[:, None] * d)
            ready()
            keys, mistakes = turned(key), turned(error_)
            w1, w2 = begun_plus(w1, keys, written_d), begun_plus(w2, mistakes, written_x)
            if MOMENTUM:
                s1, s2 = begun_plus(s1, keys, felt_d), begun_plus(s2, mistakes, felt_x)
                w1, w2, s1, s2 = done((w1, w2, s1, s2))
            else:
                w1, w2 = done((w1, w2))
                s1, s2 = w1, w2
            key, error_ = later_key, later_error
            chunks += 1
        fetched()  # what was asked for once too often, before its room is asked for again
        if not AGAIN:
            first, second, inside = places_of_state(head, part, p, F, D, BD, BF, L)
            lang.store(end_1 + first, w1, inside)
            lang.store(end_2 + second, w2, inside)
            if MOMENTUM:
                lang.store(end_1 + D * F + first, s1, inside)
                lang.store(end_2 + D * F + second, s2, inside)


@jit
def writing_gates(  # type: ignore[no-untyped-def]
    write, mix, where, c: constexpr, BC: constexpr, L: constexpr, MOMENTUM: constexpr
):  # fmt: skip
    """What a chunk's tokens write to W and to S, and what stays of both; a chunk ahead, as they take long to come."""
    p: constexpr = 2 if MOMENTUM else 1
    rows = down(BC, L) + unhoisted(0)
    written = lang.load(write + where * (c * p) + rows * p, rows < c, 0.0)
    m = mix + where * p * p
    kept = lang.load(m)
    felt, moved, carried = written, kept, kept
    if MOMENTUM:
        felt = lang.load(write + where * (c * p) + (rows * p + 1), rows < c, 0.0)
        moved, carried = lang.load(m + 1), lang.load(m + 3)
    return written, felt, kept, moved, carried


@jit
def _ask_of_walk(  # type: ignore[no-untyped-def]
    k, errors, key_room, error_room, chunks, i, head, n, g,
    H: constexpr, c: constexpr, D: constexpr, BC: constexpr, BD: constexpr, AGAIN: constexpr,
):  # fmt: skip
    """K of chunk i, and E where it is known."""
    zero = unhoisted(0)
    now = zero + chunks % 2
    rows, cols = wide_rows(BC, BD) + zero, wide_columns(BD, BD)
    mask = (rows < c)[:, None] & (cols < D)[None, :]
    tokens = k + (((head // H) * n + i) * c * H + head % H) * D + (rows[:, None] * (H * D) + cols[None, :])
    key = ask(at(key_room, now), tokens, mask)
    error = key
    if AGAIN:
        places = errors + (i * g + head) * (c * D) + (rows[:, None] * D + cols[None, :])
        error = ask(at(error_room, now), places, mask)
    return key, error


@jit
def places_of_state(  # type: ignore[no-untyped-def]
    head, part, p: constexpr, F: constexpr, D: constexpr, BD: constexpr, BF: constexpr, L: constexpr
):  # fmt: skip
    """Where this program's slice of a head's matrices stands: in the first, in the second, and the mask."""
    dims, units = down(BD, L) + unhoisted(0), along(BF, L)
    first = head * (p * D * F) + part * BF + (dims[:, None] * F + units[None, :])
    second = head * (p * D * F) + part * (BF * D) + (units[None, :] * D + dims[:, None])
    return first, second, (dims < D)[:, None] & (part * BF + units < F)[None, :]


@jit
def _keep_start(  # type: ignore[no-untyped-def]
    target, w1, w2, s1, s2, part, zero, F: constexpr, BD: constexpr, BF: constexpr, SF: constexpr, MOMENTUM: constexpr
):  # fmt: skip
    """Leaves the memory as a chunk finds it for the kernels that look at it, in slices of SF units."""
    p: constexpr = 2 if MOMENTUM else 1
    rows, cols = wide_rows(BD, BF) + zero, wide_columns(BF, BF)
    tile = target + ((rows * SF)[:, None] + (cols // SF * (2 * p * BD * SF) + cols % SF)[None, :])
    there = (rows < BD)[:, None] & (part * BF + cols // SF * SF < F)[None, :]  # the last slice may have no units at all
    lang.store(tile, copied(w1, BF), there)
    lang.store(tile + BD * SF, copied(w2, BF), there)
    if MOMENTUM:
        lang.store(tile + 2 * BD * SF, copied(s1, BF), there)
        lang.store(tile + 3 * BD * SF, copied(s2, BF), there)
