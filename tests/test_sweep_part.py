"""`--only`: a part of a sweep is made of the whole's cells, keys and names; and what a plan shows of all that."""

import csv
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from titanlab.__main__ import main
from titanlab.platform.errors import ConfigError
from titanlab.sweeps.language.sweep_file import Sweep, load_sweep
from titanlab.sweeps.planning.part import plan_part, survey_part
from titanlab.sweeps.planning.plan import Plan, make_plan, survey
from titanlab.sweeps.planning.plan_table import note_lines, plan_csv

DEPTH, MOMENTUM = "model.memory.depth", "model.memory.momentum"
SWEEP: dict[str, Any] = {
    "name": "tiny",
    "base": {
        "model": {
            "dim": 16,
            "layers": 1,
            "architecture": {"type": "lmm"},
            "memory": {"type": "titans", "depth": 1, "heads": 1, "chunk_size": 4},
        },
        "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12},
        "train": {"steps": 2, "batch_size": 2},
    },
    "axes": {DEPTH: [1, 2], MOMENTUM: ["none", "token"]},
    "seeds": 2,
    "baseline": {DEPTH: 1, MOMENTUM: "none"},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(**changes: Any) -> Sweep:
    Path("sweep.yaml").write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))
    return load_sweep("sweep.yaml")


def titanlab(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["titanlab", *arguments])
    try:
        main()
    except SystemExit as leaving:
        assert isinstance(leaving.code, int | None)
        return leaving.code or 0
    return 0


def test_a_part_has_the_cells_and_trials_of_the_whole(folder: Path) -> None:
    whole, part = make_plan(sweep()), plan_part(sweep(), f"{DEPTH} == 2")
    assert [cell.variant for cell in part.cells] == ["depth=2 momentum=none", "depth=2 momentum=token"]
    assert part.cells == whole.cells[2:]
    assert part.trials == tuple(trial for trial in whole.trials if trial.cell_key in {c.key for c in part.cells})
    assert (part.id, part.name, part.text, part.seeds) == (whole.id, whole.name, whole.text, whole.seeds)
    assert part.baseline is None
    assert part.notes[-2:] == (
        "a part of the sweep: 4 of 8 trials fulfil model.memory.depth == 2",
        "the baseline 'depth=1 momentum=none' is not in this part",
    )
    assert plan_part(sweep(), f"{DEPTH} == 1").baseline == whole.baseline
    assert plan_part(sweep(), None) == whole


def test_a_part_may_be_some_seeds(folder: Path) -> None:
    part = plan_part(sweep(), f"train.seed == 1 or {DEPTH} == 2")
    assert [len(cell.trials) for cell in part.cells] == [1, 1, 2, 2] and part.seeds == (0, 1)
    assert [trial.seed for trial in part.trials] == [0, 0, 1, 1, 1, 1]
    assert part.summary == "6 trials (4 cells)"
    assert plan_part(sweep(), "train.seed == 1").summary == "4 trials (4 cells x 1 seeds)"


def test_cells_outside_the_part_may_be_wrong(folder: Path) -> None:
    wrong = sweep(axes={DEPTH: [1, 2, 9], MOMENTUM: ["none", "token"]})
    assert len(plan_part(wrong, f"{DEPTH} < 9").cells) == 4
    with pytest.raises(ConfigError, match=r"axes.model.memory.depth.2: .* got 9"):
        plan_part(wrong, f"{MOMENTUM} == none")


