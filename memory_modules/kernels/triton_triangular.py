"""The inverse of each chunk's unit lower triangular matrix, on chip and in float32, with what it is made of."""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_products import plus_product, token_rows


@triton.jit
def inverse_of_unit_lower(lower, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """(I + lower)^-1 for a strictly lower triangular [32, 32].

    Two blocks of 16 on the diagonal by substitution, row by row: powers of `lower`, which would need no order, grow
    beyond float32 where keys repeat. Then the two together: (A 0; B C)^-1 has -C^-1 B A^-1 below.
    """
    of, at, rows = tl.arange(0, 2), tl.arange(0, 16), tl.arange(0, 32)
    own = of[:, None, None, None] == of[None, None, :, None]
    diagonal = tl.sum(tl.where(own, tl.reshape(lower, [2, 16, 2, 16]), 0.0), 2)
    solved = tl.zeros([2, 16, 16], tl.float32) + tl.where(at[:, None] == at[None, :], 1.0, 0.0)[None, :, :]
    for row in range(1, 16):
        here = at[None, :, None] == row
        factors = tl.sum(tl.where(here, diagonal, 0.0), 1)
        change = tl.sum(factors[:, :, None] * solved, 1)
        solved = tl.where(here, solved - change[:, None, :], solved)
    inverse = tl.reshape(tl.where(own, solved[:, :, None, :], 0.0), [32, 32])
    apart = (rows // 16)[:, None] != (rows // 16)[None, :]
    return inverse - _through(inverse, tl.where(apart, lower, 0.0), inverse, PRECISION)


@triton.jit
def _through(left, middle, right, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.dot(left, tl.dot(middle, right, input_precision=PRECISION), input_precision=PRECISION)


@triton.jit
def _block(  # type: ignore[no-untyped-def]
    k, inner, system, place, head, i, n, H, c, down, across,
    DK: tl.constexpr, BK: tl.constexpr, SCALED: tl.constexpr, SHIFT: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows `down` and columns `across` of what is added to I."""
    below = (down < c)[:, None] & (down[:, None] > across[None, :])
    corner = (place * c + down)[:, None] * c + across[None, :]
    if SCALED:
        keys = tl.zeros([32, 32], tl.float32)
        for first in range(0, DK, BK):
            dims = first + tl.arange(0, BK)
            dim = (dims < DK)[None, :]
            left = tl.load(token_rows(k, i, head, n, c, H, DK, down, dims), (down < c)[:, None] & dim, 0.0)
            right = tl.load(token_rows(k, i, head, n, c, H, DK, across, dims), (across < c)[:, None] & dim, 0.0)
            keys = plus_product(keys, left, tl.trans(right), TYPE, PRECISION)
        return keys * tl.load(inner + corner - SHIFT * c, below, 0.0).to(tl.float32)
    return -tl.load(system + corner, below, 0.0).to(tl.float32)


@triton.jit(do_not_specialize=["n", "H"])
def invert(  # type: ignore[no-untyped-def]
    k, inner, system, solution, n, H, c,
    DK: tl.constexpr, BK: tl.constexpr, BC: tl.constexpr, SCALED: tl.constexpr, SHIFT: tl.constexpr,
    TYPE: tl.constexpr, PRECISION: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """solution = (I + inner * K K^T below the diagonal)^-1, or (I - system)^-1, by blocks of 32. Grid (g n,).

    BC is 32 or 64; BK key channels at a time; other letters as in triton_rule_kernels.
    """
    place = tl.program_id(0).to(tl.int64)
    head, i = place // n, place % n
    rows = tl.arange(0, 32)
    corner = solution + (place * c + rows)[:, None] * c + rows[None, :]
    upper_left = _block(
        k, inner, system, place, head, i, n, H, c, rows, rows, DK, BK, SCALED, SHIFT, TYPE, PRECISION,
    )  # fmt: skip
    upper_left = inverse_of_unit_lower(upper_left, EXACT)
    inside = rows < c
    tl.store(corner, upper_left.to(solution.dtype.element_ty), inside[:, None] & inside[None, :])
    if BC == 64:
        later = rows + 32
        left = later < c
        lower_right = _block(
            k, inner, system, place, head, i, n, H, c, later, later, DK, BK, SCALED, SHIFT, TYPE, PRECISION,
        )  # fmt: skip
        lower_right = inverse_of_unit_lower(lower_right, EXACT)
        between = _block(
            k, inner, system, place, head, i, n, H, c, later, rows, DK, BK, SCALED, SHIFT, TYPE, PRECISION,
        )  # fmt: skip
        between = -_through(lower_right, between, upper_left, EXACT)
        to = solution.dtype.element_ty
        tl.store(corner + 32 * c + 32, lower_right.to(to), left[:, None] & left[None, :])
        tl.store(corner + 32 * c, between.to(to), left[:, None] & inside[None, :])
        tl.store(corner + 32, tl.zeros([32, 32], to), inside[:, None] & left[None, :])
