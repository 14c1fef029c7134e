"""Which ptxas assembles our kernels: the one that Triton 3.6 uses for Hopper, 12.8, does so wrongly.

With it tiles 16 or 32 wide, heads of 128 and programs of 8 warps read beyond shared memory on an H100; with -O0, with
12.9 (which Triton brings for Blackwell) and with 13.0 they do not. The launchers of kernels import this.
"""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache

from triton import knobs

RIGHT = (12, 9)
"""The oldest ptxas whose code was checked on an H100."""


@cache
def choose_assembler() -> None:
    """Takes Triton's newer ptxas for this process and those it starts, unless TRITON_PTXAS_PATH names one already."""
    if "TRITON_PTXAS_PATH" in os.environ or _version(knobs.nvidia.ptxas.path) >= RIGHT:
        return
    newer = getattr(knobs.nvidia, "ptxas_blackwell", None)  # not before Triton 3.5
    if newer and _version(newer.path) >= RIGHT:
        os.environ["TRITON_PTXAS_PATH"] = newer.path


@cache
def assembler_fault() -> str:
    """Why the ptxas in use cannot be trusted; empty if it can."""
    choose_assembler()
    path = knobs.nvidia.ptxas.path
    version = _version(path)
    if version >= RIGHT:
        return ""
    wanted = ".".join(map(str, RIGHT))
    return (
        f"{path} is ptxas {'.'.join(map(str, version))}, which assembles the kernels wrongly; "
        f"set TRITON_PTXAS_PATH to that of CUDA {wanted} or later"
    )


def _version(path: str) -> tuple[int, ...]:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)
