"""Runs the Triton kernels of memories of one to four matrices on one device and prints their errors, in lines of JSON.

A process of its own, because Triton decides at import whether kernels are interpreted: `python triton_cases.py cpu`
under TRITON_INTERPRET=1, or `python triton_cases.py cuda`; `cuda 3 8`: every eighth case from the one of number 3.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from titanlab.memory_modules.functional import deep_memory
from titanlab.platform.recomputation import states_kept


class Case(NamedTuple):
    """One call, or several where the sequence is cut."""

    name: str
    dtype: str = "float32"
    gates: str = "both"
    residual: bool = False
    batch: int = 1
    time: int = 21
    heads: int = 1
    dim: int = 16
    chunk: int = 8
    hidden: int = 0
    """Units of a memory of several matrices; 0: one matrix."""
    depth: int = 2
    """Matrices, if there are hidden units."""
    narrower: int = 0
    """By so many units is every hidden layer narrower than the one before."""
    activation: str = "gelu"
    cuts: tuple[int, ...] = ()
    again: bool = False
    """Whether the gradient computes the call again, by torch's checkpoint."""
    kept: bool = False
    """Whether states before every chunk are kept for the gradient; has to give the same bits."""
    stretches: tuple[int, int] | None = None
    """STRETCH and SHORT_STRETCH of the kernels for Hopper, or what a stretch and a short one of three and more matrices
    have, so that few tokens are several; None: as they are."""


INTERPRETED = [
    Case("one chunk not full", time=5),
    Case("chunks that end inside the last", residual=True),
    Case("a sequence cut inside chunks", cuts=(3, 13), residual=True),
    Case("a state handed on between chunks", cuts=(8,)),
    Case("no momentum", gates="keep only", heads=2),
    Case("no momentum, residual, cut", gates="keep only", cuts=(9,), residual=True),
    Case("no gates", gates="neither", residual=True),
    Case("momentum far below keep", gates="momentum far below keep"),
    Case("momentum 0 and keep 0", gates="zeros"),
    Case("sizes that are no power of 2", batch=2, time=14, heads=2, dim=20, chunk=11),
    Case("columns in several blocks", dim=36, chunk=16, time=35),
    Case("bfloat16", dtype="bfloat16", residual=True, dim=20),
    Case("float16", dtype="float16", dim=20),
    Case("two matrices", hidden=32, time=32),
    Case("two matrices, cut inside chunks, residual", hidden=32, cuts=(3, 13), time=30, residual=True),
    Case("two matrices, no momentum", hidden=24, gates="keep only", heads=2, activation="silu"),
    Case("two matrices, no gates", hidden=16, gates="neither", residual=True, activation="tanh"),
    Case("two matrices, momentum far below keep", hidden=32, gates="momentum far below keep"),
    Case("two matrices, momentum 0 and keep 0", hidden=32, gates="zeros"),
    Case("two matrices, sizes that are no power of 2", hidden=50, batch=2, time=35, heads=2, dim=20, chunk=11),
    Case("two matrices, states computed again", hidden=16, time=18 * 8, gates="layer", activation="relu"),
    Case("one matrix, computed again", time=16, again=True),
    Case("two matrices, computed again", hidden=16, time=16, again=True),
    Case("two matrices, bfloat16, computed again", dtype="bfloat16", hidden=16, time=16, gates="layer", again=True),
    Case("two matrices, float16", dtype="float16", hidden=32, gates="layer", time=24),
    Case("two matrices, bfloat16, cut inside chunks, residual", dtype="bfloat16", hidden=32, time=30, cuts=(3, 13),
         residual=True),
    Case("two matrices, bfloat16, several stretches", dtype="bfloat16", hidden=16, time=144, gates="layer",
         stretches=(8, 3)),
    Case("two matrices, bfloat16, several stretches, states kept", dtype="bfloat16", hidden=16, time=40, gates="layer",
         stretches=(3, 2), kept=True),
    Case("two matrices, bfloat16, computed again, states kept", dtype="bfloat16", hidden=16, time=16, gates="layer",
         again=True, kept=True),
    Case("two matrices, bfloat16, no momentum", dtype="bfloat16", hidden=24, gates="keep near 1 only", heads=2,
         activation="silu"),
    Case("two matrices, bfloat16, no gates", dtype="bfloat16", hidden=16, gates="neither", residual=True,
         activation="tanh"),
    Case("two matrices, bfloat16, sizes that are no power of 2", dtype="bfloat16", hidden=50, batch=2, time=35, heads=2,
         dim=20, chunk=11, gates="layer"),
    Case("three matrices, cut inside chunks, residual", hidden=40, depth=3, cuts=(3,), time=19, residual=True),
    Case("three matrices, no momentum", hidden=24, depth=3, gates="keep only", time=16, activation="silu"),
    Case("three matrices, no gates", hidden=16, depth=3, gates="neither", residual=True, activation="tanh"),
    Case("three matrices, momentum 0 and keep 0", hidden=32, depth=3, gates="zeros", time=16, activation="relu"),
    Case("three matrices, several stretches", hidden=16, depth=3, time=40, gates="layer", stretches=(3, 2)),
    Case("three matrices, computed again", hidden=16, depth=3, time=16, gates="layer", again=True),
    Case("three matrices, float16", dtype="float16", hidden=32, depth=3, gates="layer", time=16),
    Case("three matrices, bfloat16, cut inside chunks, residual", dtype="bfloat16", hidden=32, depth=3, gates="layer",
         cuts=(3,), time=24, residual=True),
    Case("three matrices, bfloat16, no momentum", dtype="bfloat16", hidden=24, depth=3, time=16, heads=2,
         gates="keep near 1 only", activation="silu"),
    Case("three matrices, bfloat16, sizes that are no power of 2", dtype="bfloat16", hidden=50, depth=3, narrower=30,
         time=35, dim=20, chunk=11, gates="layer"),
    Case("four matrices, sizes that are no power of 2", hidden=50, depth=4, narrower=12, time=24, dim=20, chunk=11),
    Case("four matrices, bfloat16", dtype="bfloat16", hidden=40, depth=4, time=24, gates="layer"),
]  # fmt: skip

