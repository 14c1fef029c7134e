"""CPU time a token of every rule as a function, one thread: forward, and forward + backward.

    python -m benchmarks.rules_on_cpu

Batch 2, 512 tokens, 4 heads of 32, float32, all rules in turns; the least of several rounds, since times on a shared
machine drift. `loop` is forward of the token-by-token reference, for scale.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from titanlab.memory_modules import functional, reference

BATCH, TIME, HEADS, DIM, CHUNK, ROUNDS = 2, 512, 4, 32, 64, 5


class Case(NamedTuple):
    """A rule, its loop over time, and its arguments."""

    rule: Callable[..., Any]
    loop: Callable[..., Any]
    arguments: list[Tensor]


def cases() -> dict[str, Case]:
    """Every rule whose memory is a matrix, on the same queries, keys and values; keep is about 0.98."""
    torch.manual_seed(0)
    q, v = (torch.randn(BATCH, TIME, HEADS, DIM) for _ in range(2))
    k, removed = (F.normalize(torch.randn(BATCH, TIME, HEADS, DIM), dim=-1) for _ in range(2))
    step = torch.rand(BATCH, TIME, HEADS)
    decay, channels = -0.04 * torch.rand_like(step), -0.04 * torch.rand_like(k)
    linear, loop = functional.linear_attention, reference.linear_attention_by_token
    momentum = 0.12 * torch.ones_like(step)
    return {
        "linear attention": Case(linear, loop, [q, k, v]),
        "decay of a head": Case(linear, loop, [q, k, v, decay]),
        "decay of a channel": Case(linear, loop, [q, k, v, channels]),
        "delta": Case(functional.delta_rule, reference.delta_rule_by_token, [q, k, v, step]),
        "gated delta": Case(functional.gated_delta_rule, reference.gated_delta_rule_by_token, [q, k, v, decay, step]),
        "momentum delta": Case(
            functional.momentum_delta_rule,
            reference.momentum_delta_rule_by_token,
            [q, k, v, decay.exp(), momentum, step],
        ),
        "rwkv7": Case(
            functional.rwkv7, reference.rwkv7_by_token, [q, channels, k, v, -removed, removed * step.unsqueeze(-1)]
        ),
    }


def measured(case: Case) -> tuple[float, float, float]:
    """Microseconds a token: forward, forward + backward, and forward of the loop."""
    leaves = [x.detach().requires_grad_() for x in case.arguments]
    start = time.perf_counter()
    y, _ = case.rule(*leaves, chunk_size=CHUNK)
    between = time.perf_counter()
    torch.autograd.grad(y.sum(), leaves)
    end = time.perf_counter()
    with torch.no_grad():
        case.loop(*leaves)
    a_token = 1e6 / (BATCH * TIME)
    return (between - start) * a_token, (end - start) * a_token, (time.perf_counter() - end) * a_token


def main() -> None:
    torch.set_num_threads(1)
    rows = cases()
    for case in rows.values():
        measured(case)
    rounds = [{name: measured(case) for name, case in rows.items()} for _ in range(ROUNDS)]
    print(f"{'rule':<20}{'forward':>12}{'+ backward':>12}{'loop':>12}   microseconds a token")
    for name in rows:
        least = [min(times) for times in zip(*(times[name] for times in rounds), strict=True)]
        print(f"{name:<20}" + "".join(f"{x:>12.1f}" for x in least))


if __name__ == "__main__":
    main()
