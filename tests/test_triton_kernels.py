"""Triton's kernels against the float64 form: interpreted on a CPU at tiny sizes, and compiled where there is a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from titanlab import build_model
from titanlab.memory_modules.functional import deep_memory
from titanlab.platform.errors import ConfigError

CASES = Path(__file__).with_name("triton_cases.py")
_spec = importlib.util.spec_from_file_location("triton_cases", CASES)
assert _spec and _spec.loader
triton_cases = importlib.util.module_from_spec(_spec)
sys.modules["triton_cases"] = triton_cases
_spec.loader.exec_module(triton_cases)

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, which is for Linux")
pytestmark = pytest.mark.timeout(1800)  # the first test waits for the processes that compute all cases
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GATES = ("d keep", "d momentum", "d step")
BOUNDS = {"float32": (1e-4, 1e-3), "bfloat16": (5e-3, 2e-2), "float16": (5e-3, 2e-2)}
"""Of everything but the gates' gradients, and of these."""


@pytest.fixture(scope="module")
def interpreted(run_kernel_cases: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_kernel_cases(CASES, "cpu", TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def compiled(run_kernel_cases: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_kernel_cases(CASES, "cuda")


def assert_small(case: Any, errors: dict[str, float], *, slack: float = 1.0) -> None:
    others, gates = BOUNDS[case.dtype]
    large = {name: x for name, x in errors.items() if not x <= slack * (gates if name in GATES else others)}
    assert not large, f"{case.name}: {large}"


@needs_triton
@pytest.mark.parametrize("case", triton_cases.INTERPRETED, ids=lambda case: case.name)
def test_interpreted_kernels_equal_the_float64_form(case: Any, interpreted: dict[str, Any]) -> None:
    # the interpreter cuts numbers off where a GPU rounds them to the nearest bfloat16; those of several matrices
    # round there, too
    assert_small(case, interpreted[case.name], slack=3.0 if case.dtype == "bfloat16" and not case.hidden else 1.0)


@needs_triton
@pytest.mark.parametrize("series", triton_cases.REPEATED["cpu"], ids=lambda series: series.name)
def test_interpreted_kernels_give_the_same_every_time(series: Any, interpreted: dict[str, Any]) -> None:
    assert interpreted[series.name] == 0


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("case", triton_cases.ON_A_GPU, ids=lambda case: case.name)
def test_kernels_on_a_gpu_equal_the_float64_form(case: Any, compiled: dict[str, Any]) -> None:
    assert_small(case, compiled[case.name])


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("series", triton_cases.REPEATED["cuda"], ids=lambda series: series.name)
def test_a_thousand_repeats_on_a_gpu_give_the_same(series: Any, compiled: dict[str, Any]) -> None:
    assert compiled[series.name] == 0


# The choice of backend


@needs_triton
def test_an_assembler_that_errs_is_left_for_a_newer_one_or_named(tmp_path: Path) -> None:
    old = tmp_path / "ptxas"
    old.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.93'\n")
    old.chmod(0o755)
    code = (
        "from titanlab.platform.triton_assembler import assembler_fault; import os; "
        "print(assembler_fault()); print(os.environ.get('TRITON_PTXAS_PATH'))"
    )

    def say(**environment: str) -> list[str]:
        free = {name: value for name, value in os.environ.items() if name != "TRITON_PTXAS_PATH"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**free, **environment})
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    fault, _ = say(TRITON_PTXAS_PATH=str(old))
    assert "is ptxas 12.8, which assembles the kernels wrongly; set TRITON_PTXAS_PATH to that of CUDA 12.9" in fault
    assert say()[0] == ""


def call(
    backend: str, *, matrices: int = 1, dim: int = 16, hidden: int = 16, dtype: torch.dtype = torch.float32,
    chunk: int = 16,
) -> Any:  # fmt: skip
    q = torch.ones(1, 4, 1, dim, dtype=dtype)
    gate = torch.full((1, 4, 1), 0.5, dtype=dtype)
    widths = [dim, *[hidden] * (matrices - 1), dim]
    weights = [torch.zeros(1, *size, dtype=dtype) for size in pairwise(widths)]
    return deep_memory(q, q, q, gate, gate, gate, weights, chunk_size=chunk, backend=backend)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"matrices": 5}, "5 matrices"),
        ({"matrices": 2, "hidden": 520}, "520 hidden units"),
        ({"dim": 8}, "head dimension is 8"),
        ({"dim": 144}, "head dimension is 144"),
        ({"chunk": 65}, "chunk_size is 65"),
        ({"dtype": torch.float64}, "float64"),
        ({}, "not installed|on cpu, not on a CUDA device"),
    ],
    ids=str,
)
def test_triton_is_refused_where_it_cannot_run_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"backend: triton cannot run here: .*({reason})"):
        call("triton", **changes)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"type": "titans"}, "backend: triton cannot run here: "),
        ({"type": "linear"}, "backend: triton cannot run here: "),
        ({"type": "titans", "optimizer": "muon"}, "model.memory.backend: expected auto or torch"),
    ],
    ids=str,
)
def test_a_layer_passes_its_backend_on(memory: dict[str, Any], message: str) -> None:
    block = {"heads": 1, "backend": "triton", **memory}
    with pytest.raises((ValueError, ConfigError), match=message):
        model = build_model({"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": block}, 8)
        model(torch.zeros(1, 4, dtype=torch.long))


def test_auto_is_torch_on_a_cpu() -> None:
    (y, _), (expected, _) = call("auto"), call("torch")
    assert torch.equal(y, expected)


def test_the_package_imports_without_triton() -> None:
    code = "import sys; sys.modules['triton'] = None; import titanlab, titanlab.memory_modules.functional"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_call_on_a_cpu_does_not_import_triton() -> None:
    code = (
        "import sys, torch; from titanlab.memory_modules.functional import deep_memory; "
        "before = 'triton' in sys.modules; q, g = torch.ones(1, 4, 1, 16), torch.ones(1, 4, 1) / 2; "
        "deep_memory(q, q, q, g, g, g, [torch.ones(1, 16, 16)], chunk_size=2); "
        "sys.exit('triton' in sys.modules and not before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