ON_A_GPU = [
    Case(f"{dtype}, {gates}, d{dim}, chunk {chunk}{', residual' if residual else ''}",
         dtype=dtype, gates=gates, residual=residual, batch=2, time=333, heads=3, dim=dim, chunk=chunk,
         cuts=(10, 75) if residual else ())
    for dtype in ("bfloat16", "float32", "float16")
    for gates, dim, chunk, residual in (
        ("both", 64, 64, False), ("layer", 64, 64, True), ("keep only", 48, 64, False), ("neither", 32, 16, True),
        ("momentum far below keep", 64, 32, False), ("zeros", 50, 48, False), ("layer", 16, 64, True),
    )
] + [
    Case(f"{dtype}, many heads", dtype=dtype, gates="layer", batch=16, time=520, heads=16, dim=64, chunk=64)
    for dtype in ("bfloat16", "float32")
] + [
    Case(f"{dtype}, {gates}, d{dim}, {hidden} hidden, chunk {chunk}{', residual' if residual else ''}",
         dtype=dtype, gates=gates, residual=residual, batch=2, time=333, heads=3, dim=dim, chunk=chunk, hidden=hidden,
         activation=activation, cuts=(10, 75) if residual else ())
    for dtype in ("bfloat16", "float32", "float16")
    for gates, dim, hidden, chunk, residual, activation in (
        ("layer", 64, 256, 64, True, "gelu"), ("keep only", 48, 96, 64, False, "silu"),
        ("momentum far below keep", 64, 128, 32, False, "gelu"), ("neither", 32, 32, 16, True, "tanh"),
        ("layer", 128, 512, 64, False, "gelu"), ("layer", 50, 200, 48, False, "gelu"),
    )
] + [
    Case(f"{dtype}, {gates}, d{dim}, {depth} matrices, {hidden} hidden, chunk {chunk}{', cut' if residual else ''}",
         dtype=dtype, gates=gates, residual=residual, batch=2, time=333, heads=3, dim=dim, chunk=chunk, hidden=hidden,
         depth=depth, narrower=narrower, activation=activation, cuts=(10, 75) if residual else ())
    for dtype in ("bfloat16", "float32", "float16")
    for gates, dim, hidden, depth, narrower, chunk, residual, activation in (
        ("layer", 64, 256, 3, 0, 64, True, "gelu"), ("keep near 1 only", 48, 96, 3, 0, 64, False, "silu"),
        ("momentum far below keep", 64, 128, 4, 0, 32, False, "gelu"), ("neither", 32, 32, 3, 0, 16, True, "tanh"),
        ("layer", 128, 512, 3, 0, 64, False, "gelu"), ("layer", 50, 200, 4, 40, 48, False, "gelu"),
    )
] + [
    Case("128 wide", dtype="bfloat16", gates="layer", batch=2, time=333, heads=3, dim=128, chunk=64),
    Case("two matrices, many heads", dtype="bfloat16", gates="layer", batch=16, time=520, heads=16, dim=64, chunk=64,
         hidden=256),
    Case("two matrices, many heads, states kept", dtype="bfloat16", gates="layer", batch=8, time=1100, heads=16, dim=64,
         chunk=64, hidden=128, kept=True),
    Case("three matrices, many heads", dtype="bfloat16", gates="layer", batch=16, time=520, heads=16, dim=64, chunk=64,
         hidden=256, depth=3),
    Case("four matrices, many heads, no momentum", dtype="bfloat16", gates="keep near 1 only", batch=10, time=520,
         heads=16, dim=64, chunk=64, hidden=256, depth=4),
    Case("131,072 tokens", dtype="bfloat16", gates="layer", time=131_072, heads=1, dim=64, chunk=64),
    Case("two matrices, 131,072 tokens", dtype="bfloat16", gates="still", time=131_072, heads=1, dim=64, chunk=64,
         hidden=256),
    Case("three matrices, 32,768 tokens", dtype="bfloat16", gates="still", time=32_768, heads=1, dim=64, chunk=64,
         hidden=256, depth=3),
]  # fmt: skip


