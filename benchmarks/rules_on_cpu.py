"""CPU time a token of every rule as a function, one thread: forward, and forward + backward.

    python -m titanlab.benchmarks.rules_on_cpu

Batch 2, 512 tokens, 4 heads of 32, chunks of 64, float32, all rules in turns; the least of several rounds, since times
on a shared machine drift. `loop` is forward of the token-by-token reference, for scale; `fla` are the plain PyTorch
forms of flash-linear-attention (`pip install 'titanlab[bench]'`), the only ones it has for a CPU, and how far they are
from ours. Then every registered memory as a layer with its defaults.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from titanlab.benchmarks.naive_peers import naive_peers
from titanlab.memory_modules import functional, reference
from titanlab.platform.memory import MEMORY_MODULES

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


def timed(rule: Callable[..., Tensor], arguments: list[Tensor]) -> tuple[float, float]:
    """Microseconds a token: forward, and forward + backward."""
    leaves = [x.detach().requires_grad_() for x in arguments]
    start = time.perf_counter()
    y = rule(*leaves)
    between = time.perf_counter()
    torch.autograd.grad(y.sum(), leaves)
    end = time.perf_counter()
    a_token = 1e6 / (BATCH * TIME)
    return (between - start) * a_token, (end - start) * a_token


def loop_timed(case: Case) -> float:
    """Microseconds a token of the token-by-token form, forward only."""
    start = time.perf_counter()
    with torch.no_grad():
        case.loop(*case.arguments)
    return (time.perf_counter() - start) * 1e6 / (BATCH * TIME)


def layer_of(kind: str) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A registered memory with its default settings but for its heads and chunk, and its input."""
    config = MEMORY_MODULES[kind]
    settings = {"heads": HEADS, "chunk_size": CHUNK}
    known = {name: value for name, value in settings.items() if name in config.model_fields}
    layer = config.model_validate(known).build(HEADS * DIM)
    return lambda x: layer(x, layer.initial_state(BATCH))[0], [torch.randn(BATCH, TIME, HEADS * DIM)]


def rules_table() -> None:
    """The functions, each next to its token-by-token form and to fla's."""
    rows, peers = cases(), naive_peers(CHUNK)
    ours = {name: partial(_output, case.rule) for name, case in rows.items()}
    least: dict[str, list[float]] = {}
    for turn in range(ROUNDS + 1):  # the first warms up
        for name, case in rows.items():
            times = [*timed(ours[name], case.arguments), loop_timed(case)]
            times += timed(peers[name], case.arguments) if name in peers else ()
            least[name] = times if turn < 2 else [min(pair) for pair in zip(least[name], times, strict=True)]
    print(f"microseconds a token, one thread, B{BATCH} T{TIME}, {HEADS} heads of {DIM}, the least of {ROUNDS} rounds")
    print("loop: our token-by-token form, forward; deviation: ||fla - ours|| / ||ours||")
    if not peers:
        print("fla is not installed: pip install 'titanlab[bench]'")
    print(f"{'rule':<20}{'forward':>12}{'+ backward':>12}{'loop':>12}{'fla':>12}{'+ backward':>12}{'deviation':>12}")
    for name, times in least.items():
        away = ""
        if name in peers:
            expected = ours[name](*rows[name].arguments)
            away = f"{float((peers[name](*rows[name].arguments) - expected).norm() / expected.norm()):>12.1e}"
        print(f"{name:<20}" + "".join(f"{x:>12.1f}" for x in times) + away)


def layers_table() -> None:
    """Every registered memory as a layer, projections included."""
    print(f"\nmicroseconds a token as layers of width {HEADS * DIM}, projections included")
    print(f"{'memory':<20}{'forward':>12}{'+ backward':>12}")
    for kind in MEMORY_MODULES:
        rule, arguments = layer_of(kind)
        rounds = [timed(rule, arguments) for _ in range(3)]
        print(f"{kind:<20}" + "".join(f"{min(times):>12.1f}" for times in zip(*rounds[1:], strict=True)))


def _output(rule: Callable[..., Any], *arguments: Tensor) -> Tensor:
    return rule(*arguments, chunk_size=CHUNK)[0]


def main() -> None:
    torch.set_num_threads(1)
    rules_table()
    layers_table()


if __name__ == "__main__":
    main()
