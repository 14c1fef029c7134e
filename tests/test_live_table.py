"""What a sweep looks like on a terminal: every line fits, and its lower end is never lost."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from titanlab.sweeps.execution.live_table import SweepDisplay
from titanlab.sweeps.execution.progress import Progress
from titanlab.sweeps.execution.trial_record import TrialRecord
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import Plan, make_plan

SWEEP = """
name: wide
base:
  model: {dim: 16, layers: 1, architecture: {type: lmm}, memory: {type: titans}}
  task: {type: mqar, vocab: 32, length: 12, pairs: 2}
  train: {steps: 300}
axes:
  model.memory.depth: [1, 2, 3]
  model.memory.momentum: [none, chunk, token]
  model.memory.keep: [none, token]
seeds: 2
objective: {metric: final/accuracy}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    file = tmp_path_factory.mktemp("wide") / "wide.yaml"
    file.write_text(SWEEP)
    return make_plan(load_sweep(file))


def screen(plan: Plan, folder: Path, width: int, height: int, failed: int = 0, running: int = 2) -> list[str]:
    """The lines of one picture: two thirds complete, of which some failed, and some running."""
    progress = Progress(plan, {trial.key: folder / trial.key for trial in plan.trials})
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    display = SweepDisplay(progress, console)
    keys = [trial.key for trial in plan.trials]
    display._live = object()  # type: ignore[assignment]  # nothing is said line by line
    for index, key in enumerate(keys[:24]):
        display.started(key)
        if index < failed:
            display.ended(key, TrialRecord("failed", error_type="RuntimeError", message="why " * 60))
        else:
            display.ended(key, TrialRecord("complete", 300, {"final/accuracy": 0.5}))
    for key in keys[24 : 24 + running]:
        display.started(key)
    with console.capture() as captured:
        console.print(display._render())
    return captured.get().splitlines()


@pytest.mark.parametrize("width, height, failed", [(80, 24, 0), (80, 24, 7), (80, 12, 2), (60, 24, 3), (200, 60, 1)])
def test_a_picture_fits_the_terminal_and_ends_in_the_counts(
    plan: Plan, tmp_path: Path, width: int, height: int, failed: int
) -> None:
    lines = screen(plan, tmp_path, width, height, failed)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert "waiting" in lines[-1]
    assert set(lines[-2].strip()) <= set("━╸╺")
    assert sum(" running" in line for line in lines[:-2]) == 2, "what runs is always shown"
    assert sum(line.startswith("failed: ") for line in lines) == min(failed, 3)


def test_a_trial_of_the_quickstart_takes_one_line_of_80_columns(plan: Plan, tmp_path: Path) -> None:
    lines = screen(plan, tmp_path, 80, 24)
    assert any(line.startswith("depth=2 momentum=chunk keep=token") or "keep=token  " in line for line in lines)
    assert all(line.startswith("depth=") for line in lines[1:-2])


def test_a_long_sweep_shows_what_runs_what_failed_and_what_ended_last(plan: Plan, tmp_path: Path) -> None:
    text = "\n".join(screen(plan, tmp_path, 100, 14, failed=1))
    assert text.count(" complete") >= 3  # two or more trials and the counts
    assert "24 complete" not in text and "23 complete, 10 waiting, 2 running, 1 failed" in text