@pytest.mark.parametrize(
    "only, expected",
    [
        (f"{DEPTH} == 7", "--only model.memory.depth == 7: no cell of the sweep fulfils it, of 4"),
        (f"{DEPTH} = 2", "--only model.memory.depth = 2: '=' is no part of a condition; write '=='"),
        ("model.memory.dept == 2", "no run of the sweep has a key 'model.memory.dept'; did you mean"),
        ("q.q == 2", "no run of the sweep has a key 'q.q'; `titanlab list` shows"),
        (f"{DEPTH} < none", "only numbers have an order, got the text 'none', at column 22"),
    ],
)
def test_a_bad_part_is_located_at_the_option(folder: Path, only: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_part(sweep(), only)
    assert expected in str(error.value) and str(error.value).startswith(f"--only {only}: ")


def test_cells_that_cannot_run_are_listed_beside_those_that_can(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(axes={DEPTH: [1, 2], "model.memory.heads": [1, 3], MOMENTUM: ["none", "on"]})
    assert titanlab(monkeypatch, "sweep", "plan", "sweep.yaml") == 2
    out, err = capsys.readouterr()
    assert "depth=1 heads=1 momentum=none" in out and "heads=3" not in out
    assert out.endswith("6 more cells cannot run\n4 trials (2 cells x 2 seeds)\n")
    heads, momentum = sorted(err.removeprefix("error: ").splitlines())
    assert "axes.model.memory.heads.1: the model cannot be built: " in heads
    assert heads.endswith("(in 2 cells: 'depth=1 heads=3 momentum=none', 'depth=2 heads=3 momentum=none')")
    assert "axes.model.memory.momentum.1: expected 'token'" in momentum
    assert "(in 4 cells: 'depth=1 heads=1 momentum=on', " in momentum and momentum.endswith(" and 1 more)")
    assert titanlab(monkeypatch, "sweep", "run", "sweep.yaml") == 2
    assert [path.name for path in Path().iterdir()] == ["sweep.yaml"], "no part of a wrong sweep is run"


def test_the_csv_holds_every_trial_and_the_reasons_of_what_cannot_run(folder: Path) -> None:
    planned = survey(sweep(axes={DEPTH: [1, 2, 9]}, baseline={DEPTH: 1}, cells=[{"train.steps": 3}]))
    rows = list(csv.DictReader(io.StringIO(plan_csv(planned, {planned.trials[0].key: "complete"}))))
    assert [row["variant"] for row in rows] == ["depth=1", "depth=2", "steps=3"] * 2 + ["depth=9"]
    assert [row["state"] for row in rows] == ["complete", *["planned"] * 5, "invalid"]
    assert [row["seed"] for row in rows] == ["0"] * 3 + ["1"] * 3 + [""]
    assert [row[DEPTH] for row in rows[:3]] == ["1", "2", ""] and rows[2]["train.steps"] == "3"
    assert rows[0]["key"] == planned.trials[0].key and rows[0]["cell_key"] == planned.cells[0].key
    assert int(rows[1]["parameters"]) == planned.cells[1].parameters
    assert rows[-1]["reason"].startswith("sweep.yaml:") and "at most 4, got 9" in rows[-1]["reason"]


def test_the_plan_writes_csv_to_a_file_or_alone_to_the_screen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = plan_csv(survey_part(sweep(), f"{DEPTH} == 1"), {})
    only = ("--only", f"{DEPTH} == 1")
    assert titanlab(monkeypatch, "sweep", "plan", "sweep.yaml", "--csv", "-", *only) == 0
    assert capsys.readouterr().out == expected
    assert titanlab(monkeypatch, "sweep", "plan", "sweep.yaml", "--csv", "plan.csv", *only) == 0
    assert Path("plan.csv").read_text() == expected and "saved: plan.csv" in capsys.readouterr().out
    assert titanlab(monkeypatch, "sweep", "plan", "sweep.yaml", "--csv", "no/plan.csv") == 2
    assert capsys.readouterr().err == "error: --csv 'no/plan.csv': cannot be written: No such file or directory\n"


def test_a_large_sweep_is_shown_as_an_overview(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(axes={DEPTH: [1, 2], "train.clip": [value / 100 for value in range(60)]}, baseline=None)
    assert titanlab(monkeypatch, "sweep", "plan", "sweep.yaml") == 0
    out = capsys.readouterr().out
    assert "0.06, 0.07, ... (60 values)" in out and "depth=1" not in out and len(out.splitlines()) < 30
    assert out.endswith("every trial: --csv FILE, or --csv - for the screen\n240 trials (120 cells x 2 seeds)\n")


def test_a_thousand_notes_are_not_printed(folder: Path) -> None:
    lines = note_lines(survey(sweep(axes={"train.steps": [2] * 1000}, baseline=None)))
    assert len(lines) == 21 and lines[0].startswith("note: 'steps=2' is the same run as 'steps=2'")
    assert lines[-1] == "and 979 more notes"


def test_the_plan_says_where_each_value_was_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep()
    Path("child.yaml").write_text("extends: sweep.yaml\nname: child\nseeds: 1\n")
    assert titanlab(monkeypatch, "sweep", "plan", "child.yaml", "--sources", "--set", "train.steps=3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "sweep.yaml:4: base.model.dim = 16" in lines
    assert "child.yaml:3: seeds = 1" in lines
    assert "--set train.steps=3: base.train.steps = 3" in lines


def ten_thousand(seeds: int) -> Plan:
    values = [value / 1000 for value in range(10_000 // (4 * seeds))]
    return survey(
        sweep(
            axes={DEPTH: [1, 2], MOMENTUM: ["none", "token"], "train.weight_decay": values},
            exclude=[f"{DEPTH} == 1 and train.steps > 5"],
            seeds=seeds,
            baseline=None,
        )
    )


@pytest.mark.parametrize("seeds", [1, 5])
def test_ten_thousand_trials_are_planned_in_seconds_and_without_a_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seeds: int
) -> None:
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("the GPU is touched"))
    before = time.process_time()
    planned = ten_thousand(seeds)
    text = plan_csv(planned, {})
    taken = time.process_time() - before
    assert len(planned.trials) == 10_000 and text.count("\n") == 10_001
    print(f"{taken:.1f} s of CPU time on {os.cpu_count()} cores")
    assert taken < 10, "5 s on a quiet machine"


@pytest.mark.slow
def test_parts_run_into_one_sweep_that_mlflow_alone_can_repeat(lab: Any) -> None:
    lab.write("grid", {"model.memory.keep": [0.5, 0.9]})
    file = lab.folder / "parts.yaml"
    file.write_text("extends: grid.yaml\nname: parts\nseeds: 2\n")
    options = ("--executor", "local", "--set", "train.steps=2")
    part = lab.run(file, *options, "--only", "model.memory.keep < 0.7 and train.seed == 1")
    assert part.returncode == 0 and "1 of 1 trials complete" in part.stdout, part.stdout + part.stderr
    assert [run.info.status for run in lab.runs("parts", "sweep")] == ["SCHEDULED"], "three trials wait"
    assert "sweep report" in part.stdout and "--only 'model.memory.keep < 0.7 and train.seed == 1'" in part.stdout
    whole = lab.run(file, *options)
    assert "4 of 4 trials complete (1 of them before)" in whole.stdout, whole.stdout + whole.stderr
    (parent,) = lab.runs("parts", "sweep")
    assert len(lab.runs("parts")) == 4 and parent.info.status == "FINISHED"
    kept = Path(lab.client().download_artifacts(parent.info.run_id, "sweep.yaml", str(lab.folder)))
    assert load_sweep(kept).config == load_sweep(file, ["train.steps=2"]).config
