"""The kernel of a memory of two matrices on Hopper for what every chunk of a stretch writes, one a program.

It finds the memory at each chunk's start where a walk left it, and goes through its units a slice at a time. Letters
and tensors as in two_matrix_walk.
"""

from triton.language import constexpr

from titanlab.memory_modules.kernels.hopper.activations import value_and_slope
from titanlab.memory_modules.kernels.hopper.chunk_rooms import (
    ask_memory,
    got_memory,
    rows_of_chunk,
)
from titanlab.memory_modules.kernels.hopper.tiles import (
    along,
    ask,
    at,
    begun,
    begun_plus,
    done,
    down,
    fetched,
    got,
    half,
    held,
    jit,
    lang,
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
    key, error = rows_of_chunk(k, errors, start, where, room_for(BC, BD), room_for(BC, BD), H, c, D, BC, BD)
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
        start_ = ask_memory(starts + memory, w1_room, w2_room, s1_room, s2_room, zero, BD, BF, MOMENTUM)
        end_ = ask_memory(d_ends + memory, g_w1_room, g_w2_room, g_s1_room, g_s2_room, zero, BD, BF, MOMENTUM)
        w1, w2, s1, s2 = got_memory(start_, w1_room, w2_room, s1_room, s2_room, zero, BD, BF, MOMENTUM)
        g_w1, g_w2, g_s1, g_s2 = got_memory(end_, g_w1_room, g_w2_room, g_s1_room, g_s2_room, zero, BD, BF, MOMENTUM)
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