class Repeats(NamedTuple):
    """A case that has to give the same every time."""

    count: int
    case: Case

    @property
    def name(self) -> str:
        return f"repeats of {self.case.name}"


REPEATED = {
    "cpu": [
        Repeats(1, INTERPRETED[1]),
        Repeats(1, next(case for case in INTERPRETED if case.hidden and case.dtype == "bfloat16")),
        Repeats(1, next(case for case in INTERPRETED if case.hidden and case.depth > 2)),
    ],
    "cuda": [
        Repeats(1000, ON_A_GPU[1]),
        Repeats(1000, next(case for case in ON_A_GPU if case.hidden)),
        Repeats(1000, next(case for case in ON_A_GPU if case.hidden and case.depth > 2)),
    ],
}


def arguments(case: Case, device: str) -> list[Tensor | None]:
    """q, k, v, keep, momentum, step and the matrices; q, k and v rounded to the case's type."""
    random = torch.Generator().manual_seed(0)
    tokens = (case.batch, case.time, case.heads)
    q, k, v = (torch.randn(*tokens, case.dim, generator=random) for _ in range(3))
    a, b, step = (torch.rand(*tokens, generator=random) for _ in range(3))
    keep, momentum = {
        "both": (a, b),
        "layer": (torch.sigmoid(4 + a), torch.sigmoid(4 * b - 4)),
        "still": (torch.sigmoid(9 + a), torch.sigmoid(4 * b - 4)),  # a state is left at the end of a long sequence
        "keep only": (a, None),
        "keep near 1 only": (torch.sigmoid(4 + a), None),
        "neither": (None, None),
        "momentum far below keep": (torch.full_like(a, 0.999), torch.full_like(b, 0.001)),
        "zeros": (torch.where(a < 0.2, 0.0, a), torch.where(b < 0.5, 0.0, b)),
    }[case.gates]
    unit = torch.nn.functional.normalize
    hidden = [case.hidden - layer * case.narrower for layer in range(case.depth - 1)] if case.hidden else []
    widths = (case.dim, *hidden, case.dim)
    sizes = list(pairwise(widths))
    matrices = [torch.randn(case.heads, *size, generator=random) / size[0] ** 0.5 for size in sizes]
    rounded = [x.to(getattr(torch, case.dtype)) for x in (unit(q, dim=-1), unit(k, dim=-1), v)]
    gates = [keep, momentum, step / case.chunk / len(matrices) ** 2]
    return [None if x is None else x.to(device) for x in (*rounded, *gates, *matrices)]


