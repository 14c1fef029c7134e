"""All benchmarks, one after another: `python -m benchmarks`, or `make benchmark`, which installs what they need."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("command_line_start", "rule_on_cpu", "rules_on_cpu", "sweep_overhead", "sweep_scale")


def main() -> None:
    """Runs each in a process of its own; leaves with 1 if one failed."""
    failed = []
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode:
            failed.append(name)
        print(flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
