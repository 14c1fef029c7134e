"""What a plan says of memory and time: an estimate that costs nothing, and on demand a few real steps."""

import csv
import io
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from titanlab.__main__ import main
from titanlab.platform.model import parameter_count
from titanlab.platform.plugins import load_plugin
from titanlab.platform.run_config import RunConfig
from titanlab.platform.training.measured_steps import MeasuredStep, measured_steps
from titanlab.platform.training_memory import training_memory
from titanlab.sweeps.language.sweep_file import Resources, load_sweep
from titanlab.sweeps.planning.plan import Plan, make_plan
from titanlab.sweeps.planning.probe import STEPS, Probed, probe
from titanlab.sweeps.planning.time_table import at_once, probe_lines, probe_table, trial_seconds
from titanlab.sweeps.planning.totals import memory_line

PLUGIN = '''
import os
import time

import torch
from torch import nn

from titanlab import MEMORY_MODULES, MemoryConfig, MemoryModule


@MEMORY_MODULES.register("heavy")
class HeavyConfig(MemoryConfig):
    """Holds memory, sleeps, fails or dies."""

    megabytes: int = 0
    """Of a buffer."""
    sleep: float = 0.0
    """Seconds a call takes longer."""
    fault: str = ""
    """raise, or die."""

    def build(self, dim: int) -> "Heavy":
        return Heavy(dim, self)

    def flops(self, dim: int) -> float:
        return 1000.0 * (1 + self.megabytes)

    def read_flops(self, dim: int) -> float:
        return 0.0


class Heavy(MemoryModule):
    def __init__(self, dim: int, config: HeavyConfig) -> None:
        super().__init__()
        self.config, self.write = config, nn.Linear(dim, dim)
        self.register_buffer("held", torch.ones(config.megabytes, 250_000))

    def initial_state(self, batch: int) -> torch.Tensor:
        return self.write.weight.new_zeros(batch, self.write.out_features)

    def forward(self, x, state):
        time.sleep(self.config.sleep)
        if self.config.fault == "raise":
            raise RuntimeError("no such luck")
        if self.config.fault == "die":
            os.kill(os.getpid(), 9)
        return self.write(x), state

    def read(self, x, state):
        return x
'''

BASE: dict[str, Any] = {
    "model": {"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": {"type": "heavy"}},
    "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12},
    "train": {"steps": 100, "batch_size": 2},
}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("plugin") / "heavy.py"
    path.write_text(PLUGIN)
    return load_plugin(str(path))


def plan(folder: Path, **sweep: Any) -> Plan:
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"name": "p", "base": BASE, **sweep}, sort_keys=False))
    return make_plan(load_sweep(folder / "sweep.yaml"))


def steps(*seconds: float, peak: int = 10**9) -> Probed:
    return Probed(tuple(MeasuredStep(each, peak) for each in seconds))


def test_each_different_model_takes_a_few_steps_the_largest_first_and_faults_cost_no_other(
    tmp_path: Path, plugin: Any
) -> None:
    memory = "model.memory"
    cells = [
        {f"{memory}.megabytes": 10},
        {f"{memory}.megabytes": 300},
        {f"{memory}.megabytes": 10, "train.learning_rate": 0.5},
        {f"{memory}.fault": "raise", f"{memory}.megabytes": 2},
        {f"{memory}.fault": "die", f"{memory}.megabytes": 1},
        {},
    ]
    made = plan(tmp_path, cells=cells, seeds=2)
    probed = probe(made, [plugin])
    small, large, other_rate, raises, dies, light = (probed[cell.key] for cell in made.cells)
    assert list(probed)[0] == made.cells[1].key, "the largest goes first"
    assert len(small.steps) == len(large.steps) == len(light.steps) == STEPS and other_rate is small
    assert (large.peak_bytes or 0) - (small.peak_bytes or 0) > 200e6, "memory is a model's own, not of those before it"
    assert raises.failure == "RuntimeError: no such luck" and raises.seconds is None
    assert "was killed by signal 9; is there enough memory?" in dies.failure
    table = probe_table(made, probed)
    assert table.row_count == 5 and list(table.columns[0].cells)[0].endswith(" (and 1 more)")
    lines = probe_lines(made, probed)
    assert lines[0].startswith("probe of 'fault=raise") and lines[0].endswith("RuntimeError: no such luck")
    assert lines[-1].startswith("whole sweep: about ") and "2 cells not probed, by their FLOPs" in lines[-1]


def test_the_probe_ends_when_its_time_is_up(tmp_path: Path, plugin: Any) -> None:
    made = plan(tmp_path, axes={"model.memory.sleep": [30.0, 31.0, 32.0]})
    began = time.monotonic()
    probed = probe(made, [plugin], limit=2.0)
    assert time.monotonic() - began < 8
    (found,) = probed.values()
    assert found.failure == "the time was up after 0 steps" and found.seconds is None
    assert probe_lines(made, probed)[-1] == "the time of the whole sweep is not known: no step of some model was taken"
    assert probe(made, [plugin], limit=0.0) == {}


def test_the_first_step_of_a_model_is_not_counted_unless_it_is_the_only_one() -> None:
    assert steps(9.0, 1.0, 3.0).seconds == 2.0 and steps(9.0).seconds == 9.0 and steps().seconds is None
    assert steps().peak_bytes is None and steps(1.0, peak=7).peak_bytes == 7


def test_measured_steps_are_steps_of_the_run(tmp_path: Path) -> None:
    config = RunConfig.model_validate({**BASE, "model": {**BASE["model"], "memory": {"type": "delta"}}})
    measured = list(measured_steps(config, 3))
    assert len(measured) == 3 and all(step.seconds > 0 and step.peak_bytes > 1e7 for step in measured)


