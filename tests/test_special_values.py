"""NaN and very small numbers in kernels, interpreted on a CPU: what torch shows, they show."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("triton_special_values.py")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, which is for Linux")
def test_kernels_show_nan_and_keep_what_is_small() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    told = subprocess.run([sys.executable, str(CASES)], capture_output=True, text=True, env=environment, timeout=280)
    assert told.returncode == 0, told.stderr
    cases = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(cases) == 10
    wrong = [case for case in cases if case["found"] != case["expected"]]
    assert not wrong
