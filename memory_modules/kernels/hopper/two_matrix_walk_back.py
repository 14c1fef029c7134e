"""The backward walk over the chunks of a memory of two matrices on Hopper; letters and tensors as in two_matrix_walk.

It holds g(W1), g(S1), g(W2) and g(S2), and takes what the queries do to a chunk as given; the equations are those of
triton_two_matrix_backward, less what back_through_queries and back_through_writes compute.
"""

from triton.language import constexpr

from titanlab.memory_modules.kernels.hopper.activations import value_slope_curvature
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
    half,
    inward,
    jit,
    lang,
    left_of,
    plus_product,
    product,
    put,
    ready,
    room_for,
    turned,
    unhoisted,
    wide_columns,
    wide_rows,
    zeros,
)
from titanlab.memory_modules.kernels.hopper.two_matrix_walk import places_of_state, writing_gates


@jit(do_not_specialize=["n", "g", "groups", "begin", "count", "w_step", "s_step"])
def walk_back(  # type: ignore[no-untyped-def]
    q, k, read, write, mix, errors, d_y, starts, wanted, d_asked, d_errors, d_backs, d_values,
    d_v, d_w1_end, d_s1_end, d_w2_end, d_s2_end, d_state_1, d_state_2, d_keys, d_ends, counters, parts,
    n, g, groups, begin, count, w_step, s_step,
    H: constexpr, c: constexpr, F: constexpr, D: constexpr, BC: constexpr, BD: constexpr, BF: constexpr, P: constexpr,
    BR: constexpr, L: constexpr, MOMENTUM: constexpr, RESIDUAL: constexpr, ACTIVATION: constexpr, THREADS: constexpr,
):  # fmt: skip
    """From the last chunk of a stretch to the first, with the gradients of the state after it (of W and S apart, w_step
    and s_step from head to head) and before it, d_state_1 and _2, where the others may stand. Grid and counters as of
    `walk`.

    From the queries of the stretch's chunks: wanted (Y1), d_asked (g(Z1)), and their shares of g(D), g(X) and g(E),
    d_backs, d_values and d_errors [count, g, BC, BD]. For `back_through_writes`: d_keys (g(Z)), which may stand where
    d_asked stood, and d_ends, the gradients of the memory at the chunks' ends, as starts.
    """
    p: constexpr = 2 if MOMENTUM else 1
    ticket = lang.program_id(0)
    if P > 1:
        ticket = lang.atomic_add(counters, 1)
    group, part = ticket // P, ticket % P
    exchange = parts + group.to(lang.int64) * (2 * P * BC * BD)
    key_room, query_room, error_room, asked_room = (
        room_for(BC, BD, 2), room_for(BC, BD, 2), room_for(BC, BD, 2), room_for(BC, BD, 2),
    )  # fmt: skip
    w1_room, w2_room, wanted_room, g_asked_room = (
        room_for(BD, BF, 2), room_for(BD, BF, 2), room_for(BC, BF, 2), room_for(BC, BF, 2),
    )  # fmt: skip
    g_w_room, g_s_room, x_room, rear_room = room_for(BD, BF), room_for(BD, BF), room_for(BC, BF), room_for(BC, BF)
    g_error_room, g_z_room = room_for(BC, BD), room_for(BC, BF)
    chunks = 0
    for turn in range(lang.cdiv(g - group, groups)):
        head = group.to(lang.int64) + turn * groups
        first, second, inside = places_of_state(head, part, p, F, D, BD, BF, L)
        w_head, s_head = head * (w_step - p * D * F), head * (s_step - p * D * F)
        g_w1 = lang.load(d_w1_end + w_head + first, inside, 0.0)
        g_w2 = lang.load(d_w2_end + w_head + second, inside, 0.0)
        g_s1, g_s2 = g_w1, g_w2
        if MOMENTUM:
            g_s1 = lang.load(d_s1_end + s_head + first, inside, 0.0)
            g_s2 = lang.load(d_s2_end + s_head + second, inside, 0.0)
        rows_asked = _ask_rows(
            k, q, d_y, errors, key_room, query_room, asked_room, error_room, chunks, begin + count - 1, head, n, g,
            H, c, D, BC, BD,
        )  # fmt: skip
        units_asked = _ask_units(
            starts, wanted, d_asked, w1_room, w2_room, wanted_room, g_asked_room, chunks,
            ((count - 1) * g + head) * P + part, p, BC, BD, BF,
        )  # fmt: skip
        gates = writing_gates(write, mix, (begin + count - 1) * g + head, c, BC, L, MOMENTUM)
        for back in range(count):
            step = count - 1 - back
            i = begin + step
            zero = unhoisted(0)
            where = i * g + head
            start = (((head // H) * n + i) * c * H + head % H) * D
            w_rows, w_cols = wide_rows(BC, BD) + zero, wide_columns(BD, BD)
            w_mask = (w_rows < c)[:, None] & (w_cols < D)[None, :]
            w_tokens = start + (w_rows[:, None] * (H * D) + w_cols[None, :])
            t_rows, t_cols = wide_rows(BD, BF) + zero, wide_columns(BF, BF)
            tile, slice_ = t_rows[:, None] * BF + t_cols[None, :], (step * g + head) * P + part
            by_unit = slice_ * (BC * BF) + ((wide_rows(BC, BF) + zero)[:, None] * BF + t_cols[None, :])
            rows, dims, units, deep = down(BC, L) + zero, along(BD, L), along(BF, L), inward(BC, L) + zero
            unit = slice_ * (BC * BF) + (rows[:, None] * BF + units[None, :])
            d_back = lang.load(d_backs + unit)
            written, felt, kept, moved, carried = gates
            seen = lang.load(read + where * (c * p) + deep * p, deep < c, 0.0)
            surprise = seen
            g_w_ = put(at(g_w_room, zero), g_w1)
            g_s_ = g_w_
            if MOMENTUM:
                surprise = lang.load(read + where * (c * p) + (deep * p + 1), deep < c, 0.0)
                g_s_ = put(at(g_s_room, zero), g_s1)
            now = zero + chunks % 2
            key, query = got(at(key_room, now), rows_asked[0]), got(at(query_room, now), rows_asked[1])
            asked, error = (
                got(at(asked_room, now), rows_asked[2]), got(at(error_room, now), rows_asked[3]),
            )  # fmt: skip
            w1_, w2_ = got(at(w1_room, now), units_asked[0]), got(at(w2_room, now), units_asked[1])
            wanted_, g_asked = (
                got(at(wanted_room, now), units_asked[2]), got(at(g_asked_room, now), units_asked[3]),
            )  # fmt: skip
            fetched()
            ready()
            following = lang.maximum(step - 1, 0)
            rows_asked = _ask_rows(
                k, q, d_y, errors, key_room, query_room, asked_room, error_room, chunks + 1, begin + following, head,
                n, g, H, c, D, BC, BD,
            )  # fmt: skip
            units_asked = _ask_units(
                starts, wanted, d_asked, w1_room, w2_room, wanted_room, g_asked_room, chunks + 1,
                (following * g + head) * P + part, p, BC, BD, BF,
            )  # fmt: skip
            # the chunk's memory of its keys again
            from_error, z, by_w = begun(error, w2_, L), begun(key, w1_, L), begun(key, g_w_, L)
            ends = d_ends + slice_ * (2 * p * BD * BF) + tile
            lang.store(ends, copied(g_w_, BF))
            if MOMENTUM:
                by_s = begun(key, g_s_, L)
                lang.store(ends + 2 * BD * BF, copied(g_s_, BF))
                from_error, z, by_w, by_s = done((from_error, z, by_w, by_s))
            else:
                from_error, z, by_w = done((from_error, z, by_w))
            x, slope, curve = value_slope_curvature(z, ACTIVATION)
            x_ = put(at(x_room, zero), x)
            slope, bent = half(slope), half(from_error * curve)
            # g(D) and with it B
            g_d = d_back.to(lang.float32) - written[:, None] * by_w
            if MOMENTUM:
                g_d -= felt[:, None] * by_s
            d_value = lang.load(d_values + unit)
            rear_ = put(at(rear_room, zero), g_d * slope.to(lang.float32))  # B
            bent = half(g_d * bent.to(lang.float32))
            g_w_ = put(at(g_w_room, zero), g_w2)
            if MOMENTUM:
                g_s_ = put(at(g_s_room, zero), g_s2)
            ready()
            # g(E), whose parts the others wait for
            g_e, by_w = begun(rear_, turned(w2_), L), begun(x_, turned(g_w_), L)
            if MOMENTUM:
                g_e, by_w, by_s = done((g_e, by_w, begun(x_, turned(g_s_), L)))
                g_e -= felt[:, None] * by_s
            else:
                g_e, by_w = done((g_e, by_w))
            g_e -= written[:, None] * by_w
            place, number = exchange + (chunks % 2) * (P * BC * BD), 1 + (chunks // 2) % 255
            if P > 1:
                leave(place + part * (BC * BD), g_e, number, THREADS)
            from_queries = lang.load(d_errors + (step * g + head) * (BC * BD) + (rows[:, None] * BD + dims[None, :]))
            # what needs no g(E), while the others arrive
            lang.store(ends + BD * BF, copied(g_w_, BF))
            queries, asks = left_of(turned(query), L).to(lang.float32), left_of(turned(asked), L).to(lang.float32)
            if MOMENTUM:
                by_w, by_s = done((begun(error, g_w_, L), begun(error, g_s_, L)))
                g_x = d_value.to(lang.float32) - written[:, None] * by_w - felt[:, None] * by_s
                lang.store(ends + 3 * BD * BF, copied(g_s_, BF))
                g_s1, g_w1 = moved * g_w1 + carried * g_s1, kept * g_w1
                g_s2, g_w2 = moved * g_w2 + carried * g_s2, kept * g_w2
                surprised, surprising = half(surprise[None, :] * queries), half(surprise[None, :] * asks)
                g_s1, g_s2, surprised, surprising = done(
                    (begun_plus(g_s1, surprised, g_asked), begun_plus(g_s2, surprising, wanted_), surprised, surprising)
                )
            else:
                g_w1, g_w2 = kept * g_w1, kept * g_w2
                g_x = d_value.to(lang.float32) - written[:, None] * product(error, g_w_, L)
            queried, asking = half(seen[None, :] * queries), half(seen[None, :] * asks)
            g_w2 = begun_plus(begun_plus(g_w2, turned(error), rear_), asking, wanted_)
            g_w1, g_w2, queried, asking = done((begun_plus(g_w1, queried, g_asked), g_w2, queried, asking))
            gates = writing_gates(write, mix, (begin + following) * g + head, c, BC, L, MOMENTUM)
            if P > 1:
                g_e = added(place, zeros(BC, BD, L), number, P, THREADS)
            g_e += from_queries
            g_e_ = put(at(g_error_room, zero), g_e)
            ready()
            # the rest, from g(E)
            g_x, g_w2 = done((begun_plus(g_x, g_e_, w2_), begun_plus(g_w2, turned(g_e_), x_)))
            g_z_ = put(at(g_z_room, zero), g_x * slope.to(lang.float32) + bent.to(lang.float32))
            lang.store(d_v + w_tokens, -copied(g_e_, BD), w_mask & (w_rows // BR == part)[:, None])
            ready()
            g_w1 = plus_product(g_w1, turned(key), g_z_)
            lang.store(d_keys + by_unit, copied(g_z_, BF))
            chunks += 1
        fetched()  # what was asked for once too often, before its room is asked for again
        first, second, inside = places_of_state(head, part, p, F, D, BD, BF, L)
        lang.store(d_state_1 + first, g_w1, inside)
        lang.store(d_state_2 + second, g_w2, inside)
        if MOMENTUM:
            lang.store(d_state_1 + D * F + first, g_s1, inside)
            lang.store(d_state_2 + D * F + second, g_s2, inside)


@jit
def _ask_rows(  # type: ignore[no-untyped-def]
    k, q, d_y, errors, key_room, query_room, asked_room, error_room, chunks, i, head, n, g,
    H: constexpr, c: constexpr, D: constexpr, BC: constexpr, BD: constexpr,
):  # fmt: skip
    """K, Q, g(y) and E of chunk i."""
    zero = unhoisted(0)
    now = zero + chunks % 2
    rows, cols = wide_rows(BC, BD) + zero, wide_columns(BD, BD)
    mask = (rows < c)[:, None] & (cols < D)[None, :]
    tokens = (((head // H) * n + i) * c * H + head % H) * D + (rows[:, None] * (H * D) + cols[None, :])
    key, query = ask(at(key_room, now), k + tokens, mask), ask(at(query_room, now), q + tokens, mask)
    asked = ask(at(asked_room, now), d_y + tokens, mask)
    places = errors + (i * g + head) * (c * D) + (rows[:, None] * D + cols[None, :])
    return key, query, asked, ask(at(error_room, now), places, mask)


@jit
def _ask_units(  # type: ignore[no-untyped-def]
    starts, wanted, d_asked, w1_room, w2_room, wanted_room, g_asked_room, chunks, slice_,
    p: constexpr, BC: constexpr, BD: constexpr, BF: constexpr,
):  # fmt: skip
    """W1, W2, Y1 and g(Z1) of a chunk's slice of units."""
    zero = unhoisted(0)
    now = zero + chunks % 2
    rows, cols = wide_rows(BD, BF) + zero, wide_columns(BF, BF)
    tile = starts + slice_ * (2 * p * BD * BF) + (rows[:, None] * BF + cols[None, :])
    whole = (rows < BD)[:, None] & (cols < BF)[None, :]
    w1, w2 = ask(at(w1_room, now), tile, whole), ask(at(w2_room, now), tile + BD * BF, whole)
    rows = wide_rows(BC, BF) + zero
    by_unit = slice_ * (BC * BF) + (rows[:, None] * BF + cols[None, :])
    whole = (rows < BC)[:, None] & (cols < BF)[None, :]
    y1 = ask(at(wanted_room, now), wanted + by_unit, whole)
    return w1, w2, y1, ask(at(g_asked_room, now), d_asked + by_unit, whole)
