"""The kernels of one pass against float64: interpreted on a CPU at tiny sizes, and compiled where there is a GPU."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from titanlab.platform.fused_kernels import choice
from titanlab.platform.fused_kernels.choice import kernels_take, plain_torch

CASES = Path(__file__).with_name("fused_cases.py")
_spec = importlib.util.spec_from_file_location("fused_cases", CASES)
assert _spec and _spec.loader
fused_cases = importlib.util.module_from_spec(_spec)
sys.modules["fused_cases"] = fused_cases
_spec.loader.exec_module(fused_cases)

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, which is for Linux")
pytestmark = pytest.mark.timeout(900)  # the first test waits for the process that computes all cases
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

BOUNDS = {"float32": 1e-5, "bfloat16": 6e-3, "float16": 2e-3}
BLOCK = 2.0
"""How many times as far from float64 as torch's own operations a whole block in float32 may be."""


@pytest.fixture(scope="module")
def interpreted(run_kernel_cases: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_kernel_cases(CASES, "cpu", TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def compiled(run_kernel_cases: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    return run_kernel_cases(CASES, "cuda")


def assert_small(name: str, errors: dict[str, float], bound: float) -> None:
    large = {what: x for what, x in errors.items() if not x <= bound}
    assert not large, f"{name}: {large}"


@needs_triton
@pytest.mark.parametrize("case", fused_cases.INTERPRETED, ids=lambda case: case.name)
def test_interpreted_kernels_equal_float64(case: Any, interpreted: dict[str, Any]) -> None:
    # the interpreter cuts numbers off where a GPU rounds them to the nearest bfloat16
    assert_small(case.name, interpreted[case.name], BOUNDS[case.dtype] * (3 if case.dtype == "bfloat16" else 1))


@needs_triton
def test_no_interpreted_kernel_hides_what_is_no_number(interpreted: dict[str, Any]) -> None:
    assert_small("bad numbers", interpreted["bad numbers"], 0.0)


@needs_triton
@pytest.mark.parametrize("architecture", ["mac", "mag"])
def test_a_block_with_interpreted_kernels_is_as_exact(architecture: str, interpreted: dict[str, Any]) -> None:
    assert_small(architecture, interpreted[architecture], BLOCK)


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("case", fused_cases.ON_A_GPU, ids=lambda case: case.name)
def test_kernels_on_a_gpu_equal_float64(case: Any, compiled: dict[str, Any]) -> None:
    assert_small(case.name, compiled[case.name], BOUNDS[case.dtype])


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_no_kernel_on_a_gpu_hides_what_is_no_number(compiled: dict[str, Any]) -> None:
    assert_small("bad numbers", compiled["bad numbers"], 0.0)


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("architecture", ["mac", "mag"])
def test_a_block_with_kernels_on_a_gpu_is_as_exact(architecture: str, compiled: dict[str, Any]) -> None:
    assert_small(architecture, compiled[architecture], BLOCK)


def test_kernels_are_taken_for_the_types_and_devices_that_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 3)
    assert not kernels_take(x)
    monkeypatch.setattr(choice, "_runs_on", lambda device: True)
    assert kernels_take(x, None, x.bfloat16())
    assert not kernels_take(x, x.double()) and not kernels_take(x[:0]) and not kernels_take(x.long())
    with plain_torch():
        assert not kernels_take(x)
    assert kernels_take(x)


@pytest.mark.parametrize(
    ("device", "capability", "taken"),
    [("cuda", (9, 0), True), ("cuda", (8, 0), False), ("cpu", (9, 0), False), ("meta", (9, 0), False)],
)
def test_only_a_gpu_that_was_checked_runs_the_kernels(
    device: str, capability: tuple[int, int], taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(choice, "_installed", lambda: True)
    monkeypatch.setattr(choice, "_capability", lambda device: capability)
    assert choice._runs_on(torch.device(device)) == taken
    monkeypatch.setattr(choice, "_installed", lambda: False)
    assert not choice._runs_on(torch.device(device))
