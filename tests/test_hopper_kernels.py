"""Whether the kernels for Hopper compile, fit its shared memory and spill little: asked of the compiler, without a GPU.

What they compute is tested in test_triton_kernels.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("hopper_compilation.py")
_spec = importlib.util.spec_from_file_location("hopper_compilation", SCRIPT)
assert _spec and _spec.loader
hopper_compilation = importlib.util.module_from_spec(_spec)
sys.modules["hopper_compilation"] = hopper_compilation
_spec.loader.exec_module(hopper_compilation)

has_triton = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not has_triton, reason="needs Triton, which is for Linux")
needs_gluon = pytest.mark.skipif(
    has_triton and tuple(map(int, version("triton").split(".")[:2])) < (3, 6), reason="needs Gluon of Triton 3.6"
)

SHARED = 227 * 1024
"""Bytes of shared memory that a program can have on compute capability 9.0."""
SPILLED = {64: 600, 128: 2000}
"""Bytes that a thread may put aside for want of registers, by the width of a tile."""

FIRST, *OTHERS = hopper_compilation.CASES


@needs_triton
@needs_gluon
@pytest.mark.parametrize(
    "case",
    [FIRST, *(pytest.param(case, marks=pytest.mark.slow) for case in OTHERS)],
    ids=lambda case: case.name,
)
def test_kernels_compile_for_hopper_and_fit_its_memory_and_registers(case: Any, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), case.name],
        capture_output=True,
        text=True,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    kernels = {line["kernel"]: line for line in map(json.loads, done.stdout.splitlines())}
    faults = {name: line["fault"] for name, line in kernels.items() if "fault" in line}
    assert kernels and not faults
    assert not {name: line["shared"] for name, line in kernels.items() if line["shared"] > SHARED}
    allowed = SPILLED[64 if case.dim <= 64 else 128]
    assert not {name: line["stored"] for name, line in kernels.items() if line["stored"] > allowed}
