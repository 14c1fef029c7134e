"""A sweep of very many very small trials on Ray and MLflow: what each costs beyond its training, and what grows.

    python -m titanlab.benchmarks.sweep_scale [--trials 1000]

Every trial trains a tiny model for two steps. Printed are the wall time, the seconds a trial took beyond its own
training on the cores there are, the driver's memory after a tenth, a half and all of the trials, the size of MLflow's
store, and how long it takes to find the best hundred trials in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

SWEEP = {
    "name": "scale",
    "base": {
        "model": {
            "dim": 16,
            "layers": 1,
            "architecture": {"type": "lmm", "persistent": 0},
            "memory": {"type": "linear_attention", "heads": 1},
        },
        "task": {"type": "mqar", "vocab": 16, "pairs": 2, "length": 8, "eval_examples": 16},
        "train": {"steps": 2, "batch_size": 4, "device": "cpu"},
    },
    "axes": {"train.learning_rate": [1.0e-3]},
}
LIMIT = 0.5
SHARES = (0.1, 0.5, 1.0)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Sample(NamedTuple):
    """The driver at one moment."""

    complete: int
    memory: int
    """Bytes that it alone holds."""


def run(folder: Path, trials: int) -> tuple[float, list[Sample]]:
    """Runs the sweep and watches its driver from outside: wall seconds, and samples of it."""
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({**SWEEP, "seeds": trials}))
    command = [sys.executable, "-m", "titanlab", "sweep", "run", str(file), "--store", str(folder / "store")]
    samples, began = [], time.monotonic()
    with open(folder / "output.txt", "w") as output:
        driver = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT)
        process = psutil.Process(driver.pid)
        while driver.poll() is None:
            try:
                samples.append(Sample(len(list(folder.glob(f"{TRIALS}/*/outcome.json"))), process.memory_info().rss))
            except psutil.NoSuchProcess:
                break
            time.sleep(1)
    if driver.wait() != 0:
        sys.exit((folder / "output.txt").read_text())
    return time.monotonic() - began, samples


TRIALS = "store/sweeps/scale/trials"


def trained(folder: Path) -> list[tuple[float, float]]:
    """When each trial's own work began and ended."""
    spans = []
    for outcome in folder.glob(f"{TRIALS}/*/outcome.json"):
        spans.append((outcome.with_name("attempt.json").stat().st_mtime, outcome.stat().st_mtime))
    return spans


def query_seconds(folder: Path) -> tuple[float, int]:
    """How long MLflow takes to give the best hundred trials, and how many it gave."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    client.search_runs(experiments, "", max_results=1)  # opens the store
    began = time.perf_counter()
    order = ["metrics.`final/accuracy` DESC"]
    found = client.search_runs(experiments, "tags.`run.kind` = 'trial'", order_by=order, max_results=100)
    return time.perf_counter() - began, len(found)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wall, samples = run(folder, options.trials)
        spans = trained(folder)
        records = [json.loads(path.read_text()) for path in folder.glob(f"{TRIALS}/*/outcome.json")]
        complete = sum(record["status"] == "complete" for record in records)
        cores = min(os.cpu_count() or 1, options.trials)
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        training = sum(end - start for start, end in spans)
        beyond = (cores * (last - first) - training) / len(spans)
        print(f"{complete} of {options.trials} trials complete in {wall:.0f} s on {cores} cores")
        print(f"{'the first trial began after':44}{wall - (last - first):10.1f} s, what follows the last one included")
        print(f"{'a trial, its own work':44}{training / len(spans):10.2f} s")
        print(f"{f'a trial, beyond that (at most {LIMIT} s wanted)':44}{beyond:10.2f} s of a core")
        for share in SHARES:
            near = [sample.memory for sample in samples if sample.complete >= share * options.trials * 0.99]
            if near:
                print(f"{f'driver after {share:.0%} of the trials':44}{near[0] / 2**20:10.0f} MiB")
        store = folder / "store"
        files = [path for path in store.rglob("*") if path.is_file()]
        print(f"{'MLflow database':44}{(store / 'mlflow.db').stat().st_size / 2**20:10.1f} MiB")
        print(
            f"{'the whole store':44}{sum(path.stat().st_size for path in files) / 2**20:10.1f} MiB, {len(files)} files"
        )
        seconds, found = query_seconds(folder)
        print(f"{f'the best {found} trials in MLflow':44}{seconds:10.2f} s")


if __name__ == "__main__":
    main()
