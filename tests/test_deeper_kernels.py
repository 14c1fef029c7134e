"""Whether the kernels of three and four matrices compile for Hopper, fit its shared memory and spill little, no GPU.

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

SCRIPT = Path(__file__).with_name("deeper_compilation.py")
has_triton = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(
    not has_triton or tuple(map(int, version("triton").split(".")[:2])) < (3, 6), reason="needs Triton 3.6"
)

SHARED = 227 * 1024
"""Bytes of shared memory that a program can have on compute capability 9.0."""
SPILLED = 600
"""Bytes that a thread may put aside for want of registers."""


KERNELS = {"walk", "walk again", "walk_back", "answer", "back_through_queries"}


@needs_triton
@pytest.mark.timeout(900)  # one kernel after another, of deep loops
@pytest.mark.parametrize(
    "case",
    [
        {"depth": 3, "dim": 64, "hidden": 256, "chunk": 64, "dtype": "bfloat16", "heads": 16},
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in (
                {"depth": 4, "dim": 128, "hidden": 512, "chunk": 64, "dtype": "bfloat16", "heads": 256},
                {"depth": 4, "dim": 64, "hidden": 256, "chunk": 64, "dtype": "float32", "heads": 16},
                {"depth": 3, "dim": 50, "hidden": 32, "chunk": 16, "dtype": "float16", "heads": 2, "momentum": False},
            )
        ),
    ],
    ids=lambda case: f"{case['depth']} matrices, {case['hidden']} hidden, {case['dtype']}",
)
def test_kernels_compile_for_hopper_and_fit_its_memory_and_registers(case: dict[str, Any], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(case)],
        capture_output=True,
        text=True,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    kernels = {line["kernel"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(kernels) == KERNELS
    assert not {name: line for name, line in kernels.items() if line["shared"] > SHARED or line["stored"] > SPILLED}
