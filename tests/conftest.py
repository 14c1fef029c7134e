"""What the tests of sweeps share: a folder with a plug-in and a sweep, the command line as a process, MLflow."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than free cores make torch crawl

PLUGIN = '''
import time

import torch
from torch import nn

from titanlab import MEMORY_MODULES, MemoryConfig, MemoryModule


@MEMORY_MODULES.register("fragile")
class FragileConfig(MemoryConfig):
    """A running mean that fails on demand."""

    fault: str = "none"
    """none, raise, nan, memory or leave."""
    delay: float = 0.0
    """Seconds a call takes longer."""
    keep: float = 0.9
    """What stays at each token."""

    def build(self, dim: int) -> "Fragile":
        return Fragile(dim, self)


class Fragile(MemoryModule):
    def __init__(self, dim: int, config: FragileConfig) -> None:
        super().__init__()
        self.config, self.write = config, nn.Linear(dim, dim)

    def initial_state(self, batch: int) -> torch.Tensor:
        return self.write.weight.new_zeros(batch, self.write.out_features)

    def forward(self, x, state):
        if not x.is_meta:
            time.sleep(self.config.delay)
            if self.config.fault == "raise":
                raise RuntimeError("this memory is broken\\nsecond line")
            if self.config.fault == "memory":
                raise torch.OutOfMemoryError("no room for the memory")
            if self.config.fault == "leave":
                raise SystemExit(3)
        reads = []
        for x_t in self.write(x).unbind(1):
            state = self.config.keep * state + (1 - self.config.keep) * x_t
            reads.append(state)
        y = torch.stack(reads, 1)
        return (y * float("nan") if self.config.fault == "nan" else y), state

    def read(self, x, state):
        return state[:, None].expand(-1, x.shape[1], -1)
'''


class SweepLab:
    """A folder in which sweeps run as a user runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fragile.py").write_text(PLUGIN)
        self.mlflow = f"sqlite:///{self.store / 'mlflow.db'}"
        self._started: list[subprocess.Popen[str]] = []

    def write(self, name: str, axes: dict[str, list[Any]], **changes: Any) -> Path:
        """A tiny sweep over `axes`; `changes` replace settings of `train`, or `seeds` and `resources`."""
        sweep = {
            "name": name,
            "base": {
                "model": {"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": {"type": "fragile"}},
                "task": {"type": "mqar", "vocab": 32, "length": 12, "pairs": 2, "eval_examples": 16},
                "train": {"steps": 20, "batch_size": 4, "log_every": 1, "checkpoint_every": 5}
                | {key: value for key, value in changes.items() if key not in ("seeds", "resources")},
            },
            "axes": axes,
            **{key: value for key, value in changes.items() if key in ("seeds", "resources")},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(sweep, sort_keys=False))
        return path

    def start(self, file: Path, *options: str) -> "subprocess.Popen[str]":
        """`titanlab sweep run FILE`, in a process group of its own."""
        options = ("--store", str(self.store), "--plugin", str(self.folder / "fragile.py"), *options)
        process = subprocess.Popen(
            [sys.executable, "-m", "titanlab", "sweep", "run", str(file), *options],
            cwd=self.folder,
            env={**os.environ, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def run(self, file: Path, *options: str) -> "subprocess.CompletedProcess[str]":
        """The same, waited for."""
        process = self.start(file, *options)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def close(self) -> None:
        """Ends what a failed test left."""
        for process in self._started:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
            process.communicate()

    def trials(self, sweep_id: str) -> dict[str, Path]:
        """Trial folders by key."""
        return {folder.name: folder for folder in (self.store / "sweeps" / sweep_id / "trials").glob("*")}

    def steps(self, folder: Path) -> list[int]:
        """The steps in a trial's journal."""
        try:
            lines = (folder / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line)["step"] for line in lines if line.endswith("}")]

    def client(self) -> Any:
        """MLflow's client of the store."""
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        return MlflowClient(tracking_uri=self.mlflow)

    def runs(self, sweep_id: str, kind: str = "trial") -> list[Any]:
        """The sweep's runs in MLflow."""
        client = self.client()
        experiment = client.get_experiment_by_name(sweep_id)
        return list(client.search_runs([experiment.experiment_id], f"tags.`run.kind` = '{kind}'"))

    def logged_steps(self, run: Any) -> list[int]:
        """The steps of a run's training loss in MLflow, in order, repeated ones repeated."""
        return sorted(metric.step for metric in self.client().get_metric_history(run.info.run_id, "train/loss"))


def wait_for(happened: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Polls until something is true and returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := happened():
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen within {seconds} s")


@pytest.fixture
def wait() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[SweepLab]:
    sweeps = SweepLab(tmp_path)
    yield sweeps
    sweeps.close()


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SweepLab]:
    sweeps = SweepLab(tmp_path_factory.mktemp("lab"))
    yield sweeps
    sweeps.close()


@pytest.fixture
def kill() -> Callable[[int], None]:
    """kill -9 of one process."""
    return lambda pid: os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def run_kernel_cases() -> Callable[..., dict[str, Any]]:
    """Runs a file of kernels' cases, every P-th in one of P processes: name of each case -> its errors, or changes."""

    def run(cases: Path, device: str, **environment: str) -> dict[str, Any]:
        # most of the time on a GPU is spent on compilation, by the CPU
        processes = 1 if device == "cpu" else max(1, min(8, (os.cpu_count() or 1) // 2))
        started = [
            subprocess.Popen(
                [sys.executable, str(cases), device, str(number), str(processes)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
            )
            for number in range(processes)
        ]  # fmt: skip
        with ThreadPoolExecutor(processes) as readers:  # all at once: a full pipe would stop the one that writes it
            try:
                said = list(readers.map(lambda process: process.communicate(), started))
            finally:  # an interruption leaves none behind
                for process in started:
                    process.kill()
        for process, (_, errors) in zip(started, said, strict=True):
            assert process.returncode == 0, errors
        lines = [json.loads(line) for output, _ in said for line in output.splitlines() if line.startswith("{")]
        return {line["name"]: line.get("errors", line.get("changes")) for line in lines}

    return run


LONGEST = (
    "test_quickstart", "test_readme", "test_survival", "test_sweep_kills", "test_sweep_run", "test_ui",
    "test_fused_kernels", "test_triton_rules", "test_triton_kernels", "test_hopper_kernels", "test_export",
    "test_module_memory", "test_distributed", "test_list_command", "test_new_command", "test_report",
    "test_train_command",
)  # fmt: skip
"""Files that take longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that two workers end together."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))
