"""The kernels of a memory of two matrices on Hopper that take every chunk of a stretch by itself, one a program.

They find the memory at each chunk's start where a walk left it, and go through its units a slice at a time, so that
nothing is a sum over programs. Letters and tensors as in two_matrix_walk, and read
[n, g, c, p], inner [n, g, c, c].
"""

from triton.language import constexpr

from titanlab.memory_modules.kernels.hopper.activations import value_and_slope, value_of
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
)  # fmt: skip


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
    key, error = _rows_of_chunk(k, errors, start, where, room_for(BC, BD), room_for(BC, BD), H, c, D, BC, BD)
    query = _tokens(q, start, room_for(BC, BD), H, c, D, BC, BD)
    C = _inner(inner, where, c, BC, L)
    rows, dims = down(BC, L), along(BD, L)
    token = rows < c
    seen = lang.load(read + where * (c * p) + rows * p, token, 0.0)
    surprise = seen
    if MOMENTUM:
        surprise = lang.load(read + where * (c * p) + (rows * p + 1), token, 0.0)
    w1_room, w2_room, s1_room, s2_room = room_for(BD, BF), room_for(BD, BF), room_for(BD, BF), room_for(BD, BF)
    scores_room, x_room, d_room = room_for(BC, BC), room_for(BC, BF), room_for(BC, BF)
    memory = _ask_memory(
        starts + place * P * (2 * p * BD * BF), w1_room, w2_room, s1_room, s2_room, 0, BD, BF, MOMENTUM
    )
    fetched()
    ready()
    scores = put(at(scores_room, 0), -C.to(lang.float32) * product(query, turned(key), L))
    plain, moved, deep = zeros(BC, BD, L), zeros(BC, BD, L), zeros(BC, BC, L)
    for part in range(P):
        zero = unhoisted(0)
        w1, w2, s1, s2 = _got_memory(memory, w1_room, w2_room, s1_room, s2_room, zero, BD, BF, MOMENTUM)
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
        memory = _ask_memory(
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
    key, error = _rows_of_chunk(k, errors, start, where, room_for(BC, BD), room_for(BC, BD), H, c, D, BC, BD)
    query = _tokens(q, start, room_for(BC, BD), H, c, D, BC, BD)
    asked = _tokens(d_y, start, room_for(BC, BD), H, c, D, BC, BD)
    rows, dims, cols, units = down(BC, L), along(BD, L), along(BC, L), along(BF, L)
    token = rows < c
    seen = lang.load(read + where * (c * p) + rows * p, token, 0.0)
    surprise = seen
    if MOMENTUM:
        surprise = lang.load(read + where * (c * p) + (rows * p + 1), token, 0.0)
    w1_room, w2_room, s1_room, s2_room = room_for(BD, BF), room_for(BD, BF), room_for(BD, BF), room_for(BD, BF)
    scores_room, missed_room = room_for(BC, BC), room_for(BC, BC)
    x_room, d_room, wanted_room, g_z_room = room_for(BC, BF), room_for(BC, BF), room_for(BC, BF), room_for(BC, BF)
    C = _inner(inner, where, c, BC, L)
    memory = _ask_memory(
        starts + place * P * (2 * p * BD * BF), w1_room, w2_room, s1_room, s2_room, 0, BD, BF, MOMENTUM
    )
    fetched()
    ready()
    scores = put(at(scores_room, 0), -C.to(lang.float32) * product(query, turned(key), L))
    missed = put(at(missed_room, 0), -C.to(lang.float32) * product(asked, turned(error), L))
    deep, through = zeros(BC, BC, L), zeros(BC, BC, L)
    g_seen = lang.sum(deep, 1)
    g_surprise = g_seen
    for part in range(P):
        zero = unhoisted(0)
        w1, w2, s1, s2 = _got_memory(memory, w1_room, w2_room, s1_room, s2_room, zero, BD, BF, MOMENTUM)
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
        memory = _ask_memory(
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
    C = _inner(inner, where, c, BC, L)
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


@jit(do_not_specialize=["n", "g", "begin"])
def back_through_writes(  # type: ignore[no-untyped-def]
    k, write, errors, starts, d_keys, d_ends, d_part, d_v, d_k, d_write, d_mix, n, g, begin,
    H: constexpr, c: constexpr, D: constexpr, BC: constexpr, BD: constexpr, BF: constexpr, P: constexpr, L: constexpr,
    MOMENTUM: constexpr, RESIDUAL: constexpr, ACTIVATION: constexpr,
):  # fmt: skip
    """g(K), g(write) and g(mix) of the chunks of a stretch, from what `walk_back` left and, of g(K),
    `back_through_queries` (d_part). Grid (count g,)."""
    p: constexpr = 2 if MOMENTUM else 1
    place = lang.program_id(0).to(lang.int64)
    i, head = begin + place // g, place % g
    where = i * g + head
    start = (((head // H) * n + i) * c * H + head % H) * D
    key, error = _rows_of_chunk(k, errors, start, where, room_for(BC, BD), room_for(BC, BD), H, c, D, BC, BD)
    rows, dims = down(BC, L), along(BD, L)
    token = rows < c
    w1_room, w2_room, s1_room, s2_room = room_for(BD, BF), room_for(BD, BF), room_for(BD, BF), room_for(BD, BF)
    g_w1_room, g_w2_room, g_s1_room, g_s2_room = (
        room_for(BD, BF), room_for(BD, BF), room_for(BD, BF), room_for(BD, BF),
    )  # fmt: skip
    x_room, d_room, g_z_room = room_for(BC, BF), room_for(BC, BF), room_for(BC, BF)
    total = lang.load(d_part + place * (BC * BD) + (rows[:, None] * BD + dims[None, :]))
    written_d, felt_d, written_x, felt_x = zeros(BC, BD, L), zeros(BC, BD, L), zeros(BC, BD, L), zeros(BC, BD, L)
    d_kept, d_moved, d_carried = 0.0, 0.0, 0.0
    for part in range(P):
        zero = unhoisted(0)
        u_rows, u_cols = wide_rows(BC, BF) + zero, wide_columns(BF, BF)
        by_unit = (place * P + part) * (BC * BF) + (u_rows[:, None] * BF + u_cols[None, :])
        tile = at(g_z_room, zero)
        g_z = got(tile, ask(tile, d_keys + by_unit, (u_rows < BC)[:, None] & (u_cols < BF)[None, :]))
        memory = (place * P + part) * (2 * p * BD * BF)
        start_ = _ask_memory(starts + memory, w1_room, w2_room, s1_room, s2_room, zero, BD, BF, MOMENTUM)
        end_ = _ask_memory(d_ends + memory, g_w1_room, g_w2_room, g_s1_room, g_s2_room, zero, BD, BF, MOMENTUM)
        w1, w2, s1, s2 = _got_memory(start_, w1_room, w2_room, s1_room, s2_room, zero, BD, BF, MOMENTUM)
        g_w1, g_w2, g_s1, g_s2 = _got_memory(end_, g_w1_room, g_w2_room, g_s1_room, g_s2_room, zero, BD, BF, MOMENTUM)
        fetched()
        ready()
        x, d, total = done((begun(key, w1, L), begun(error, w2, L), begun_plus(total, g_z, turned(w1))))
        x, slope = value_and_slope(x, ACTIVATION)
        x_, d_ = put(at(x_room, zero), x), put(at(d_room, zero), d * slope)
        d_kept += _product_sum(held(g_w1, L), held(w1, L)) + _product_sum(held(g_w2, L), held(w2, L))
        if MOMENTUM:
            s = held(s1, L)
            d_moved += _product_sum(held(g_w1, L), s)
            d_carried += _product_sum(held(g_s1, L), s)
            s = held(s2, L)
            d_moved += _product_sum(held(g_w2, L), s)
            d_carried += _product_sum(held(g_s2, L), s)
        ready()
        written_d, written_x = begun_plus(written_d, d_, turned(g_w1)), begun_plus(written_x, x_, turned(g_w2))
        if MOMENTUM:
            felt_d, felt_x = begun_plus(felt_d, d_, turned(g_s1)), begun_plus(felt_x, x_, turned(g_s2))
            written_d, written_x, felt_d, felt_x = done((written_d, written_x, felt_d, felt_x))
        else:
            written_d, written_x = done((written_d, written_x))
    gates, keys, mistakes = where * (c * p) + rows * p, held(key, L), held(error, L)
    lang.store(d_write + gates, -lang.sum(written_d * keys, 1) - lang.sum(written_x * mistakes, 1), token)
    lang.store(d_mix + where * (p * p), d_kept)
    total -= lang.load(write + gates, token, 0.0)[:, None] * written_d
    if MOMENTUM:
        lang.store(d_write + gates + 1, -lang.sum(felt_d * keys, 1) - lang.sum(felt_x * mistakes, 1), token)
        lang.store(d_mix + where * 4 + 1, d_moved)
        lang.store(d_mix + where * 4 + 2, 0.0)
        lang.store(d_mix + where * 4 + 3, d_carried)
        total -= lang.load(write + gates + 1, token, 0.0)[:, None] * felt_d
    mask, tokens = token[:, None] & (dims < D)[None, :], start + (rows[:, None] * (H * D) + dims[None, :])
    if RESIDUAL:
        total -= lang.load(d_v + tokens, mask, 0.0).to(lang.float32)
    lang.store(d_k + tokens, half(total).to(d_k.dtype.element_ty), mask)


@jit
def _product_sum(a, b):  # type: ignore[no-untyped-def]
    """The sum of all of a * b."""
    return lang.sum(lang.sum(a * b, 1), 0)


@jit
def _rows_of_chunk(  # type: ignore[no-untyped-def]
    x, errors, start, where, x_room, error_room, H: constexpr, c: constexpr, D: constexpr, BC: constexpr, BD: constexpr
):  # fmt: skip
    """K, say, and E of a chunk, on their way to their rooms."""
    rows, cols = wide_rows(BC, BD), wide_columns(BD, BD)
    mask = (rows < c)[:, None] & (cols < D)[None, :]
    room = at(x_room, 0)
    tokens = got(room, ask(room, x + start + (rows[:, None] * (H * D) + cols[None, :]), mask))
    places = errors + where * (c * D) + (rows[:, None] * D + cols[None, :])
    room = at(error_room, 0)
    return tokens, got(room, ask(room, places, mask))


@jit
def _tokens(  # type: ignore[no-untyped-def]
    x, start, room, H: constexpr, c: constexpr, D: constexpr, BC: constexpr, BD: constexpr
):  # fmt: skip
    """A chunk's rows of x, on their way to their room."""
    rows, cols = wide_rows(BC, BD), wide_columns(BD, BD)
    mask = (rows < c)[:, None] & (cols < D)[None, :]
    tile = at(room, 0)
    return got(tile, ask(tile, x + start + (rows[:, None] * (H * D) + cols[None, :]), mask))


@jit
def _inner(inner, where, c: constexpr, BC: constexpr, L: constexpr):  # type: ignore[no-untyped-def]
    rows, cols = down(BC, L), along(BC, L)
    corner = where * (c * c) + (rows[:, None] * c + cols[None, :])
    return lang.load(inner + corner, (rows < c)[:, None] & (cols < c)[None, :], 0.0)


@jit
def _ask_memory(  # type: ignore[no-untyped-def]
    memory, w1_room, w2_room, s1_room, s2_room, zero, BD: constexpr, BF: constexpr, MOMENTUM: constexpr
):  # fmt: skip
    """A slice of the memory at a chunk's start."""
    rows, cols = wide_rows(BD, BF) + zero, wide_columns(BF, BF)
    tile, whole = memory + (rows[:, None] * BF + cols[None, :]), (rows < BD)[:, None] & (cols < BF)[None, :]
    w1 = ask(at(w1_room, zero), tile, whole)
    w2 = ask(at(w2_room, zero), tile + BD * BF, whole)
    s1, s2 = w1, w2
    if MOMENTUM:
        s1 = ask(at(s1_room, zero), tile + 2 * BD * BF, whole)
        s2 = ask(at(s2_room, zero), tile + 3 * BD * BF, whole)
    return w1, w2, s1, s2


@jit
def _got_memory(  # type: ignore[no-untyped-def]
    asked, w1_room, w2_room, s1_room, s2_room, zero, BD: constexpr, BF: constexpr, MOMENTUM: constexpr
):  # fmt: skip
    """What `_ask_memory` asked for."""
    w1, w2 = got(at(w1_room, zero), asked[0]), got(at(w2_room, zero), asked[1])
    s1, s2 = w1, w2
    if MOMENTUM:
        s1, s2 = got(at(s1_room, zero), asked[2]), got(at(s2_room, zero), asked[3])
    return w1, w2, s1, s2
