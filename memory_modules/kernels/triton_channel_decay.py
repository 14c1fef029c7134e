"""Triton kernels of `channel_decay`: scores between a chunk's tokens whose key channels decay each at its own rate.

A chunk is cut into blocks of 16 tokens. Inside a block the decay between two tokens is formed as a product, factor by
factor. Between a token t of block I and a token s of an earlier one it is the product of two, from s to the start of I
and from there to t, so those scores are matrix products. Exponents are sums of logs, never differences, and at most 0.

The gradient of a log needs the pairs s < j <= t that its token decays. Between blocks both products have gradients of
their own, whose sums are over t >= j or s < j alone; inside a block it is the pairs with t >= j less those with s >= j.
EARLY queries read the state of the token before: decays end at t - 1, and s < t.

Tensors: query, key, log_decay and their gradients [b, n c, H, D]; asks, writes [g, n, c, D], the query decayed from the
chunk's start and the key to its end; scores [g, n, c, c]; last [g, n, D]. Letters as in triton_rule_kernels.
"""

import triton
import triton.language as tl

from titanlab.memory_modules.kernels.triton_products import token_rows


@triton.jit
def _logs(log_decay, head, i, n, c, H, D: tl.constexpr, rows, dims):  # type: ignore[no-untyped-def]
    """Logs of decays; exp(-200) is 0, and unlike -inf it may be multiplied by 0."""
    inside = ((rows >= 0) & (rows < c))[:, None] & (dims < D)[None, :]
    logs = tl.load(token_rows(log_decay, i, head, n, c, H, D, rows, dims), inside, 0.0)
    return tl.where(logs < -200.0, -200.0, logs)  # NaN stays NaN


