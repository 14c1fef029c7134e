"""What the kernels of memories of three and more matrices share: where matrices lie, products of tiles, meetings.

Such a memory has L matrices, D x F, F x F .. F x D, one after another in a row of N numbers, number LAYER = 0 .. L-1
being IN x OUT and beginning AT; D (the head's width) and F (hidden units) are filled up with zeros to multiples of the
tiles' width T, and chunks to BC tokens. Zeros stay zeros and change nothing, as every activation is 0 at 0 and a
gradient comes to a padded unit through zeros alone; so no kernel has a mask.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_meeting import arrive, wait


@triton.jit
def before(first, units, layer: tl.constexpr, UNITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """What stands before a matrix: rows as wide as a head before the first one, by unit before the others."""
    if layer == 0:
        return first
    else:
        return units + (layer - 1) * UNITS


@triton.jit
def after(last, units, layer: tl.constexpr, L: tl.constexpr, UNITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """What stands after a matrix: rows as wide as a head after the last one, by unit after the others."""
    if layer == L - 1:
        return last
    else:
        return units + layer * UNITS


@triton.jit
def rounded(x, TYPE: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """x in TYPE, to the nearest; the interpreter, which alone asks for ieee, would cut bfloat16 off."""
    if TYPE == tl.bfloat16 and PRECISION == "ieee":
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.float32, bitcast=True).to(TYPE)
    else:
        return x.to(TYPE)


@triton.jit
def leave(target, places, x, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """Stores x, rounded to the target's type."""
    tl.store(target + places, rounded(x, target.dtype.element_ty, PRECISION))


@triton.jit
def leave_both(target, rest, places, x, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """`leave`, and what rounding to bfloat16 took from it."""
    x_ = rounded(x, target.dtype.element_ty, PRECISION)
    tl.store(target + places, x_)
    if target.dtype.element_ty == tl.bfloat16:
        leave(rest, places, x - x_.to(tl.float32), PRECISION)


@triton.jit
def found(source, places):  # type: ignore[no-untyped-def]
    """What this kernel's programs left there, read past the first-level cache, which does not hear of the others."""
    return tl.load(source + places, cache_modifier=".cg")


@triton.jit
def plus(total, a, b, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """total + a b."""
    if PRECISION == "ieee":  # the interpreter cannot multiply bfloat16
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision=PRECISION)
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def products(  # type: ignore[no-untyped-def]
    a, a_rest, b, other, rows, columns, A: tl.constexpr, B: tl.constexpr, DEPTH: tl.constexpr, TURNED: tl.constexpr,
    TWO: tl.constexpr, REST: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of a times columns of b, and if TWO of `other`, too, through DEPTH numbers; A and B: how long a row is.

    TURNED: the columns are rows of b^T, which is what lies there. REST: what rounding took from a is multiplied, too.
    """
    total = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    others = total
    for step in range(DEPTH // T):
        deep = step * T + tl.arange(0, T)
        lefts = rows[:, None] * A + deep[None, :]
        rights = columns[:, None] * B + deep[None, :] if TURNED else deep[:, None] * B + columns[None, :]
        left, right = found(a, lefts), found(b, rights)
        rest = found(a_rest, lefts) if REST else left
        right = tl.trans(right) if TURNED else right
        if REST:
            total = plus(total, rest, right, PRECISION)
        total = plus(total, left, right, PRECISION)
        if TWO:
            right = found(other, rights)
            right = tl.trans(right) if TURNED else right
            if REST:
                others = plus(others, rest, right, PRECISION)
            others = plus(others, left, right, PRECISION)
    return total, others


@triton.jit
def exact_product(  # type: ignore[no-untyped-def]
    a, a_rest, b, b_rest, rows, columns, A: tl.constexpr, B: tl.constexpr, DEPTH: tl.constexpr, TURNED: tl.constexpr,
    RESTS: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`products` of a and b with what rounding took from b (RESTS = 1), or from both of them (2)."""
    total = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for step in range(DEPTH // T):
        deep = step * T + tl.arange(0, T)
        lefts = rows[:, None] * A + deep[None, :]
        rights = columns[:, None] * B + deep[None, :] if TURNED else deep[:, None] * B + columns[None, :]
        left, right = found(a, lefts), found(b, rights)
        right = tl.trans(right) if TURNED else right
        if RESTS > 1:
            total = plus(total, found(a_rest, lefts), right, PRECISION)
        if RESTS > 0:
            right_rest = found(b_rest, rights)
            total = plus(total, left, tl.trans(right_rest) if TURNED else right_rest, PRECISION)
        total = plus(total, left, right, PRECISION)
    return total


@triton.jit
def meet(counter, arrivals, P: tl.constexpr):  # type: ignore[no-untyped-def]
    """Waits until all P programs of a head have come here and shows each what the others left; arrivals so far."""
    arrive(counter, P)
    wait(counter, arrivals + P, P)
    return arrivals + P


@triton.jit
def pair(x, where, rows, p: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gates of a chunk's tokens for W and for S (without momentum: the same again), of [n, g, BC, p]."""
    places = x + where * (rows.shape[0] * p) + rows * p
    return tl.load(places), tl.load(places + p - 1)


@triton.jit
def mixing(mix, where, p: tl.constexpr):  # type: ignore[no-untyped-def]
    """What stays of W, what goes from S to W, and what stays of S, of [n, g, p, p]."""
    places = mix + where * (p * p)
    return tl.load(places), tl.load(places + p - 1), tl.load(places + p * p - 1)
