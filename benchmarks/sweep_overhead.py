"""What Ray and MLflow add to a trial: one run in a sweep against the same run in a bare loop, in turns.

    python -m titanlab.benchmarks.sweep_overhead [--seconds 60] [--rounds 3]

Three ways to train one configuration on one thread, each in a fresh process: `plain`, a PyTorch loop that keeps
nothing; `train`, titanlab's own loop with journal and checkpoints; `sweep`, the only trial of a real `titanlab sweep
run` on Ray with MLflow's SQLite store. Compared is the trial's own training, from its beginning to its last metric:
wall time, and CPU time of its process, which says more on a machine that others use. What a sweep takes before and
after its trial (starting Ray, and importing torch and MLflow once a process) stands apart. That `train` and `sweep` end
with the same loss is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

RUN: dict[str, Any] = {
    "model": {
        "dim": 32,
        "layers": 2,
        "architecture": {"type": "lmm", "persistent": 0},
        "memory": {"type": "titans", "depth": 2, "momentum": "token", "keep": "token", "heads": 2, "chunk_size": 16},
    },
    "task": {"type": "mqar", "vocab": 32, "pairs": 4, "length": 32},
    "train": {"batch_size": 32, "learning_rate": 5.0e-3, "device": "cpu"},
}
"""The quickstart's model and task."""
AXIS = {"model.memory.depth": [2]}  # a sweep needs one; it says what RUN says
TRIAL_STEPS = (50, 150)  # to learn how long a step takes
LIMIT = 0.05
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Cost(NamedTuple):
    """What a training took."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of its process, user and system."""
    loss: float = 0.0
    """At its end."""
    before: float = 0.0
    """Seconds of the command before the trial."""
    after: float = 0.0
    """Seconds of the command after it."""


def plain(folder: Path) -> float:
    """A PyTorch loop as one writes it by hand; returns the last loss."""
    import torch

    from titanlab.platform.run_config import load_config
    from titanlab.platform.training.schedule import learning_rate

    config = load_config(folder / "run.yaml")
    task, settings = config.task.build(), config.train
    torch.manual_seed(settings.seed)
    model = config.model.build(task.vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(settings.beta1, settings.beta2), foreach=True)
    batches = task.train_batches(settings.seed, settings.batch_size)
    steps = settings.steps or 0
    for step in range(1, steps + 1):
        batch = next(batches)
        logits, _ = model(batch.ids)
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
        loss = (losses * batch.mask).sum() / batch.mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, settings)
        optimizer.step()
        last = loss.item()
    with torch.no_grad():
        for split in ("val", "test"):
            task.evaluate(model.eval(), split)
    return last


def train(folder: Path) -> float:
    """titanlab's loop, without Ray and MLflow; returns the last loss."""
    from titanlab.platform.run_config import load_config
    from titanlab.platform.training.loop import train

    return train(load_config(folder / "run.yaml"), folder / "run").metrics["train/loss"]


LOOPS: dict[str, Callable[[Path], float]] = {"plain": plain, "train": train}


def in_this_process(name: str, folder: Path) -> Cost:
    """Runs one of the bare loops; torch is imported before the clock starts, as a trial's process has it."""
    import torch

    import titanlab.platform.training.loop  # noqa: F401

    torch.set_num_threads(1)
    wall, cpu = time.time(), _own_cpu()
    loss = LOOPS[name](folder)
    return Cost(time.time() - wall, _own_cpu() - cpu, loss)


