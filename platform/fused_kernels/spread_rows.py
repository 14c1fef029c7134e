"""The gradient of a causal convolution, spread over the rows that it saw."""

import triton
import triton.language as tl


@triton.jit
def rows_of(  # type: ignore[no-untyped-def]
    x, before, start, rows, columns, time, x_step, before_step, inside, W: tl.constexpr,
):  # fmt: skip
    """Rows of x, those below 0 from the tokens before it; `x` stands at row `start`."""
    row = start + rows
    found = tl.load(
        x + rows[:, None] * x_step + columns[None, :], ((row >= 0) & (row < time))[:, None] & inside[None, :], 0.0
    ).to(tl.float32)
    if W > 1:
        if start < W - 1:  # no other tile reaches below 0
            place = tl.where(row < 0, row + (W - 1), 0)
            earlier = tl.load(
                before + place[:, None] * before_step + columns[None, :], (row < 0)[:, None] & inside[None, :], 0.0
            )
            # as the rows of x are held
            found += earlier.to(x.dtype.element_ty).to(tl.float32)
    return found


@triton.jit
def _nothing(BT: tl.constexpr, BC: tl.constexpr, W: tl.constexpr):  # type: ignore[no-untyped-def]
    """W tiles of zeros."""
    if W == 1:
        return (tl.zeros((BT, BC), tl.float32),)
    else:
        return _nothing(BT, BC, W - 1) + (tl.zeros((BT, BC), tl.float32),)


@triton.jit
def spread_rows(  # type: ignore[no-untyped-def]
    x, before, taps, time, x_row, x_step, before_row, before_step, d_u, d_x, d_before, d_taps, C,
    W: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """The gradient of row t, of the tokens before x where t < 0: sum_j tap_j d_u_{t + w - 1 - j}; and this program's
    share of that of tap j: sum_t x_t d_u_{t + w - 1 - j}."""
    tiles = tl.cdiv(time + W - 1, BT * ROUNDS)
    batch, tile = (tl.program_id(1) // tiles).to(tl.int64), (tl.program_id(1) % tiles).to(tl.int64)
    columns = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = columns < C
    shares = _nothing(BT, BC, W)
    for turn in range(ROUNDS):
        first = (tile * ROUNDS + turn) * BT - (W - 1)
        rows = first + tl.arange(0, BT)
        own = rows_of(
            x + batch * x_row + first * x_step, before + batch * before_row, first, tl.arange(0, BT), columns, time,
            x_step, before_step, inside, W,
        )  # fmt: skip
        total, added = tl.zeros((BT, BC), tl.float32), ()
        for tap in tl.static_range(W):
            row = rows + (W - 1 - tap)
            kept = ((row >= 0) & (row < time))[:, None] & inside[None, :]
            seen = tl.load(d_u + (batch * time + row)[:, None] * C + columns[None, :], kept, 0.0).to(tl.float32)
            total += tl.load(taps + columns * W + tap, inside, 0.0).to(tl.float32)[None, :] * seen
            added = added + (shares[tap] + own * seen,)  # type: ignore[assignment]
        shares = added
        here = ((rows >= 0) & (rows < time))[:, None] & inside[None, :]
        tl.store(d_x + (batch * time + rows)[:, None] * C + columns[None, :], total.to(d_x.dtype.element_ty), here)
        earlier = (rows < 0)[:, None] & inside[None, :]
        place = (batch * (W - 1) + rows + (W - 1))[:, None] * C + columns[None, :]
        tl.store(d_before + place, total.to(d_before.dtype.element_ty), earlier)
    for tap in tl.static_range(W):
        share = d_taps + (tl.program_id(1).to(tl.int64) * W + tap) * C
        tl.store(share + columns, tl.sum(shares[tap], 0), inside)
