"""The slice of a memory that one program works on, tiles of BD x BF in memory that is its own.

The steps are functions that are not inlined: each holds registers only while it runs. In one long loop the compiler
holds the addresses of everything at once and spills them, some 7 kB a thread of the backward kernel instead of 0.3.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_products import loaded, stored


@triton.jit(noinline=True)
def copy(  # type: ignore[no-untyped-def]
    source, target, BD: tl.constexpr, BF: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """TILES tiles from one place to another."""
    tile = tl.arange(0, BD)[:, None] * BF + tl.arange(0, BF)[None, :]
    for number in tl.static_range(TILES):
        tl.store(target + number * BD * BF + tile, tl.load(source + number * BD * BF + tile))
    tl.debug_barrier()


@triton.jit(noinline=True)
def move(  # type: ignore[no-untyped-def]
    room, state_1, state_2, head, part, OUT: tl.constexpr,
    F: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr, p: tl.constexpr,
):  # fmt: skip
    """This program's slice of a head's state into its room, or out of it."""
    MATRIX: tl.constexpr = D == BD and F % BF == 0
    dims, units = tl.arange(0, BD), part * BF + tl.arange(0, BF)
    inside = (dims < D)[:, None] & (units < F)[None, :]
    tile = tl.arange(0, BD)[:, None] * BF + tl.arange(0, BF)[None, :]
    for number in tl.static_range(p):
        first = state_1 + (head * p + number) * (D * F) + (dims[:, None] * F + units[None, :])
        second = state_2 + (head * p + number) * (D * F) + (units[None, :] * D + dims[:, None])
        here = room + 2 * number * BD * BF + tile
        if OUT:
            stored(first, tl.load(here), inside, MATRIX)
            stored(second, tl.load(here + BD * BF), inside, MATRIX)
        else:
            tl.store(here, loaded(first, inside, MATRIX))
            tl.store(here + BD * BF, loaded(second, inside, MATRIX))
    tl.debug_barrier()
