"""The rule alone on a CPU against titans-pytorch's NeuralMemory: forward + backward, one thread, in one run.

    python -m titanlab.benchmarks.rule_on_cpu        (needs: pip install 'titanlab[bench]')

Both at batch 2, 512 tokens, 1 head of 64, depth 2, expansion 2, chunk 64, momentum. They do not compute the same: ours
is the exact rule with token gates; the peer takes every gradient at the initial weights and has gates per chunk. Each
measurement runs in a process of its own, the two in turns, since times on a shared machine drift.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

BATCH, TIME, DIM, HIDDEN, CHUNK = 2, 512, 64, 128, 64
ROUNDS, REPEATS = 5, 20


def ours() -> Callable[[], None]:
    """The function titanlab.memory_modules.functional.deep_memory with token gates."""
    from titanlab.memory_modules.functional import deep_memory

    q, v = (torch.randn(BATCH, TIME, 1, DIM, requires_grad=True) for _ in range(2))
    k = F.normalize(torch.randn(BATCH, TIME, 1, DIM), dim=-1).requires_grad_()
    keep, momentum, step = (
        (scale * torch.sigmoid(torch.randn(BATCH, TIME, 1) + bias)).requires_grad_()
        for scale, bias in ((1.0, 4.0), (1.0, -2.0), (0.1, 0.0))
    )
    weights = [(torch.randn(1, *shape) * shape[0] ** -0.5).requires_grad_() for shape in ((DIM, HIDDEN), (HIDDEN, DIM))]

    def run() -> None:
        y, _ = deep_memory(q, k, v, keep, momentum, step, weights, chunk_size=CHUNK)
        y.sum().backward()

    return run


def peer() -> Callable[[], None]:
    """titans-pytorch's NeuralMemory, its layer with projections."""
    from titans_pytorch import MemoryMLP, NeuralMemory

    model = MemoryMLP(DIM, depth=2, expansion_factor=HIDDEN / DIM)
    memory = NeuralMemory(dim=DIM, chunk_size=CHUNK, heads=1, dim_head=DIM, model=model, momentum=True)
    x = torch.randn(BATCH, TIME, DIM, requires_grad=True)

    def run() -> None:
        y, _ = memory(x)
        y.sum().backward()

    return run


def measure(name: str) -> dict[str, float]:
    """Seconds of one forward + backward (median), and MB by which it raises the process's peak memory."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    run = {"ours": ours, "peer": peer}[name]()
    torch.randn(64, 64).matmul(torch.randn(64, 64))  # loads the math library
    before = _peak_mb()
    run()
    memory = _peak_mb() - before
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times), "megabytes": memory}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints one table with the ratio."""
    rows: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(ROUNDS):
        for name, row in rows.items():
            output = subprocess.run(
                [sys.executable, "-m", "titanlab.benchmarks.rule_on_cpu", name],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            row.append(json.loads(output.splitlines()[-1]))
    middle = {name: {key: statistics.median(r[key] for r in row) for key in row[0]} for name, row in rows.items()}
    print(f"{'':28}{'seconds':>10}{'MB':>10}")
    for name, label in (("ours", "titanlab deep_memory"), ("peer", "titans-pytorch NeuralMemory")):
        print(f"{label:28}{middle[name]['seconds']:10.4f}{middle[name]['megabytes']:10.1f}")
    seconds, megabytes = (middle["ours"][key] / middle["peer"][key] for key in ("seconds", "megabytes"))
    print(f"{'ratio (at most 1.0 wanted)':28}{seconds:10.2f}{megabytes:10.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
