"""Attention of many queries to few keys that all of them see, and its gradient within a larger softmax.

    weight = exp(scale q k^T - log_sum)      d score = weight (d_out v^T - d_out out)

Forward, `log_sum` and `out` are those of these keys; backward, those of the whole softmax that they are a part of: see
attention's `in_parts`. All keys stay on the chip, so that queries are read once and what is answered is written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST = 64
"""Keys up to which these kernels are used."""
WIDEST = 128
"""Head dimension up to which they are."""
QUERIES = {2: 64, 4: 16}
"""That a program holds at a time, by the bytes of a number: with more of float32 it runs out of registers."""
PROGRAMS = 1024
"""That share the queries of all heads in the backward pass, if there are as many blocks of queries."""
SHARES = 10_000_000
"""Bytes up to which several programs of one head leave a share of the keys' and values' gradients each."""


def fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether so many keys [b, h, n, d] of such heads, all of one type, are what these kernels were written for."""
    return k.shape[2] <= MOST and k.shape[3] <= WIDEST and q.dtype == k.dtype == v.dtype


def attend_to_few(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(scale q k^T) v.

    Args:
        q: [b, h, t, d].
        k: [b, h, n, d].
        v: [b, h, n, d].
        scale: of the scores.

    Returns:
        The output [b, h, t, d], of which the heads of a token stand side by side, and the logarithm of the sum of
        exponentiated scores [b, h, t], float32.
    """
    call = _Call(q, k, v, scale)
    out, log_sum = call.like_queries(), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    _forward[(call.heads * call.blocks,)](*call.inputs, out, log_sum, *call.sizes, **call.constants)
    return out.transpose(1, 2), log_sum


def back_from_few(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The share of these keys in the gradients of q, k and v; the same bits every time.

    Args:
        d_out: [b, h, t, d], of the whole output.
        q: [b, h, t, d].
        k: [b, h, n, d].
        v: [b, h, n, d].
        out: [b, h, t, d], over all keys, of which these are some.
        log_sum: [b, h, t], float32, over all keys.
        scale: of the scores.

    Returns:
        [b, h, t, d], of which the heads of a token stand side by side, and twice [b, h, n, d].
    """
    call = _Call(q, k, v, scale)
    d_out, out = _rows(d_out), _rows(out)
    d_q, count, dim = call.like_queries(), k.shape[2], k.shape[3]
    programs, rounds = call.shared(count * dim)
    shares = torch.empty(2, *q.shape[:2], programs, count, dim, dtype=torch.float32, device=q.device)
    _backward[(call.heads * programs,)](
        *call.inputs, d_out, out, log_sum.contiguous(), d_q, *shares, *call.sizes, *d_out.stride()[:3],
        *out.stride()[:3], programs, rounds, **call.constants,
    )  # fmt: skip
    d_k, d_v = shares.sum(3).to(k.dtype)
    return d_q.transpose(1, 2), d_k, d_v


def _rows(x: Tensor) -> Tensor:
    """With the numbers of a head side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


class _Call:
    """Sizes and arguments that the kernels of one call share."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
        batch, heads, time, dim = q.shape
        count, queries = k.shape[2], QUERIES[q.element_size()]
        keys, width = max(16, triton.next_power_of_2(count)), max(16, triton.next_power_of_2(dim))
        self.heads, self.blocks = batch * heads, triton.cdiv(time, queries)
        self.inputs = tuple(_rows(x) for x in (q, k, v))
        self.sizes = (scale, time, heads, count, *(step for x in self.inputs for step in x.stride()[:3]))
        self.constants = {
            "D": dim,
            "BT": queries,
            "BN": keys,
            "BD": width,
            "INTERPRETED": not q.is_cuda,
            "num_warps": 8 if keys * width > 4096 or q.element_size() == 4 else 4,
            "num_stages": 1,  # other programs compute while one waits for its queries
        }

    def like_queries(self) -> Tensor:
        """Room for as many numbers, [b, t, h, d]."""
        q = self.inputs[0].transpose(1, 2)
        return torch.empty(q.shape, dtype=q.dtype, device=q.device)

    def shared(self, numbers: int) -> tuple[int, int]:
        """Programs of each head, of which each leaves two shares of so many float32 numbers, and blocks of queries of
        each program."""
        most = min(triton.cdiv(PROGRAMS, self.heads), SHARES // (2 * 4 * numbers * self.heads))
        rounds = triton.cdiv(self.blocks, max(1, most))
        return triton.cdiv(self.blocks, rounds), rounds


@triton.jit
def _rows_of(source, rows, step, dims, inside):  # type: ignore[no-untyped-def]
    return tl.load(source + rows[:, None] * step + dims[None, :], inside, 0.0)


@triton.jit
def _product(a, b, INTERPRETED: tl.constexpr):  # type: ignore[no-untyped-def]
    if INTERPRETED:  # it cannot multiply bfloat16: rounded, but multiplied as float32
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    q, k, v, out, log_sum, scale, time, H, count, q_row, q_head, q_step, k_row, k_head, k_step, v_row, v_head, v_step,
    D: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(time, BT)
    head, block = (tl.program_id(0) % H).to(tl.int64), tl.program_id(0) // H  # neighbours write side by side
    batch = (block // blocks).to(tl.int64)
    rows, keys, dims = (block % blocks).to(tl.int64) * BT + tl.arange(0, BT), tl.arange(0, BN), tl.arange(0, BD)
    kept, inside = (keys < count)[:, None] & (dims < D)[None, :], (rows < time)[:, None] & (dims < D)[None, :]
    queries = _rows_of(q + batch * q_row + head * q_head, rows, q_step, dims, inside)
    k_n = _rows_of(k + batch * k_row + head * k_head, keys, k_step, dims, kept)
    v_n = _rows_of(v + batch * v_row + head * v_head, keys, v_step, dims, kept)
    score = scale * _product(queries, tl.trans(k_n), INTERPRETED)
    score = tl.where((keys < count)[None, :], score, float("-inf"))
    most = tl.max(score, 1)
    weight = tl.exp(score - most[:, None])
    total = tl.sum(weight, 1)
    y = _product(weight.to(v_n.dtype), v_n, INTERPRETED) / total[:, None]
    place = (batch * time + rows)[:, None] * (H * D) + (head * D + dims)[None, :]
    tl.store(out + place, y.to(out.dtype.element_ty), inside)
    tl.store(log_sum + (batch * H + head) * time + rows, most + tl.log(total), rows < time)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    q, k, v, d_out, out, log_sum, d_q, d_k, d_v, scale, time, H, count, q_row, q_head, q_step, k_row, k_head, k_step,
    v_row, v_head, v_step, d_row, d_head, d_step, out_row, out_head, out_step, programs, rounds, D: tl.constexpr,
    BT: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    head, block = (tl.program_id(0) % H).to(tl.int64), tl.program_id(0) // H
    batch, program = (block // programs).to(tl.int64), block % programs
    keys, dims = tl.arange(0, BN), tl.arange(0, BD)
    real = keys < count
    kept = real[:, None] & (dims < D)[None, :]
    k_n = _rows_of(k + batch * k_row + head * k_head, keys, k_step, dims, kept)
    v_n = _rows_of(v + batch * v_row + head * v_head, keys, v_step, dims, kept)
    q += batch * q_row + head * q_head
    d_out += batch * d_row + head * d_head
    out += batch * out_row + head * out_head
    log_sum += (batch * H + head) * time
    d_q += batch * time * (H * D) + head * D
    # [d, n], so that a tensor core's rows are the dimensions: keys may be fewer than it has
    d_keys, d_values = tl.zeros((BD, BN), tl.float32), tl.zeros((BD, BN), tl.float32)
    for number in range(rounds):
        rows = (program * rounds + number).to(tl.int64) * BT + tl.arange(0, BT)
        inside = (rows < time)[:, None] & (dims < D)[None, :]
        queries = _rows_of(q, rows, q_step, dims, inside)
        d = _rows_of(d_out, rows, d_step, dims, inside)
        y = _rows_of(out, rows, out_step, dims, inside)
        whole = tl.load(log_sum + rows, rows < time, 0.0)
        along = tl.sum(d.to(tl.float32) * y.to(tl.float32), 1)
        score = scale * _product(queries, tl.trans(k_n), INTERPRETED)
        weight = tl.where(real[None, :], tl.exp(score - whole[:, None]), 0.0)
        d_weight = _product(d, tl.trans(v_n), INTERPRETED)
        d_score = (weight * (d_weight - along[:, None])).to(queries.dtype)
        d_queries = scale * _product(d_score, k_n, INTERPRETED)
        tl.store(d_q + rows[:, None] * (H * D) + dims[None, :], d_queries.to(d_q.dtype.element_ty), inside)
        d_keys += _product(tl.trans(queries), d_score, INTERPRETED)
        d_values += _product(tl.trans(d), weight.to(d.dtype), INTERPRETED)
    share = ((batch * H + head) * programs + program) * (count * D)
    place = share + keys[None, :] * D + dims[:, None]
    kept = real[None, :] & (dims < D)[:, None]
    tl.store(d_k + place, scale * d_keys, kept)
    tl.store(d_v + place, d_values, kept)
