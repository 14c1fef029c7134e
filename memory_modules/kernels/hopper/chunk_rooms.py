"""How kernels that take a chunk by itself bring what they need to its rooms; letters as in two_matrix_walk."""

from triton.language import constexpr

from titanlab.memory_modules.kernels.hopper.tiles import (
    along,
    ask,
    at,
    down,
    got,
    jit,
    lang,
    wide_columns,
    wide_rows,
)


@jit
def rows_of_chunk(  # type: ignore[no-untyped-def]
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
def tokens_of_chunk(  # type: ignore[no-untyped-def]
    x, start, room, H: constexpr, c: constexpr, D: constexpr, BC: constexpr, BD: constexpr
):  # fmt: skip
    """A chunk's rows of x, on their way to their room."""
    rows, cols = wide_rows(BC, BD), wide_columns(BD, BD)
    mask = (rows < c)[:, None] & (cols < D)[None, :]
    tile = at(room, 0)
    return got(tile, ask(tile, x + start + (rows[:, None] * (H * D) + cols[None, :]), mask))


@jit
def inner_of_chunk(inner, where, c: constexpr, BC: constexpr, L: constexpr):  # type: ignore[no-untyped-def]
    rows, cols = down(BC, L), along(BC, L)
    corner = where * (c * c) + (rows[:, None] * c + cols[None, :])
    return lang.load(inner + corner, (rows < c)[:, None] & (cols < c)[None, :], 0.0)


@jit
def ask_memory(  # type: ignore[no-untyped-def]
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
def got_memory(  # type: ignore[no-untyped-def]
    asked, w1_room, w2_room, s1_room, s2_room, zero, BD: constexpr, BF: constexpr, MOMENTUM: constexpr
):  # fmt: skip
    """What `_ask_memory` asked for."""
    w1, w2 = got(at(w1_room, zero), asked[0]), got(at(w2_room, zero), asked[1])
    s1, s2 = w1, w2
    if MOMENTUM:
        s1, s2 = got(at(s1_room, zero), asked[2]), got(at(s2_room, zero), asked[3])
    return w1, w2, s1, s2