@triton.jit
def _sums(mask, x, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of the rows of x that the mask names, a row of sums for each row of it."""
    return tl.dot(tl.where(mask, 1.0, 0.0), x, input_precision=PRECISION)


@triton.jit
def _plus(total, a, b, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision=PRECISION)


@triton.jit
def _to_start_of(block, logs, rows, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """Decays from each token of the earlier blocks to the start of one; 0 for other tokens."""
    until = (rows[:, None] < rows[None, :]) & (rows < 16 * block)[None, :]
    return tl.where((rows < 16 * block)[:, None], tl.exp(_sums(until, logs, PRECISION)), 0.0)


@triton.jit(do_not_specialize=["n", "H"])
def scores_forward(  # type: ignore[no-untyped-def]
    query, key, log_decay, asks, writes, last, scores, n, H, c,
    D: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr, ASKS: tl.constexpr, WRITES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores of one query and key; with ASKS asks, with WRITES writes and last. Grid (g n,); BK channels at a time."""
    place = tl.program_id(0).to(tl.int64)
    head, i = place // n, place % n
    rows, steps = tl.arange(0, BC), tl.arange(0, 16)
    token, block, at = rows < c, rows // 16, rows % 16
    seen = rows[None, :] <= rows[:, None] - EARLY
    near, between = tl.zeros([BC, 16], tl.float32), tl.zeros([BC, BC], tl.float32)
    for channel in range(0, D, BK):
        dims = channel + tl.arange(0, BK)
        dim = dims < D
        wide = token[:, None] & dim[None, :]
        own = (place * c + rows)[:, None] * D + dims[None, :]
        logs = _logs(log_decay, head, i, n, c, H, D, rows, dims)
        k = tl.load(token_rows(key, i, head, n, c, H, D, rows, dims), wide, 0.0).to(tl.float32)
        q = tl.load(token_rows(query, i, head, n, c, H, D, rows, dims), wide, 0.0).to(tl.float32)
        if ASKS:
            tl.store(asks + own, (q * tl.exp(_sums(seen, logs, PRECISION))).to(asks.dtype.element_ty), wide)
        if WRITES:
            left = tl.exp(_sums(rows[None, :] > rows[:, None], logs, PRECISION))
            tl.store(writes + own, (k * left).to(writes.dtype.element_ty), wide)
            tl.store(last + place * D + dims, tl.exp(tl.sum(logs, 0)), dim)
        if BC > 16:
            q *= tl.exp(_sums(seen & (block[:, None] == block[None, :]), logs, PRECISION))
            for first in range(1, BC // 16):
                keys = tl.trans(k * _to_start_of(first, logs, rows, PRECISION))
                between = _plus(between, tl.where((block == first)[:, None], q, 0.0), keys, PRECISION)
        decays = tl.zeros([BC, BK], tl.float32)
        for t in range(16):
            here = block * 16 + t
            asked = tl.load(token_rows(query, i, head, n, c, H, D, here, dims), (here < c)[:, None] & dim[None, :], 0.0)
            if EARLY:
                score = tl.sum(asked.to(tl.float32) * decays * k, 1)
            decay = tl.exp(_logs(log_decay, head, i, n, c, H, D, here, dims))
            decays = tl.where((at < t)[:, None], decays * decay, tl.where((at == t)[:, None], 1.0, 0.0))
            if not EARLY:
                score = tl.sum(asked.to(tl.float32) * decays * k, 1)
            near += tl.where((steps == t)[None, :], score[:, None], 0.0)
    if BC > 16:
        apart = token[:, None] & token[None, :] & (block[:, None] != block[None, :])
        tl.store(scores + (place * c + rows)[:, None] * c + rows[None, :], between.to(scores.dtype.element_ty), apart)
    later = (block * 16)[:, None] + steps[None, :]
    to = scores + (place * c + later) * c + rows[:, None]
    tl.store(to, near.to(scores.dtype.element_ty), token[:, None] & (later < c))


@triton.jit(do_not_specialize=["n", "H"])
def queries_backward(  # type: ignore[no-untyped-def]
    query, key_0, key_1, log_decay, d_asks, d_scores_0, d_scores_1, d_query, d_log, n, H, c,
    D: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr, KEYS: tl.constexpr, FIRST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """d_query from d_asks and the scores with each key, and its part of d_log, added unless FIRST. Grid (g n,
    blocks of BK channels)."""
    place = tl.program_id(0).to(tl.int64)
    head, i = place // n, place % n
    rows, dims = tl.arange(0, BC), tl.program_id(1) * BK + tl.arange(0, BK)
    token, dim, block, at = rows < c, dims < D, rows // 16, rows % 16
    wide, square = token[:, None] & dim[None, :], token[:, None] & token[None, :]
    seen = rows[None, :] <= rows[:, None] - EARLY
    decays, result = tl.zeros([BC, BK], tl.float32), tl.zeros([BC, BK], tl.float32)
    for step in range(16):
        s = 15 - step
        here = block * 16 + s
        inside = (here < c)[:, None] & dim[None, :]
        # a score of two tokens with nothing between them holds no decay
        following = tl.exp(_logs(log_decay, head, i, n, c, H, D, here + 1, dims))
        decays = tl.where((at > s + EARLY)[:, None], decays * following, 0.0)
        for one in tl.static_range(KEYS):
            key = key_0 if one == 0 else key_1
            d_scores = d_scores_0 if one == 0 else d_scores_1
            k = tl.load(token_rows(key, i, head, n, c, H, D, here, dims), inside, 0.0).to(tl.float32)
            weight = tl.load(d_scores + (place * c + rows) * c + here, token & (here < c), 0.0).to(tl.float32)
            result += weight[:, None] * decays * k
        decays += tl.where((at == s + EARLY)[:, None], 1.0, 0.0)
    logs = _logs(log_decay, head, i, n, c, H, D, rows, dims)
    inner = seen & (block[:, None] == block[None, :])
    if BC > 16:
        between = tl.zeros([BC, BK], tl.float32)
        for one in tl.static_range(KEYS):
            key = key_0 if one == 0 else key_1
            d_scores = d_scores_0 if one == 0 else d_scores_1
            k = tl.load(token_rows(key, i, head, n, c, H, D, rows, dims), wide, 0.0).to(tl.float32)
            weights = tl.load(d_scores + (place * c + rows)[:, None] * c + rows[None, :], square, 0.0)
            for first in range(1, BC // 16):
                keys = k * _to_start_of(first, logs, rows, PRECISION)
                chosen = tl.where((block == first)[:, None], weights, 0.0)
                between = _plus(between, chosen, keys, PRECISION)
        result += between * tl.exp(_sums(inner, logs, PRECISION))
    q = tl.load(token_rows(query, i, head, n, c, H, D, rows, dims), wide, 0.0).to(tl.float32)
    later = rows[:, None] <= rows[None, :] - EARLY
    change = _sums(later & (block[:, None] == block[None, :]), q * result, PRECISION)
    from_start = tl.exp(_sums(seen, logs, PRECISION))
    from_start *= tl.load(d_asks + (place * c + rows)[:, None] * D + dims[None, :], wide, 0.0).to(tl.float32)
    change += _sums(later, q * from_start, PRECISION)
    result += from_start
    for one in tl.static_range(KEYS):
        key = key_0 if one == 0 else key_1
        d_scores = d_scores_0 if one == 0 else d_scores_1
        before = rows - EARLY
        near = token & (at >= EARLY)
        weight = tl.load(d_scores + (place * c + rows) * c + before, near, 0.0).to(tl.float32)
        k = tl.load(token_rows(key, i, head, n, c, H, D, before, dims), near[:, None] & dim[None, :], 0.0)
        result += weight[:, None] * k.to(tl.float32)
    tl.store(token_rows(d_query, i, head, n, c, H, D, rows, dims), result.to(d_query.dtype.element_ty), wide)
    to = token_rows(d_log, i, head, n, c, H, D, rows, dims)
    if not FIRST:
        change += tl.load(to, wide, 0.0)
    tl.store(to, change, wide)


@triton.jit(do_not_specialize=["n", "H"])
def keys_backward(  # type: ignore[no-untyped-def]
    query_0, query_1, key, log_decay, last, d_writes, d_last, d_scores_0, d_scores_1, d_key, d_log, n, H, c,
    D: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, QUERIES: tl.constexpr, LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """d_key from d_writes and the scores with each query, and its part of d_log, which is added; query_1 is early. With
    LAST d_last's too. Grid (g n, blocks of BK channels)."""
    place = tl.program_id(0).to(tl.int64)
    head, i = place // n, place % n
    rows, dims = tl.arange(0, BC), tl.program_id(1) * BK + tl.arange(0, BK)
    token, dim, block, at = rows < c, dims < D, rows // 16, rows % 16
    wide, square = token[:, None] & dim[None, :], token[:, None] & token[None, :]
    decays, result = tl.zeros([BC, BK], tl.float32), tl.zeros([BC, BK], tl.float32)
    for t in range(16):
        here = block * 16 + t
        inside = (here < c)[:, None] & dim[None, :]
        corner = (place * c + here) * c + rows
        if QUERIES == 2:
            q = tl.load(token_rows(query_1, i, head, n, c, H, D, here, dims), inside, 0.0).to(tl.float32)
            weight = tl.load(d_scores_1 + corner, token & (here < c), 0.0).to(tl.float32)
            result += weight[:, None] * tl.where((at < t - 1)[:, None], decays, 0.0) * q
        decay = tl.exp(_logs(log_decay, head, i, n, c, H, D, here, dims))
        decays = tl.where((at < t)[:, None], decays * decay, 0.0)
        q = tl.load(token_rows(query_0, i, head, n, c, H, D, here, dims), inside, 0.0).to(tl.float32)
        weight = tl.load(d_scores_0 + corner, token & (here < c), 0.0).to(tl.float32)
        result += weight[:, None] * decays * q
        decays += tl.where((at == t)[:, None], 1.0, 0.0)
    logs = _logs(log_decay, head, i, n, c, H, D, rows, dims)
    k = tl.load(token_rows(key, i, head, n, c, H, D, rows, dims), wide, 0.0).to(tl.float32)
    same = block[:, None] == block[None, :]
    change = -_sums(same & (rows[:, None] <= rows[None, :]), k * result, PRECISION)
    if BC > 16:
        for first in range(1, BC // 16):
            between = tl.zeros([BC, BK], tl.float32)
            for one in tl.static_range(QUERIES):
                query = query_0 if one == 0 else query_1
                d_scores = d_scores_0 if one == 0 else d_scores_1
                q = tl.load(token_rows(query, i, head, n, c, H, D, rows, dims), wide, 0.0).to(tl.float32)
                q *= tl.exp(_sums(same & (rows[None, :] <= rows[:, None] - one), logs, PRECISION))
                weights = tl.load(d_scores + (place * c + rows)[:, None] * c + rows[None, :], square, 0.0)
                chosen = tl.where((block == first)[:, None], weights, 0.0)
                between = _plus(between, tl.trans(chosen), q, PRECISION)
            between *= _to_start_of(first, logs, rows, PRECISION)
            decayed = (rows[None, :] < rows[:, None]) & (rows < 16 * first)[:, None]
            change += _sums(decayed, k * between, PRECISION)
            result += between
    to_end = tl.exp(_sums(rows[None, :] > rows[:, None], logs, PRECISION))
    to_end *= tl.load(d_writes + (place * c + rows)[:, None] * D + dims[None, :], wide, 0.0).to(tl.float32)
    change += _sums(rows[None, :] < rows[:, None], k * to_end, PRECISION)
    result += to_end
    for one in tl.static_range(QUERIES):
        query = query_0 if one == 0 else query_1
        d_scores = d_scores_0 if one == 0 else d_scores_1
        near = (rows + one < c) & (at + one < 16)
        weight = tl.load(d_scores + (place * c + rows + one) * c + rows, near, 0.0).to(tl.float32)
        q = tl.load(token_rows(query, i, head, n, c, H, D, rows + one, dims), near[:, None] & dim[None, :], 0.0)
        result += weight[:, None] * q.to(tl.float32)
    if LAST:
        kept = tl.load(last + place * D + dims, dim, 0.0) * tl.load(d_last + place * D + dims, dim, 0.0)
        change += kept[None, :]
    tl.store(token_rows(d_key, i, head, n, c, H, D, rows, dims), result.to(d_key.dtype.element_ty), wide)
    to = token_rows(d_log, i, head, n, c, H, D, rows, dims)
    tl.store(to, tl.load(to, wide, 0.0) + change, wide)
