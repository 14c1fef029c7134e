"""The matrix rules' Triton kernels against the float64 form: interpreted on a CPU, compiled where there is a GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from titanlab.memory_modules.functional import (
    delta_rule,
    gated_delta_rule,
    linear_attention,
    momentum_delta_rule,
    rwkv7,
)
from titanlab.platform.memory import MEMORY_MODULES

CASES = Path(__file__).with_name("triton_rule_cases.py")
_spec = importlib.util.spec_from_file_location("triton_rule_cases", CASES)
assert _spec and _spec.loader
triton_rule_cases = importlib.util.module_from_spec(_spec)
sys.modules["triton_rule_cases"] = triton_rule_cases
_spec.loader.exec_module(triton_rule_cases)

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, which is for Linux")
pytestmark = pytest.mark.timeout(1800)  # the first test waits for the processes that compute all cases
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GATES = {f"d {gate}" for gate in ("beta", "log_decay", "keep", "momentum", "step", "log_w")}
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


def changes_of(found: dict[str, Any]) -> list[int]:
    return [changes for name, changes in found.items() if name.startswith("repeats of ")]


@needs_triton
@pytest.mark.parametrize("case", triton_rule_cases.INTERPRETED, ids=lambda case: case.name)
def test_interpreted_kernels_of_the_rules_equal_the_float64_form(case: Any, interpreted: dict[str, Any]) -> None:
    # the interpreter cuts numbers off where a GPU rounds them to the nearest bfloat16
    assert_small(case, interpreted[case.name], slack=4.0 if case.dtype == "bfloat16" else 1.0)


@needs_triton
def test_interpreted_kernels_of_the_rules_give_the_same_every_time(interpreted: dict[str, Any]) -> None:
    assert set(changes_of(interpreted)) == {0}


@pytest.mark.gpu
@needs_gpu
@needs_triton
@pytest.mark.parametrize("case", triton_rule_cases.ON_A_GPU, ids=lambda case: case.name)
def test_kernels_of_the_rules_on_a_gpu_equal_the_float64_form(case: Any, compiled: dict[str, Any]) -> None:
    assert_small(case, compiled[case.name])


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_a_thousand_repeats_of_every_rule_on_a_gpu_give_the_same(compiled: dict[str, Any]) -> None:
    assert set(changes_of(compiled)) == {0}


# The choice of backend


def call(rule: str, backend: str, *, key: int = 16, value: int = 16, dtype: torch.dtype = torch.float32) -> Any:
    k, v = torch.ones(1, 4, 1, key, dtype=dtype), torch.ones(1, 4, 1, value, dtype=dtype)
    gate, how = torch.full((1, 4, 1), 0.5, dtype=dtype), {"chunk_size": 2, "backend": backend}
    return {
        "delta": lambda: delta_rule(k, k, v, gate, **how),
        "gated delta": lambda: gated_delta_rule(k, k, v, -gate, gate, **how),
        "linear": lambda: linear_attention(k, k, v, **how),
        "linear, decay of a channel": lambda: linear_attention(k, k, v, -k, **how),
        "momentum": lambda: momentum_delta_rule(k, k, v, gate, gate, gate, **how),
        "rwkv7": lambda: rwkv7(k, -k, k, v, -k, k, **how),
    }[rule]()


CALLED = ("delta", "gated delta", "linear", "linear, decay of a channel", "momentum", "rwkv7")


@pytest.mark.parametrize("rule", CALLED)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": 8}, "head dimension is 8"),
        ({"value": 136}, "head dimension is 136"),
        ({"dtype": torch.float64}, "float64"),
        ({}, "not installed|on cpu, not on a CUDA device"),
    ],
    ids=str,
)
def test_a_rule_refuses_triton_where_it_cannot_run_with_the_reason(
    rule: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=rf"backend: triton cannot run here: .*({reason})"):
        call(rule, "triton", **changes)


@pytest.mark.parametrize("rule", CALLED)
def test_a_rule_names_the_backends_there_are(rule: str) -> None:
    with pytest.raises(ValueError, match=r"backend.*trition.*auto, torch, triton"):
        call(rule, "trition")


@pytest.mark.parametrize("rule", CALLED)
def test_auto_is_torch_on_a_cpu_for_every_rule(rule: str) -> None:
    assert torch.equal(call(rule, "auto")[0], call(rule, "torch")[0])


@pytest.mark.parametrize(
    "kind",
    ["delta", "gated_delta", "gla", "lightning", "linear_attention", "mamba2", "momentum_delta", "retnet", "rwkv7"],
)
def test_a_layer_hands_its_backend_to_the_rule(kind: str) -> None:
    layer = MEMORY_MODULES.get(kind)(heads=2, backend="triton").build(32)
    with pytest.raises(ValueError, match="backend: triton cannot run here: .*(not installed|on cpu)"):
        layer(torch.zeros(1, 4, 32), layer.initial_state(1))


def test_rules_on_a_cpu_do_not_import_triton() -> None:
    code = (
        "import sys, torch; from titanlab.memory_modules.functional import delta_rule, linear_attention; "
        "before = 'triton' in sys.modules; q, g = torch.ones(1, 4, 1, 16), torch.ones(1, 4, 1) / 2; "
        "delta_rule(q, q, q, g, chunk_size=2); linear_attention(q, q, q, -q, chunk_size=2); "
        "sys.exit('triton' in sys.modules and not before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
