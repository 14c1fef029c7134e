"""How long `titanlab --help` takes, in a fresh process each time.

python -m titanlab.benchmarks.command_line_start
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 10
LIMIT = 0.3


def seconds() -> float:
    """Wall time of one call, as a shell would start it."""
    began = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("titanlab"), "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Prints one table."""
    seconds()  # the first one reads from the disk and writes byte code
    times = [seconds() for _ in range(REPEATS)]
    print(f"{'':40}{'seconds':>10}{'quickest':>10}")
    print(f"{f'titanlab --help ({LIMIT} s wanted)':40}{statistics.median(times):10.3f}{min(times):10.3f}")


if __name__ == "__main__":
    main()