def outputs_and_gradients(case: Case, given: Sequence[Tensor | None], backend: str) -> dict[str, Tensor]:
    """y, the final state, and the gradients of a random sum of them all."""
    leaves = [None if x is None else x.detach().clone().requires_grad_() for x in given]
    rows, matrices = leaves[:6], leaves[6:]
    state, pieces = None, []
    for start, stop in pairwise((0, *case.cuts, case.time)):
        q, k, v, keep, momentum, step = (None if x is None else x[:, start:stop] for x in rows)
        run = partial(checkpoint, deep_memory, use_reentrant=False) if case.again else deep_memory
        y, state = run(
            q, k, v, keep, momentum, step, matrices,
            chunk_size=case.chunk, residual=case.residual, activation=case.activation, state=state, backend=backend,
        )  # fmt: skip
        pieces.append(y)
    assert state is not None
    results = {"y": torch.cat(pieces, 1)}
    for name, parts in (("memory", state.weights), ("momentum", state.momentum)):
        results |= {f"{name} {number}": part for number, part in enumerate(parts)}
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=random) for x in results.values()]
    rounded = [w.to(getattr(torch, case.dtype)) if i == 0 else w for i, w in enumerate(weights)]
    incoming = [w.to(x.device, x.dtype) for w, x in zip(rounded, results.values(), strict=True)]
    names = ("q", "k", "v", "keep", "momentum", "step", *(f"matrix {number}" for number in range(len(matrices))))
    asked = {f"d {name}": x for name, x in zip(names, leaves, strict=True) if x is not None}
    gradients = torch.autograd.grad(list(results.values()), list(asked.values()), incoming)
    return results | dict(zip(asked, gradients, strict=True))


def poison(device: str) -> None:
    """Leaves freed memory full of NaN, so that whatever reads what nothing wrote is seen."""
    if device == "cuda":
        sizes = [1 << power for power in range(8, 27, 2)]
        junk = [torch.full((size,), float("nan"), device=device) for size in sizes for _ in range(3)]
        del junk


def stretched(case: Case) -> AbstractContextManager[object]:
    """Kernels of two and more matrices take the case's stretches meanwhile."""
    if case.stretches is None:
        return nullcontext()
    if case.depth > 2:
        from titanlab.memory_modules.kernels import triton_deeper_memory

        return mock.patch.object(triton_deeper_memory, "stretches_for", lambda *sizes: case.stretches)
    from titanlab.memory_modules.kernels.hopper import two_matrix_memory

    long, short = case.stretches
    return mock.patch.multiple(two_matrix_memory, STRETCH=long, SHORT_STRETCH=short)


def errors(case: Case, device: str) -> dict[str, float]:
    """||ours - float64|| / ||float64|| of everything."""
    given = arguments(case, device)
    exact = outputs_and_gradients(case, [None if x is None else x.double() for x in given], "torch")
    poison(device)
    with states_kept(case.kept):
        ours = outputs_and_gradients(case, given, "triton")
    assert ours["y"].dtype == getattr(torch, case.dtype), ours["y"].dtype
    found = {name: ((ours[name].double() - x).norm() / x.norm()).item() for name, x in exact.items()}
    if case.kept:
        again = outputs_and_gradients(case, given, "triton")
        found["bits"] = 0.0 if all(torch.equal(again[name], x) for name, x in ours.items()) else float("inf")
    return found


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
    for case in (INTERPRETED if device == "cpu" else ON_A_GPU)[number::processes]:
        with stretched(case):
            print(json.dumps({"name": case.name, "errors": errors(case, device)}), flush=True)
    for series in REPEATED[device][number::processes]:
        changed = changes(series.case, device, series.count)
        print(json.dumps({"name": series.name, "changes": changed}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