def test_the_sweeps_time_is_that_of_its_trials_shared_by_those_beside_each_other(
    tmp_path: Path, plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("titanlab.sweeps.planning.time_table.machine_cpus", lambda: 5)
    made = plan(tmp_path, axes={"model.memory.megabytes": [0, 1]}, seeds=4, resources={"cpu": 2})
    one, other = (cell.key for cell in made.cells)
    whole = probe_lines(made, {one: steps(9.0, 36.0), other: steps(9.0, 72.0)})[-1]
    assert "about 6.0 h of training" in whole, "4 x (100 x 36 + 100 x 72) seconds, 2 at a time"
    assert "2 trials at a time here" in whole
    scaled = probe_lines(made, {one: steps(9.0, 36.0)})[-1]
    flops = [cell.budget.step_flops or 0.0 for cell in made.cells]
    hours = 2 * (3600 + 3600 * flops[1] / flops[0]) / 3600
    assert f"about {hours:.1f} h" in scaled and "1 cells not probed, by their FLOPs" in scaled


def test_a_trial_of_seconds_takes_its_seconds(tmp_path: Path, plugin: Any) -> None:
    base = {**BASE, "train": {"seconds": 90, "batch_size": 2}}
    made = plan(tmp_path, axes={"model.memory.megabytes": [0, 1]}, base=base)
    assert trial_seconds(made.cells[0], 5.0) == trial_seconds(made.cells[0], None) == 90
    assert probe_lines(made, {made.cells[0].key: steps(1.0)})[-1].startswith("whole sweep: about ")


@pytest.mark.parametrize(
    "resources, machine, trials",
    [((1, 0), (8, 0), 8), ((3, 0), (8, 0), 2), ((0.1, 0), (1, 0), 10), ((2, 0.25), (64, 2), 8), ((16, 0), (8, 0), 1)],
)
def test_as_many_trials_run_at_once_as_fit(
    resources: tuple[float, float], machine: tuple[float, float], trials: int
) -> None:
    assert at_once(Resources(cpu=resources[0], gpu=resources[1]), *machine) == trials


def run(**changes: Any) -> RunConfig:
    model = {"dim": 32, "layers": 2, "architecture": {"type": "lmm"}, "memory": {"type": "delta", "chunk_size": 8}}
    task = {"type": "mqar", "vocab": 32, "pairs": 2, "length": 32}
    train = {"batch_size": 4}
    for key, value in changes.items():
        next(block for block in (model, task, train) if key in block or block is train)[key] = value
    return RunConfig.model_validate({"model": model, "task": task, "train": train})


def test_memory_of_parameters_is_four_numbers_each_and_activations_grow_with_what_is_seen_at_once() -> None:
    config = run()
    here = training_memory(config)
    assert here.parameters == 16 * parameter_count(config.model.build(32))
    assert here.activations is not None and here.total == here.parameters + here.activations
    assert training_memory(run(batch_size=8)).activations == pytest.approx(2 * here.activations, rel=1e-6)
    assert training_memory(run(batch_size=8, accumulate=2)).activations == here.activations
    longer, more = training_memory(run(length=320)).activations, training_memory(run(layers=4)).activations
    assert longer is not None and 9 * here.activations < longer < 11 * here.activations
    assert more is not None and 1.6 * here.activations < more < 2 * here.activations


def test_a_long_row_is_extended_from_short_ones_as_it_would_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    short = training_memory(run(length=128)).activations
    monkeypatch.setattr("titanlab.platform.training_memory.SHORTEST", 128)
    whole = training_memory(run(length=128, learning_rate=0.1, memory={"type": "delta", "chunk_size": 8, "heads": 2}))
    assert short == pytest.approx(whole.activations, rel=0.02)


def test_what_cannot_be_estimated_is_said(tmp_path: Path, plugin: Any) -> None:
    failing = run(memory={"type": "heavy", "fault": "raise"})
    assert training_memory(failing).activations is None
    made = plan(tmp_path, cells=[{"model.memory.fault": "raise"}])
    line = memory_line(made)
    assert "activations cannot be estimated (RuntimeError: no such luck): see --probe" in line
    made = plan(tmp_path, axes={"model.dim": [16, 64]})
    assert memory_line(made).startswith("memory of a step: about ") and "at most, 'dim=64' (" in memory_line(made)


def titanlab(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["titanlab", *arguments])
    try:
        main()
    except SystemExit as leaving:
        assert isinstance(leaving.code, int | None)
        return leaving.code or 0
    return 0


def test_the_command_probes_and_its_csv_has_what_was_measured(
    tmp_path: Path, plugin: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan(tmp_path, axes={"model.memory": [{"type": "delta"}, {"type": "gla"}]}, seeds=2)
    assert titanlab(monkeypatch, "sweep", "plan", "sweep.yaml", "--probe", "--csv", "plan.csv") == 0
    out = capsys.readouterr().out
    assert "seconds/step" in out and "whole sweep: about" in out and "in all: 4 trials, 400 steps, " in out
    rows = list(csv.DictReader(io.StringIO(Path("plan.csv").read_text())))
    assert len(rows) == 4 and all(float(row["step_seconds"]) > 0 and int(row["peak_bytes"]) > 1e7 for row in rows)
    assert titanlab(monkeypatch, "sweep", "plan", "sweep.yaml") == 0
    out = capsys.readouterr().out
    assert "seconds/step" not in out and "memory of a step: about " in out
    assert titanlab(monkeypatch, "sweep", "plan", "sweep.yaml", "--probe", "--set", "resources.gpu=64") == 2
    assert "resources.gpu: a trial wants 64 GPUs, but this machine has" in capsys.readouterr().err
