"""Runs the Triton kernels of the matrix rules on one device and prints their errors, a line of JSON a case.

A process of its own, because Triton decides at import whether kernels are interpreted:
`python triton_rule_cases.py cpu` under TRITON_INTERPRET=1, or `python triton_rule_cases.py cuda`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titanlab.memory_modules.functional import (
    delta_rule,
    gated_delta_rule,
    linear_attention,
    momentum_delta_rule,
    rwkv7,
)


class Case(NamedTuple):
    """One call, or several where the sequence is cut."""

    rule: str
    gates: str = "any"
    dtype: str = "float32"
    batch: int = 1
    time: int = 20
    heads: int = 1
    key: int = 16
    value: int = 16
    cuts: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        cut = f", cut at {self.cuts}" if self.cuts else ""
        sizes = f"B{self.batch} T{self.time} H{self.heads} {self.key}x{self.value}"
        return f"{self.rule}, {self.gates}, {self.dtype}, {sizes}{cut}"


RULES = ("linear", "linear, decay of a head", "linear, decay of a channel", "delta", "gated delta", "momentum", "rwkv7")

INTERPRETED = [
    *(Case(rule, time=19 if rule == "rwkv7" else 35) for rule in RULES),
    Case("momentum", time=66, key=20, value=36, cuts=(2,)),
    Case("linear, decay of a channel", time=66, key=20, value=36),
    *(Case(rule, gates="zeros", time=18) for rule in ("gated delta", "momentum")),
    Case("rwkv7", gates="zeros", time=17, cuts=(1,)),
    Case("delta", gates="one key", time=64),
    *(Case(rule, gates="layer", dtype="bfloat16", time=20, key=32) for rule in ("delta", "linear, decay of a channel")),
    Case("momentum", gates="layer", dtype="float16"),
    *(Case(rule, time=17, key=128, value=128) for rule in ("delta", "linear")),
    Case("momentum", time=35, key=96, value=128, cuts=(2,)),
    Case("linear, decay of a channel", time=35, key=96, value=72),
    Case("linear, decay of a head", time=20, key=72, value=128),
    *(Case(rule, "zeros", time=17, key=128, value=72) for rule in ("gated delta", "rwkv7")),
    *(
        Case(rule, "layer", "bfloat16", time=20, key=128, value=96)
        for rule in ("momentum", "linear, decay of a channel")
    ),
    Case("rwkv7", "layer", "float16", time=20, key=72, value=128),
]

ON_A_GPU = [
    Case(rule, gates, dtype, batch=2, time=time, heads=3, key=key, value=value, cuts=cuts)
    for dtype in ("bfloat16", "float32", "float16")
    for rule in RULES
    for gates, time, key, value, cuts in (
        ("layer", 333, 64, 64, ()), ("any", 200, 48, 64, (10, 75)), ("zeros", 130, 32, 20, ()),
    )
] + [
    Case(rule, "layer", dtype, batch=16, time=520, heads=16, key=64, value=64)
    for dtype in ("bfloat16", "float32") for rule in RULES
] + [
    Case(rule, "layer", "bfloat16", time=131_072, key=64, value=64) for rule in RULES
] + [
    Case(rule, "layer", dtype, batch=2, time=300, heads=4, key=128, value=128)
    for dtype in ("bfloat16", "float32", "float16") for rule in RULES
] + [
    Case(rule, gates, "bfloat16", batch=2, time=time, heads=4, key=key, value=value, cuts=cuts)
    for rule in RULES
    for gates, time, key, value, cuts in (
        ("any", 200, 96, 128, (10, 75)), ("zeros", 128, 128, 72, ()), ("layer", 128, 64, 128, ()),
    )
] + [
    Case(rule, "layer", dtype, batch=8, time=520, heads=16, key=128, value=128)
    for dtype in ("bfloat16", "float32") for rule in RULES
] + [Case(rule, "layer", "bfloat16", time=32_768, key=128, value=128) for rule in RULES]  # fmt: skip


def arguments(case: Case, device: str) -> dict[str, Tensor]:
    """Of one rule by name; queries, keys, values and the like rounded to the case's type."""
    random = torch.Generator().manual_seed(0)
    tokens = (case.batch, case.time, case.heads)

    def normal(width: int) -> Tensor:
        return torch.randn(*tokens, width, generator=random)

    def unit(width: int) -> Tensor:
        return torch.nn.functional.normalize(normal(width), dim=-1)

    def kept(*shape: int) -> Tensor:
        """Of what is kept, as far as a gate can have it, 0 included, or as layers start."""
        x = torch.rand(*tokens, *shape, generator=random)
        layer = torch.sigmoid(4 + x)
        return {"any": x, "zeros": torch.where(x < 0.2, 0.0, x), "layer": layer, "one key": layer}[case.gates]

    rows = {"q": unit(case.key), "k": unit(case.key), "v": normal(case.value)}
    gates: dict[str, Tensor] = {}
    if case.rule in ("delta", "gated delta"):
        gates["beta"] = torch.rand(*tokens, generator=random)
    if case.rule in ("linear, decay of a head", "gated delta"):
        gates["log_decay"] = kept().log()
    if case.rule == "linear, decay of a channel":
        gates["log_decay"] = kept(case.key).log()
    if case.rule == "momentum":
        gates = {"keep": kept(), "momentum": 0.9 * torch.rand(*tokens, generator=random)}
        gates["step"] = (1 - gates["momentum"]) * torch.rand(*tokens, generator=random)
    if case.rule == "rwkv7":
        removed, rate = unit(case.key), torch.rand(*tokens, case.key, generator=random)
        rows |= {"a": -removed, "b": removed * rate}
        gates["log_w"] = kept(case.key).log()
    if case.gates == "one key":
        rows["k"], gates["beta"] = rows["k"][:, :1].expand_as(rows["k"]), torch.ones(tokens)
    state = {"state": torch.randn(case.batch, case.heads, case.key, case.value, generator=random)}
    rounded = {name: x.to(getattr(torch, case.dtype)) for name, x in rows.items()}
    return {name: x.to(device) for name, x in (rounded | gates | state).items()}