def bare(name: str, steps: int) -> Cost:
    """One of the bare loops in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.yaml").write_text(yaml.safe_dump(_run(steps)))
        command = [sys.executable, "-m", "titanlab.benchmarks.sweep_overhead", "--loop", name, folder]
        output = subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True).stdout
        return Cost(*json.loads(output.splitlines()[-1]))


def sweep(steps: int) -> Cost:
    """The only trial of a sweep, watched from outside: its folder tells when and in which process it ran."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(yaml.safe_dump({"name": "overhead", "base": _run(steps), "axes": AXIS}))
        began = time.time()
        command = [sys.executable, "-m", "titanlab", "sweep", "run", str(file), "--store", str(Path(folder) / "store")]
        with open(Path(folder) / "output.txt", "w") as output:
            driver = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)
            cpu = _cpu_of_the_trial(driver, Path(folder) / "store" / "sweeps" / "overhead" / "trials")
            code = driver.wait()
        ended = time.time()
        if code != 0:
            sys.exit((Path(folder) / "output.txt").read_text())
        (attempt,) = Path(folder).glob("store/sweeps/*/trials/*/attempt.json")
        outcome = attempt.with_name("outcome.json")
        first, last = attempt.stat().st_mtime, outcome.stat().st_mtime
        loss = json.loads(outcome.read_text())["metrics"]["train/loss"]
    return Cost(last - first, cpu, loss, before=first - began, after=ended - last)


def _cpu_of_the_trial(driver: subprocess.Popen[bytes], trials: Path) -> float:
    """Seconds of its process between the files that mark the beginning and the end of the trial."""
    first, worker = 0.0, None
    while driver.poll() is None:
        if worker is None and (found := list(trials.glob("*/attempt.json"))):
            worker = psutil.Process(json.loads(found[0].read_text())["pid"])
            first = _cpu(worker)
        if worker is not None and list(trials.glob("*/outcome.json")):
            return _cpu(worker) - first
        time.sleep(0.05)
    return 0.0  # the sweep failed, which its exit code tells


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _run(steps: int) -> dict[str, Any]:
    return RUN | {"train": RUN["train"] | {"steps": steps}}


def _steps_for(seconds: float) -> int:
    """How many steps take so long here, evaluation included."""
    few, more = (bare("train", steps).wall for steps in TRIAL_STEPS)
    a_step = max((more - few) / (TRIAL_STEPS[1] - TRIAL_STEPS[0]), 1e-4)
    return 10 * max(2, round((TRIAL_STEPS[0] + (seconds - few) / a_step) / 10))


def main() -> None:
    """Prints one table with the ratios to the two bare loops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a training")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each way; medians are printed")
    parser.add_argument("--loop", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        print(json.dumps(in_this_process(options.loop[0], Path(options.loop[1]))))
        return
    steps = _steps_for(options.seconds)
    costs: dict[str, list[Cost]] = {"plain": [], "train": [], "sweep": []}
    for _ in range(options.rounds):
        costs["plain"].append(bare("plain", steps))
        costs["train"].append(bare("train", steps))
        costs["sweep"].append(sweep(steps))
    if len({cost.loss for name in ("train", "sweep") for cost in costs[name]}) > 1:
        sys.exit(f"the trainings differ: {costs}")
    _print(costs, steps)


def _print(costs: dict[str, list[Cost]], steps: int) -> None:
    middle = {
        name: Cost(*(statistics.median(column) for column in zip(*rows, strict=True))) for name, rows in costs.items()
    }
    print(f"{f'a trial of {steps} steps':44}{'wall s':>10}{'CPU s':>10}")
    labels = {"plain": "plain PyTorch loop", "train": "titanlab's loop", "sweep": "trial on Ray with MLflow"}
    for name, label in labels.items():
        print(f"{label:44}{middle[name].wall:10.2f}{middle[name].cpu:10.2f}")
    for name in ("train", "plain"):
        # Of each round, since what a machine does beside changes between rounds.
        pairs = list(zip(costs["sweep"], costs[name], strict=True))
        wall, cpu = (statistics.median(ours[i] / theirs[i] - 1 for ours, theirs in pairs) for i in (0, 1))
        aim = f" (at most {LIMIT:.0%} wanted)" if name == "train" else ""
        print(f"{f'  added to {labels[name]}{aim}':44}{wall:10.1%}{cpu:10.1%}")
    print(f"once a sweep: {middle['sweep'].before:.1f} s before the trial, {middle['sweep'].after:.1f} s after it")


if __name__ == "__main__":
    main()
