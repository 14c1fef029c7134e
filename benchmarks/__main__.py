"""All benchmarks, one after another: `make benchmark`, or without installing peers `python -m titanlab.benchmarks`."""

from __future__ import annotations

import subprocess
import sys

SCRIPTS = ("command_line_start", "rule_on_cpu", "rules_on_cpu", "sweep_overhead", "sweep_scale")
VERBS = ("layer", "model")
"""Of `titanlab bench`, with their default sizes."""


def main() -> None:
    """Runs each in a process of its own; leaves with 1 if one failed."""
    failed = []
    commands = [[f"titanlab.benchmarks.{name}"] for name in SCRIPTS] + [["titanlab", "bench", verb] for verb in VERBS]
    for command in commands:
        print(f"== {' '.join(command)}", flush=True)
        if subprocess.run([sys.executable, "-m", *command]).returncode:
            failed.append(" ".join(command))
        print(flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
