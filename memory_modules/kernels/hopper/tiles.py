"""The operations on tiles that the kernels for Hopper are written in, on tensor cores or interpreted.

A tile lies in registers ("held", float32, laid out as a product leaves it) or in shared memory ("put", bfloat16, where
products find it). Gluon, Triton's lower level, says which, so that nothing is moved between layouts unasked; the plain
language decides that itself and moves much more. Gluon has no interpreter: under TRITON_INTERPRET=1 the same kernels
run on the plain language's operations, for which every tile is a tensor.

L stands for the layout of held tiles. A product's left factor is put, or held as `left` makes it; its right one is put.
"""

from typing import Any

import triton
import triton.language as tl
from triton import knobs
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from titanlab.memory_modules.kernels.triton_activations import tanh

INTERPRETED = bool(knobs.runtime.interpret)
jit = triton.jit if INTERPRETED else gluon.jit
lang = tl if INTERPRETED else gl
_async_load = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared  # before Triton 3.9


def layout_of_held(columns: int, warps: int = 4) -> Any:
    """L for tiles of 64 rows or a multiple, and a multiple of so many columns, held by 4 warps or by 8."""
    halves = warps // 4
    return 0 if INTERPRETED else gl.NVMMADistributedLayout([3, 0], [4, halves], [16, columns // halves, 16])


if INTERPRETED:

    @triton.jit
    def down(N: tl.constexpr, L: tl.constexpr):  # type: ignore[no-untyped-def]
        return tl.arange(0, N)

    @triton.jit
    def along(N: tl.constexpr, L: tl.constexpr):  # type: ignore[no-untyped-def]
        return tl.arange(0, N)

    @triton.jit
    def inward(N: tl.constexpr, L: tl.constexpr):  # type: ignore[no-untyped-def]
        return tl.arange(0, N)

    @triton.jit
    def wide_rows(N: tl.constexpr, W: tl.constexpr):  # type: ignore[no-untyped-def]
        return tl.arange(0, N)

    @triton.jit
    def wide_columns(N: tl.constexpr, W: tl.constexpr):  # type: ignore[no-untyped-def]
        return tl.arange(0, N)

    @triton.jit
    def room_for(R: tl.constexpr, C: tl.constexpr, COUNT: tl.constexpr = 1):  # type: ignore[no-untyped-def]
        return 0

    @triton.jit
    def unhoisted(x):  # type: ignore[no-untyped-def]
        return x

    @triton.jit
    def at(room, number):  # type: ignore[no-untyped-def]
        return room

    @triton.jit
    def zeros(R: tl.constexpr, C: tl.constexpr, L: tl.constexpr):  # type: ignore[no-untyped-def]
        return tl.zeros([R, C], tl.float32)

    @triton.jit
    def half(x):  # type: ignore[no-untyped-def]
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.float32, bitcast=True)

    @triton.jit
    def put(place, x):  # type: ignore[no-untyped-def]
        return half(x)

    @triton.jit
    def ask(place, places, mask):  # type: ignore[no-untyped-def]
        return tl.load(places, mask, 0.0)

    @triton.jit
    def got(place, asked):  # type: ignore[no-untyped-def]
        return asked

    @triton.jit
    def fetched():  # type: ignore[no-untyped-def]
        pass

    @triton.jit
    def ready():  # type: ignore[no-untyped-def]
        pass

    @triton.jit
    def turned(x):  # type: ignore[no-untyped-def]
        return tl.trans(x)

    @triton.jit
    def copied(x, W: tl.constexpr):  # type: ignore[no-untyped-def]
        return x

    @triton.jit
    def fast_tanh(x):  # type: ignore[no-untyped-def]
        return tanh(x)

    @triton.jit
    def held(x, L: tl.constexpr):  # type: ignore[no-untyped-def]
        return x.to(tl.float32)

    @triton.jit
    def left(x, L: tl.constexpr):  # type: ignore[no-untyped-def]
        return half(x)

    @triton.jit
    def left_of(x, L: tl.constexpr):  # type: ignore[no-untyped-def]
        return x

    @triton.jit
    def product(a, b, L: tl.constexpr):  # type: ignore[no-untyped-def]
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")

    @triton.jit
    def plus_product(total, a, b):  # type: ignore[no-untyped-def]
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")

    @triton.jit
    def begun(a, b, L: tl.constexpr):  # type: ignore[no-untyped-def]
        return product(a, b, L)

    @triton.jit
    def begun_plus(total, a, b):  # type: ignore[no-untyped-def]
        return plus_product(total, a, b)

    @triton.jit
    def done(products):  # type: ignore[no-untyped-def]
        return products

    @triton.jit
    def rest_of(x):  # type: ignore[no-untyped-def]
        return x - half(x)

else:

    @gluon.jit
    def down(N: gl.constexpr, L: gl.constexpr):  # type: ignore[no-untyped-def]
        """0 .. N - 1, one for each row of held tiles."""
        return gl.arange(0, N, gl.SliceLayout(1, L))

    @gluon.jit
    def along(N: gl.constexpr, L: gl.constexpr):  # type: ignore[no-untyped-def]
        """0 .. N - 1, one for each column of held tiles."""
        return gl.arange(0, N, gl.SliceLayout(0, L))

    @gluon.jit
    def inward(N: gl.constexpr, L: gl.constexpr):  # type: ignore[no-untyped-def]
        """0 .. N - 1, one for each column of left factors."""
        return gl.arange(0, N, gl.SliceLayout(0, gl.DotOperandLayout(0, L, 2)))

    @gluon.jit
    def wide_rows(N: gl.constexpr, W: gl.constexpr):  # type: ignore[no-untyped-def]
        """0 .. N - 1, one for each row of tiles W wide that are copied, 16 bytes a thread."""
        T: gl.constexpr = gl.BlockedLayout([1, 8], [256 // W, W // 8], [gl.num_warps(), 1], [1, 0])
        return gl.arange(0, N, gl.SliceLayout(1, T))

    @gluon.jit
    def wide_columns(N: gl.constexpr, W: gl.constexpr):  # type: ignore[no-untyped-def]
        """The same for each column."""
        T: gl.constexpr = gl.BlockedLayout([1, 8], [256 // W, W // 8], [gl.num_warps(), 1], [1, 0])
        return gl.arange(0, N, gl.SliceLayout(0, T))

    @gluon.jit
    def room_for(R: gl.constexpr, C: gl.constexpr, COUNT: gl.constexpr = 1):  # type: ignore[no-untyped-def]
        """Shared memory for so many tiles of R x C."""
        S: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128 if C >= 64 else 64, element_bitwidth=16, rank=2)
        return gl.allocate_shared_memory(gl.bfloat16, [COUNT, R, C], S)

    @gluon.jit
    def unhoisted(x):  # type: ignore[no-untyped-def]
        """x, of which LLVM does not know that it is the same in every turn of a loop.

        LLVM takes what does not change out of loops; here that is some hundred addresses, which no register is left
        for. What is computed from an unhoisted 0 stays where it is used.
        """
        return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=gl.int32, is_pure=False, pack=1)

    @gluon.jit
    def at(room, number):  # type: ignore[no-untyped-def]
        """The room's tile of that number."""
        return room.index(number)

    @gluon.jit
    def zeros(R: gl.constexpr, C: gl.constexpr, L: gl.constexpr):  # type: ignore[no-untyped-def]
        """A held tile."""
        return gl.full([R, C], 0.0, gl.float32, L)

    @gluon.jit
    def half(x):  # type: ignore[no-untyped-def]
        """bfloat16, to the nearest; the interpreter would cut it off."""
        return x.to(gl.bfloat16)

    @gluon.jit
    def put(place, x):  # type: ignore[no-untyped-def]
        """Puts a held tile there."""
        place.store(x.to(gl.bfloat16))
        return place

    @gluon.jit
    def ask(place, places, mask):  # type: ignore[no-untyped-def]
        """Begins to copy a tile there from device memory, zeros where the mask is off."""
        _async_load(place, places, mask)
        async_copy.commit_group()
        return 0

    @gluon.jit
    def got(place, asked):  # type: ignore[no-untyped-def]
        """The tile that `ask` brought there, after `fetched`."""
        return place

    @gluon.jit
    def fetched():  # type: ignore[no-untyped-def]
        """Waits for everything that was asked for."""
        async_copy.wait_group(0)

    @gluon.jit
    def ready():  # type: ignore[no-untyped-def]
        """Shows products what was put since."""
        fence_async_shared()

    @gluon.jit
    def turned(x):  # type: ignore[no-untyped-def]
        """The transposed tile, put."""
        return x.permute([1, 0])

    @gluon.jit
    def copied(x, W: gl.constexpr):  # type: ignore[no-untyped-def]
        """A put tile W wide, to be stored at the places of `wide_rows`."""
        return x.load(gl.BlockedLayout([1, 8], [256 // W, W // 8], [gl.num_warps(), 1], [1, 0]))

    @gluon.jit
    def fast_tanh(x):  # type: ignore[no-untyped-def]
        """tanh within 2^-11, four times as exact as bfloat16, in one instruction."""
        return gl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)

    @gluon.jit
    def held(x, L: gl.constexpr):  # type: ignore[no-untyped-def]
        """A put tile in registers."""
        half = x.load(gl.DotOperandLayout(0, L, 2))
        return gl.convert_layout(half, L).to(gl.float32)

    @gluon.jit
    def left(x, L: gl.constexpr):  # type: ignore[no-untyped-def]
        """A held tile as a left factor."""
        return gl.convert_layout(x.to(gl.bfloat16), gl.DotOperandLayout(0, L, 2))

    @gluon.jit
    def left_of(x, L: gl.constexpr):  # type: ignore[no-untyped-def]
        """A put tile as a left factor that is held."""
        return x.load(gl.DotOperandLayout(0, L, 2))

    @gluon.jit
    def product(a, b, L: gl.constexpr):  # type: ignore[no-untyped-def]
        """a b, held."""
        total = gl.full([a.shape[0], b.shape[1]], 0.0, gl.float32, L)
        return warpgroup_mma(a, b, total, use_acc=False)

    @gluon.jit
    def plus_product(total, a, b):  # type: ignore[no-untyped-def]
        """total + a b, held; total held or begun."""
        return warpgroup_mma(a, b, total)

    @gluon.jit
    def begun(a, b, L: gl.constexpr):  # type: ignore[no-untyped-def]
        """a b, begun: for `begun_plus`, `plus_product` and `done` alone. Until it is done a and b must stay where they
        are, and nothing in between may need a barrier: Triton does not count what such a product reads."""
        total = gl.full([a.shape[0], b.shape[1]], 0.0, gl.float32, L)
        return warpgroup_mma(a, b, total, use_acc=False, is_async=True)

    @gluon.jit
    def begun_plus(total, a, b):  # type: ignore[no-untyped-def]
        """total + a b, begun; total held or begun."""
        return warpgroup_mma(a, b, total, is_async=True)

    @gluon.jit
    def done(products):  # type: ignore[no-untyped-def]
        """The tiles of a tuple of two begun products or more, held, once all that was begun has ended. Left factors
        that are held are named there, too, so that they stay where they are so long."""
        return warpgroup_mma_wait(0, deps=products)

    @gluon.jit
    def rest_of(x):  # type: ignore[no-untyped-def]
        """What rounding a held tile to bfloat16 takes from it; two numbers at a time, as one alone is slow to round."""
        rounded = gl.inline_asm_elementwise(
            "{ .reg .b32 t; cvt.rn.bf16x2.f32 t, $3, $2; shl.b32 $0, t, 16; and.b32 $1, t, 0xffff0000; }",
            "=f,=f,f,f", [x], dtype=gl.float32, is_pure=True, pack=2,
        )  # fmt: skip
        return x - rounded
