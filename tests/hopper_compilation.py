"""Compiles the kernels of a two-matrix memory for Hopper, as its launcher launches them, where there is no GPU.

A process of its own, because Triton decides at import whether kernels are interpreted: `python hopper_compilation.py`
prints a line of JSON for each kernel of each case, `python hopper_compilation.py NAME` for those of one case.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor


class Case(NamedTuple):
    """Sizes that one set of kernels is compiled for."""

    name: str
    dim: int = 64
    hidden: int = 256
    chunk: int = 64
    momentum: bool = True
    residual: bool = False
    activation: str = "gelu"
    multiprocessors: int = 132
    """Of the GPU; the fewer, the more units a program of the forward walk takes."""


CASES = [
    Case("64 wide, 256 hidden"),
    Case("64 wide, 32 hidden, no momentum", hidden=32, momentum=False, residual=True, activation="silu"),
    Case("128 wide, 512 hidden", dim=128, hidden=512),
    Case("64 wide, 256 hidden, few multiprocessors", multiprocessors=4),
    Case("50 wide, 200 hidden", dim=50, hidden=200, chunk=48, residual=True, activation="tanh"),
    Case("64 wide, 64 hidden, relu", hidden=64, activation="relu"),
]
TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int32: "*i32"}


class Launch(NamedTuple):
    """What a kernel is called with."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return f"{self.kernel.__name__}{' again' if self.arguments.get('AGAIN') else ''}"


class Recorder:
    """Stands where a kernel does and writes down how it is launched."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: object) -> Recorder:
        return self

    def __call__(self, *given: Any, **named: Any) -> None:
        arguments = dict(zip(self.kernel.arg_names, given, strict=False))
        arguments |= {name: x for name, x in named.items() if name in self.kernel.arg_names}
        options = {name: x for name, x in named.items() if name not in self.kernel.arg_names}
        self.launches.append(Launch(self.kernel, arguments, options))


def launches_of(case: Case) -> list[Launch]:
    """Every kernel of the launcher once, as it launches them forward and backward; nothing is computed."""
    from triton import JITFunction

    from titanlab.memory_modules.kernels import gates_again
    from titanlab.memory_modules.kernels.hopper import two_matrix_memory as launcher

    kernels = {name: x for name, x in vars(launcher).items() if isinstance(x, JITFunction)}
    launches: list[Launch] = []
    stand_ins = {name: Recorder(kernel, launches) for name, kernel in kernels.items()}
    places = 2 if case.momentum else 1
    q, k, v = (torch.zeros(1, 2 * case.chunk, 2, case.dim, dtype=torch.bfloat16, requires_grad=True) for _ in "qkv")
    keep, momentum, step = (torch.full((2, 2, case.chunk), 0.5, requires_grad=True) for _ in range(3))
    sizes = ((case.dim, case.hidden), (case.hidden, case.dim))
    first, second = (torch.zeros(2, places, *size, requires_grad=True) for size in sizes)
    with (
        mock.patch.multiple(
            launcher, **stand_ins, gates_for=plain_gates, multiprocessors=lambda _: case.multiprocessors
        ),
        mock.patch.object(gates_again, "gates_for", plain_gates),
    ):
        results = launcher.HopperTwoMatrixMemory.apply(
            case.activation, case.residual, q, k, v, keep, momentum if case.momentum else None, step, first, second
        )
        torch.autograd.backward(results, [torch.ones_like(x) for x in results])
    assert {launch.kernel for launch in launches} == set(kernels.values()), "a kernel that is never launched"
    return list({launch.name: launch for launch in launches}.values())


def plain_gates(keep: Tensor | None, momentum: Tensor | None, step: Tensor, dtype: torch.dtype) -> Any:
    """The chunks' gates in the types that a GPU's kernel makes them."""
    from titanlab.memory_modules.kernels.chunk_gates import chunk_gates

    gates = chunk_gates(keep, momentum, step)
    return gates._replace(inner=gates.inner.to(dtype))


def compiled(launch: Launch) -> dict[str, int]:
    """Bytes of shared memory that a program takes, and that a thread spills in the worst of its functions, stored and
    loaded."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    signature, constants, aligned = {}, {}, {}
    for number, parameter in enumerate(launch.kernel.params):
        name, x = parameter.name, launch.arguments[parameter.name]
        if parameter.is_constexpr:
            signature[name], constants[name] = "constexpr", x
        elif isinstance(x, Tensor):
            signature[name], aligned[(number,)] = TYPES[x.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    language = GluonASTSource if launch.kernel.is_gluon() else ASTSource
    source, log = language(launch.kernel, signature, constants, aligned), io.StringIO()
    with contextlib.redirect_stdout(log), knobs.compilation.scope(), knobs.nvidia.scope():
        knobs.compilation.always_compile = knobs.nvidia.dump_ptxas_log = True
        done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch.options)
    said = log.getvalue()
    found = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert found, f"ptxas said nothing of spills: {said}"
    return {
        "shared": done.metadata.shared,
        "stored": max(int(stored) for stored, _ in found),
        "loaded": max(int(loaded) for _, loaded in found),
    }


def main(names: list[str]) -> None:
    from titanlab.platform.triton_assembler import choose_assembler

    choose_assembler()
    for case in CASES:
        for launch in launches_of(case) if case.name in names or not names else ():
            line: dict[str, Any] = {"case": case.name, "kernel": launch.name}
            try:
                line |= compiled(launch)
            except Exception as error:  # what the compiler raises; the others are compiled
                line["fault"] = f"{type(error).__name__}: {error}"
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
