"""Compiles the kernels of memories of three and four matrices for Hopper, where there is no GPU, as they are launched.

A process of its own, because Triton decides at import whether kernels are interpreted: `python deeper_compilation.py
'{"depth": 3, ..}'` with what `launches_of` takes prints a line of JSON for each kernel.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
from hopper_compilation import Launch, Recorder, compiled, plain_gates

MULTIPROCESSORS = 132


def launches_of(
    depth: int, dim: int, hidden: int, chunk: int, dtype: str, heads: int, momentum: bool = True
) -> list[Launch]:
    """Every kernel of the launcher once, as it launches them forward and backward; nothing is computed."""
    from triton import JITFunction

    from titanlab.memory_modules.kernels import gates_again
    from titanlab.memory_modules.kernels import triton_deeper_memory as launcher

    kernels = {name: x for name, x in vars(launcher).items() if isinstance(x, JITFunction)}
    launches: list[Launch] = []
    stand_ins = {name: Recorder(kernel, launches) for name, kernel in kernels.items()}
    rows = (1, 2 * chunk, heads, dim)
    q, k, v = (torch.zeros(rows, dtype=getattr(torch, dtype), requires_grad=True) for _ in "qkv")
    keep, carried, step = (torch.full((2, heads, chunk), 0.5, requires_grad=True) for _ in range(3))
    widths = [dim, *[hidden] * (depth - 1), dim]
    state = [torch.zeros(heads, 2 if momentum else 1, *size, requires_grad=True) for size in pairwise(widths)]
    precision, programs = (
        "tf32x3" if dtype == "float32" else "tf32",
        max(1, min(hidden // 64, MULTIPROCESSORS // heads)),
    )
    with (
        mock.patch.multiple(launcher, **stand_ins, gates_for=plain_gates, _precision=lambda _: precision),
        mock.patch.object(launcher._Call, "_programs", lambda _: programs),
        mock.patch.object(gates_again, "gates_for", plain_gates),
    ):
        gates = (keep, carried if momentum else None, step)
        results = launcher._DeeperMemory.apply("gelu", True, q, k, v, *gates, *state)
        torch.autograd.backward(results, [torch.ones_like(x) for x in results])
    assert {launch.kernel for launch in launches} == set(kernels.values()), "a kernel that is never launched"
    return list({launch.name: launch for launch in launches}.values())


def main(case: dict[str, Any]) -> None:
    from titanlab.platform.triton_assembler import choose_assembler

    choose_assembler()
    for launch in launches_of(**case):
        print(json.dumps({"kernel": launch.name, **compiled(launch)}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
