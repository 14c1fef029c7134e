"""The kernels of a memory of two matrices on Hopper for queries: each chunk of a stretch by itself, one a program.

They find the memory at each chunk's start where a walk left it, and go through its units a slice at a time, so that
nothing is a sum over programs. Letters and tensors as in two_matrix_walk, and read
[n, g, c, p], inner [n, g, c, c].
"""

from triton.language import constexpr

from titanlab.memory_modules.kernels.hopper.activations import value_and_slope, value_of
from titanlab.memory_modules.kernels.hopper.chunk_rooms import (
    ask_memory,
    got_memory,
    inner_of_chunk,
    rows_of_chunk,
    tokens_of_chunk,
)
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
    held,
    jit,
    lang,
    left,
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


@jit(do_not_specialize=["n", "g", "begin"])
def answer(  # type: ignore[no-untyped-def]
    q, k, read, inner, errors, starts, y, n, g, begin,
    H: constexpr, c: constexpr, D: constexpr, BC: constexpr, BD: constexpr, BF: constexpr, P: constexpr, L: constexpr,
    MOMENTUM: constexpr, RESIDUAL: constexpr, ACTIVATION: constexpr,
):  # fmt: skip
    """y of the chunks of a stretch. Grid (count g,)."""
    p: constexpr = 2 if MOMENTUM else 1
    place = lang.program_id(0).to(lang.int64)
    i, head = begin + place // g, place % g
    where = i * g + head
    start = (((head // H) * n + i) * c * H + head % H) * D
    key, error = rows_of_chunk(k, errors, start, where, room_for(BC, BD), room_for(BC, BD), H, c, D, BC, BD)
    query = tokens_of_chunk(q, start, room_for(BC, BD), H, c, D, BC, BD)
    C = inner_of_chunk(inner, where, c, BC, L)
    rows, dims = down(BC, L), along(BD, L)
    token = rows < c
    seen = lang.load(read + where * (c * p) + rows * p, token, 0.0)
    surprise = seen
    if MOMENTUM:
        surprise = lang.load(read + where * (c * p) + (rows * p + 1), token, 0.0)
    w1_room, w2_room, s1_room, s2_room = room_for(BD, BF), room_for(BD, BF), room_for(BD, BF), room_for(BD, BF)
    scores_room, x_room, d_room = room_for(BC, BC), room_for(BC, BF), room_for(BC, BF)
    memory = ask_memory(starts + place * P * (2 * p * BD * BF), w1_room, w2_room, s1_room, s2_room, 0, BD, BF, MOMENTUM)
    fetched()
    ready()
    scores = put(at(scores_room, 0), -C.to(lang.float32) * product(query, turned(key), L))
    plain, moved, deep = zeros(BC, BD, L), zeros(BC, BD, L), zeros(BC, BC, L)
    for part in range(P):
        zero = unhoisted(0)
        w1, w2, s1, s2 = got_memory(memory, w1_room, w2_room, s1_room, s2_room, zero, BD, BF, MOMENTUM)
        fetched()
        ready()
        x, d = done((begun(key, w1, L), begun(error, w2, L)))
        x, slope = value_and_slope(x, ACTIVATION)
        x_, d_ = put(at(x_room, zero), x), put(at(d_room, zero), d * slope)
        if MOMENTUM:
            z, moving = done((begun(query, w1, L), begun(query, s1, L)))
            z = seen[:, None] * z + surprise[:, None] * moving
        else:
            z = seen[:, None] * product(query, w1, L)
        ready()
        wanted = left(value_of(plus_product(z, scores, d_), ACTIVATION), L)
        plain, deep = begun_plus(plain, wanted, turned(w2)), begun_plus(deep, wanted, turned(x_))
        if MOMENTUM:
            plain, deep, moved, wanted = done((plain, deep, begun_plus(moved, wanted, turned(s2)), wanted))
        else:
            plain, deep, wanted = done((plain, deep, wanted))
        memory = ask_memory(
            starts + (place * P + lang.minimum(part + 1, P - 1)) * (2 * p * BD * BF), w1_room, w2_room, s1_room,
            s2_room, zero, BD, BF, MOMENTUM,
        )  # fmt: skip
    y_ = seen[:, None] * plain
    if MOMENTUM:
        y_ += surprise[:, None] * moved
    y_ = plus_product(y_, left(-C.to(lang.float32) * deep, L), error)
    if RESIDUAL:
        y_ += held(query, L)
    places = y + start + (rows[:, None] * (H * D) + dims[None, :])
    lang.store(places, half(y_).to(y.dtype.element_ty), token[:, None] & (dims < D)[None, :])


@jit(do_not_specialize=["n", "g", "begin"])
def back_through_queries(  # type: ignore[no-untyped-def]
    q, k, read, inner, errors, starts, d_y, d_q, d_read, d_inner, wanted, d_asked, d_errors, d_backs, d_values, d_k,
    n, g, begin,
    H: constexpr, c: constexpr, D: constexpr, BC: constexpr, BD: constexpr, BF: constexpr, P: constexpr, L: constexpr,
    MOMENTUM: constexpr, RESIDUAL: constexpr, ACTIVATION: constexpr,
):  # fmt: skip
    """From g(y) through the queries of the chunks of a stretch: g(Q), g(read), g(inner), and what they leave for
    `walk_back` and, of g(K), for `back_through_writes` (d_k [count, g, BC, BD] float32). Grid (count g,)."""
    p: constexpr = 2 if MOMENTUM else 1
    place = lang.program_id(0).to(lang.int64)
    i, head = begin + place // g, place % g
    where = i * g + head
    start = (((head // H) * n + i) * c * H + head % H) * D
    key, error = rows_of_chunk(k, errors, start, where, room_for(BC, BD), room_for(BC, BD), H, c, D, BC, BD)
    query = tokens_of_chunk(q, start, room_for(BC, BD), H, c, D, BC, BD)
    asked = tokens_of_chunk(d_y, start, room_for(BC, BD), H, c, D, BC, BD)
    rows, dims, cols, units = down(BC, L), along(BD, L), along(BC, L), along(BF, L)
    token = rows < c
    seen = lang.load(read + where * (c * p) + rows * p, token, 0.0)
    surprise = seen
    if MOMENTUM:
        surprise = lang.load(read + where * (c * p) + (rows * p + 1), token, 0.0)
    w1_room, w2_room, s1_room, s2_room = room_for(BD, BF), room_for(BD, BF), room_for(BD, BF), room_for(BD, BF)
    scores_room, missed_room = room_for(BC, BC), room_for(BC, BC)
    x_room, d_room, wanted_room, g_z_room = room_for(BC, BF), room_for(BC, BF), room_for(BC, BF), room_for(BC, BF)
    C = inner_of_chunk(inner, where, c, BC, L)
    memory = ask_memory(starts + place * P * (2 * p * BD * BF), w1_room, w2_room, s1_room, s2_room, 0, BD, BF, MOMENTUM)
    fetched()
    ready()
    scores = put(at(scores_room, 0), -C.to(lang.float32) * product(query, turned(key), L))
    missed = put(at(missed_room, 0), -C.to(lang.float32) * product(asked, turned(error), L))
    deep, through = zeros(BC, BC, L), zeros(BC, BC, L)
    g_seen = lang.sum(deep, 1)
    g_surprise = g_seen
    for part in range(P):
        zero = unhoisted(0)
        w1, w2, s1, s2 = got_memory(memory, w1_room, w2_room, s1_room, s2_room, zero, BD, BF, MOMENTUM)
        fetched()
        ready()
        x, d = done((begun(key, w1, L), begun(error, w2, L)))
        x, slope = value_and_slope(x, ACTIVATION)
        x_, d_ = put(at(x_room, zero), x), put(at(d_room, zero), d * slope)
        z = seen[:, None] * product(query, w1, L)
        if MOMENTUM:
            z += surprise[:, None] * product(query, s1, L)
        ready()
        y1, tilt = value_and_slope(plus_product(z, scores, d_), ACTIVATION)
        tilt = half(tilt)
        wanted_ = put(at(wanted_room, zero), y1)
        share = product(asked, w2, L)
        g_seen += lang.sum(share * y1, 1)
        g_z = seen[:, None] * share
        if MOMENTUM:
            share = product(asked, s2, L)
            g_surprise += lang.sum(share * y1, 1)
            g_z += surprise[:, None] * share
        memory = ask_memory(
            starts + (place * P + lang.minimum(part + 1, P - 1)) * (2 * p * BD * BF), w1_room, w2_room, s1_room,
            s2_room, zero, BD, BF, MOMENTUM,
        )  # fmt: skip
        g_z = plus_product(g_z, missed, x_)
        g_z_ = put(at(g_z_room, zero), g_z * tilt.to(lang.float32))
        ready()
        u_rows, u_cols = wide_rows(BC, BF) + zero, wide_columns(BF, BF)
        slice_ = (place * P + part) * (BC * BF)
        by_unit = slice_ + (u_rows[:, None] * BF + u_cols[None, :])
        lang.store(wanted + by_unit, copied(wanted_, BF))
        lang.store(d_asked + by_unit, copied(g_z_, BF))
        deep = plus_product(deep, wanted_, turned(x_))
        through = plus_product(through, g_z_, turned(d_))
        by_unit = slice_ + ((down(BC, L) + zero)[:, None] * BF + units[None, :])
        lang.store(d_backs + by_unit, half(product(turned(scores), g_z_, L)).to(d_backs.dtype.element_ty))
        lang.store(d_values + by_unit, half(product(turned(missed), wanted_, L)).to(d_values.dtype.element_ty))
    g_inner = -deep * product(asked, turned(error), L) - through * product(query, turned(key), L)
    corner = where * (c * c) + (rows[:, None] * c + cols[None, :])
    square = token[:, None] & (cols < c)[None, :]
    lang.store(d_inner + corner, half(g_inner).to(d_inner.dtype.element_ty), square)
    C = inner_of_chunk(inner, where, c, BC, L)
    deep_ = put(at(scores_room, 0), -C.to(lang.float32) * deep)
    through_ = put(at(missed_room, 0), -C.to(lang.float32) * through)
    ready()
    full = place * (BC * BD) + (rows[:, None] * BD + dims[None, :])
    lang.store(d_errors + full, product(turned(deep_), asked, L))
    lang.store(d_k + full, product(turned(through_), query, L))
    # g(Q), in a second turn: in the first one no registers are left for it
    fetched()  # what was asked for once too often, before its room is asked for again
    plain, moved = zeros(BC, BD, L), zeros(BC, BD, L)
    for part in range(P):
        zero = unhoisted(0)
        u_rows, t_rows, u_cols = wide_rows(BC, BF) + zero, wide_rows(BD, BF) + zero, wide_columns(BF, BF)
        by_unit = (place * P + part) * (BC * BF) + (u_rows[:, None] * BF + u_cols[None, :])
        memory_ = starts + (place * P + part) * (2 * p * BD * BF) + (t_rows[:, None] * BF + u_cols[None, :])
        whole = (t_rows < BD)[:, None] & (u_cols < BF)[None, :]
        tile = at(g_z_room, zero)
        g_z_ = got(tile, ask(tile, d_asked + by_unit, (u_rows < BC)[:, None] & (u_cols < BF)[None, :]))
        tile = at(w1_room, zero)
        w1 = got(tile, ask(tile, memory_, whole))
        s1 = w1
        if MOMENTUM:
            tile = at(s1_room, zero)
            s1 = got(tile, ask(tile, memory_ + 2 * BD * BF, whole))
        fetched()
        ready()
        if MOMENTUM:
            plain, moved = done((begun_plus(plain, g_z_, turned(w1)), begun_plus(moved, g_z_, turned(s1))))
        else:
            plain = plus_product(plain, g_z_, turned(w1))
    queries = held(query, L)
    g_seen += lang.sum(plain * queries, 1)
    g_q = seen[:, None] * plain
    gates = where * (c * p) + rows * p
    lang.store(d_read + gates, g_seen, token)
    if MOMENTUM:
        g_surprise += lang.sum(moved * queries, 1)
        g_q += surprise[:, None] * moved
        lang.store(d_read + gates + 1, g_surprise, token)
    g_q = plus_product(g_q, through_, key)
    if RESIDUAL:
        g_q += held(asked, L)
    places = d_q + start + (rows[:, None] * (H * D) + dims[None, :])
    lang.store(places, half(g_q).to(d_q.dtype.element_ty), token[:, None] & (dims < D)[None, :])
