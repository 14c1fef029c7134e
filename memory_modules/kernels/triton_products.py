"""What the Triton kernels of memories share: products of rounded factors, places of a chunk's tokens.

TYPE and PRECISION are those of the products; sums are float32.
"""

import triton
import triton.language as tl


@triton.jit
def factor(x, TYPE: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    # ieee is asked for by the interpreter alone, which cannot multiply bfloat16: rounded, but multiplied as float32
    return x.to(TYPE).to(tl.float32) if PRECISION == "ieee" else x.to(TYPE)


@triton.jit
def product(a, b, TYPE: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.dot(factor(a, TYPE, PRECISION), factor(b, TYPE, PRECISION), input_precision=PRECISION)


@triton.jit
def plus_product(total, a, b, TYPE: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.dot(factor(a, TYPE, PRECISION), factor(b, TYPE, PRECISION), total, input_precision=PRECISION)


@triton.jit
def token_rows(x, chunk, head, n, c, H, D: tl.constexpr, rows, columns):  # type: ignore[no-untyped-def]
    """Places of a chunk's tokens in [b, n c, H, D]."""
    first = ((head // H) * n + chunk) * c * H + head % H  # one number, so that only rows and columns cost registers
    return x + first * D + (rows[:, None] * (H * D) + columns[None, :])


@triton.jit
def loaded(places, mask, WHOLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """What stands at these places, 0 where the mask is off; WHOLE: it is off nowhere."""
    return tl.load(places) if WHOLE else tl.load(places, mask, 0.0)


@triton.jit
def stored(places, x, mask, WHOLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Puts x there where the mask is on; WHOLE: it is on everywhere."""
    if WHOLE:
        tl.store(places, x)
    else:
        tl.store(places, x, mask)