def call(rule: str, given: dict[str, Tensor], state: Any, backend: str) -> tuple[Tensor, Any]:
    q, k, v = given["q"], given["k"], given["v"]
    common: dict[str, Any] = {"chunk_size": 16, "state": state, "backend": backend}
    if rule == "delta":
        return delta_rule(q, k, v, given["beta"], **common)
    if rule == "gated delta":
        return gated_delta_rule(q, k, v, given["log_decay"], given["beta"], **common)
    if rule == "momentum":
        return momentum_delta_rule(q, k, v, given["keep"], given["momentum"], given["step"], **common)
    if rule == "rwkv7":
        return rwkv7(q, given["log_w"], k, v, given["a"], given["b"], **common)
    return linear_attention(q, k, v, given.get("log_decay"), **common)


def outputs_and_gradients(case: Case, given: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    """y, the final state, and the gradients of a random sum of them all."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in given.items()}
    first, *rest = leaves.items()
    state: Any = leaves["state"]
    state = (state, state.flip(-1)) if case.rule == "momentum" else state
    pieces = []
    for start, stop in pairwise((0, *case.cuts, case.time)):
        cut = {name: x[:, start:stop] for name, x in (first, *rest) if name != "state"}
        y, state = call(case.rule, cut, state, backend)
        pieces.append(y)
    after: Sequence[Tensor] = state if isinstance(state, tuple) else (state,)
    results = {"y": torch.cat(pieces, 1), **{f"state {i}": x for i, x in enumerate(after)}}
    random = torch.Generator().manual_seed(1)
    incoming = [torch.randn(x.shape, generator=random) for x in results.values()]
    incoming[0] = incoming[0].to(getattr(torch, case.dtype))
    weights = [w.to(x.device, x.dtype) for w, x in zip(incoming, results.values(), strict=True)]
    gradients = torch.autograd.grad(list(results.values()), list(leaves.values()), weights)
    return results | {f"d {name}": x for name, x in zip(leaves, gradients, strict=True)}


def poison(device: str) -> None:
    """Leaves freed memory full of NaN, so that whatever reads what nothing wrote is seen."""
    if device == "cuda":
        sizes = [1 << power for power in range(8, 27, 2)]
        junk = [torch.full((size,), float("nan"), device=device) for size in sizes for _ in range(3)]
        del junk


def errors(case: Case, device: str) -> dict[str, float]:
    """||ours - float64|| / ||float64|| of everything."""
    given = arguments(case, device)
    exact = outputs_and_gradients(case, {name: x.double() for name, x in given.items()}, "torch")
    poison(device)
    ours = outputs_and_gradients(case, given, "triton")
    assert ours["y"].dtype == getattr(torch, case.dtype), ours["y"].dtype
    return {name: ((ours[name].double() - x).norm() / x.norm().clamp_min(1e-30)).item() for name, x in exact.items()}


def changes(case: Case, device: str, repeats: int) -> int:
    """How often a repeat gave another result than the first."""
    given = arguments(case, device)
    first = outputs_and_gradients(case, given, "triton")
    changed = 0
    for _ in range(repeats):
        again = outputs_and_gradients(case, given, "triton")
        changed += any(not torch.equal(again[name], x) for name, x in first.items())
    return changed


def main(device: str, number: int = 0, processes: int = 1) -> None:
    """What falls to a process of several."""
    torch.manual_seed(0)
    for case in (INTERPRETED if device == "cpu" else ON_A_GPU)[number::processes]:
        print(json.dumps({"name": case.name, "errors": errors(case, device)}), flush=True)
    repeats, cases = (1, INTERPRETED[-1:]) if device == "cpu" else (1000, [c for c in ON_A_GPU if c.time == 333][:7])
    for case in cases[number::processes]:
        print(json.dumps({"name": f"repeats of {case.name}", "changes": changes(case, device, repeats)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
