"""The points of a sweep: grids of axes and paired keys, ablations around a baseline, conditions on both."""

from pathlib import Path
from typing import Any

import pytest

from titanlab.platform.errors import ConfigError
from titanlab.sweeps.language.design import Design, design
from titanlab.sweeps.language.grid import Runs, base_run
from titanlab.sweeps.language.labels import variants
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan

BASE = """\
name: tiny
base:
  model: {dim: 16, layers: 1, architecture: {type: lmm}, memory: {type: titans, depth: 1, heads: 1, chunk_size: 4}}
  task: {type: mqar, vocab: 32, pairs: 2, length: 12}
  train: {steps: 2, batch_size: 2}
"""
DEPTH, KEEP, MOMENTUM, STEP = (f"model.memory.{name}" for name in ("depth", "keep", "momentum", "step"))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("sweep.yaml")


def designed(file: Path, text: str) -> Design:
    file.write_text(BASE + text)
    sweep = load_sweep(file)
    return design(sweep, Runs(sweep, base_run(sweep)))


def points(file: Path, text: str) -> list[dict[str, Any]]:
    return [point.values() for point in designed(file, text).points]


def labels(file: Path, text: str) -> list[str]:
    return variants(points(file, text))


def refusal(file: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        designed(file, text)
    return str(error.value)


def test_paired_keys_vary_together_and_cross_with_axes_and_each_other(file: Path) -> None:
    text = """\
axes: {model.memory.depth: [1, 2]}
paired:
  - {model.dim: [16, 32], model.memory.heads: [1, 2]}
  - {train.steps: [2, 4], train.batch_size: [4, 2]}
"""
    made = points(file, text)
    assert len(made) == 2 * 2 * 2
    assert [tuple(point.values()) for point in made[:4]] == [
        (1, 16, 1, 2, 4),
        (1, 16, 1, 4, 2),
        (1, 32, 2, 2, 4),
        (1, 32, 2, 4, 2),
    ]
    assert list(made[0]) == [DEPTH, "model.dim", "model.memory.heads", "train.steps", "train.batch_size"]
    assert labels(file, "paired: [{train.steps: [1, 2]}]") == ["steps=1", "steps=2"], "no axes are needed"


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "paired:\n  - {model.dim: [16, 32], model.layers: [1, 2, 3]}\n",
            "sweep.yaml:7:27: paired.0.model.layers: has 3 values, but 'model.dim' beside it has 2; they vary together",
        ),
        (
            "axes: {model.dim: [16]}\npaired: [{model.dim: [16]}]\n",
            "sweep.yaml:7:11: paired.0.model.dim: 'model.dim' varies in `axes` already",
        ),
        (
            "paired: [{model.dim: [16]}, {model.dim: [32]}]\n",
            "sweep.yaml:6:30: paired.1.model.dim: 'model.dim' varies in `paired.0` already",
        ),
        ("paired: [{}]\n", "sweep.yaml:6:10: paired.0: "),
        ("paired: {model.dim: [16]}\n", "sweep.yaml:6:1: paired: expected a list"),
        ("paired: [{model.dim: 16}]\n", "paired.0.model.dim: expected a list, got 16"),
        ("paired: [{train.seed: [1, 2]}]\n", "sweep.yaml:6:11: paired.0.train.seed: seeds are no settings to compare"),
    ],
)
def test_keys_that_do_not_pair_are_refused_at_their_place(file: Path, text: str, expected: str) -> None:
    assert expected in refusal(file, text)


def test_an_override_that_a_pair_would_hide_is_refused(file: Path) -> None:
    file.write_text(BASE + "paired: [{train.steps: [1, 2]}]\n")
    with pytest.raises(
        ConfigError, match=r"--set train.steps=5: base.train.steps: 'train.steps' is varied by `paired`"
    ):
        load_sweep(file, ["train.steps=5"])


def test_a_value_of_a_pair_that_no_run_can_have_is_located(file: Path) -> None:
    file.write_text(BASE + "paired: [{model.dim: [16, 17], model.memory.heads: [1, 1]}]\n")
    with pytest.raises(ConfigError, match=r"sweep.yaml:6:27: paired.0.model.dim.1: .*multiple of 16"):
        make_plan(load_sweep(file))


def test_an_axis_varies_only_where_its_condition_holds(file: Path) -> None:
    text = """\
axes: {model.memory.depth: [1, 2], model.memory.expansion: [1, 4]}
when: {model.memory.expansion: model.memory.depth > 1}
"""
    assert labels(file, text) == ["depth=1", "depth=2 expansion=1", "depth=2 expansion=4"]
    assert designed(file, text).notes == ("`when` merges 1 of 4 cells of the grid with others",)


def test_a_condition_on_a_conditional_axis_waits_for_it_wherever_it_is_written(file: Path) -> None:
    text = """\
axes: {model.memory.momentum: [none, token], model.memory.expansion: [1, 4], model.memory.depth: [1, 2]}
when: {model.memory.momentum: model.memory.expansion == 4, model.memory.expansion: model.memory.depth > 1}
"""
    assert labels(file, text) == [
        "depth=1",
        "expansion=1 depth=2",
        "momentum=none expansion=4 depth=2",
        "momentum=token expansion=4 depth=2",
    ]


def test_a_condition_sees_what_the_base_says_and_else_the_defaults(file: Path) -> None:
    axes = "axes: {train.clip: [0.5, 1.0]}\n"
    assert len(points(file, axes + "when: {train.clip: model.memory.depth == 1}")) == 2
    assert len(points(file, axes + "when: {train.clip: train.warmup == 0.1 and task.type == mqar}")) == 2
    assert len(points(file, axes + "when: {train.clip: train.warmup > 0.1}")) == 1


def test_conditions_that_wait_for_one_another_are_refused(file: Path) -> None:
    text = """\
axes: {train.clip: [0.5, 1.0], train.steps: [1, 2]}
when: {train.clip: train.steps == 1, train.steps: train.clip > 0.5}
"""
    assert "the conditions wait for one another: train." in refusal(file, text)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("when: {train.steps: train.clip > 0}", "when.train.steps: unknown axis 'train.steps'; did you mean"),
        (
            "when: {train.clip: train.stepps > 0}",
            "sweep.yaml:7:8: when.train.clip: no run of the sweep has a key 'train.stepps'; did you",
        ),
        ("when: {train.clip: train.steps >}", "when.train.clip: expected a key, a number or a word, got the end"),
        ("when: {train.clip: train.seed > 1}", "when.train.clip: seeds are no part of the design"),
        ("when: {train.clip: true > 1}", "when.train.clip: only numbers have an order"),
        ("when: {train.clip: true}", "when.train.clip: expected text, got the boolean true"),
        ("exclude: [model.memory.momentun == none]", "sweep.yaml:7:11: exclude.0: no run of the sweep has a key"),
        ("exclude: [true]", "exclude.0: expected text"),
        ("exclude: ['true']", "sweep.yaml:7:1: exclude: takes out every cell"),
        ("exclude: 'true'", "exclude: expected a list"),
        ("exclude: ['train.clip < none']", "exclude.0: only numbers have an order, got the text 'none', at column 14"),
    ],
)
def test_a_bad_condition_is_located_in_the_file(file: Path, text: str, expected: str) -> None:
    assert expected in refusal(file, f"axes: {{train.clip: [0.5, 1.0]}}\n{text}\n")


def test_excluded_cells_are_not_run_and_counted(file: Path) -> None:
    text = """\
axes: {model.memory.depth: [1, 2], model.memory.momentum: [none, token]}
cells: [{model.architecture: {type: transformer}}]
exclude:
  - model.architecture.type == transformer
  - model.memory.depth == 1 and model.memory.momentum != none
  - train.steps > 1000
"""
    made = designed(file, text)
    assert labels(file, text) == ["depth=1 momentum=none", "depth=2 momentum=none", "depth=2 momentum=token"]
    assert made.notes == (
        "`exclude` takes out 1 cell: model.architecture.type == transformer",
        "`exclude` takes out 1 cell: model.memory.depth == 1 and model.memory.momentum != none",
        "`exclude` takes out 0 cells: train.steps > 1000",
    )


def test_a_cell_that_no_run_can_be_may_be_excluded(file: Path) -> None:
    file.write_text(BASE + "axes: {model.dim: [16, 17]}\nexclude: [model.dim == 17]\n")
    assert [cell.variant for cell in make_plan(load_sweep(file)).cells] == ["dim=16"]


def test_a_condition_may_look_at_settings_that_only_some_cells_have(file: Path) -> None:
    text = """\
axes: {model.memory: [{type: delta}, {type: titans}], train.clip: [0.5, 1.0]}
exclude: [model.memory.momentum == token and train.clip < 1]
"""
    assert labels(file, text) == ["memory=delta clip=0.5", "memory=delta clip=1", "memory=titans clip=1"]


ABLATION = """\
ablate:
  model.memory.keep: [none, constant]
  model.memory.momentum: [none]
"""
ONE_EACH = "  model.memory.keep: [none]\n  model.memory.momentum: [none]\n  model.memory.step: [constant]\n"


def test_one_factor_at_a_time_is_the_baseline_and_a_cell_for_each_changed_factor(file: Path) -> None:
    assert points(file, ABLATION) == [{}, {KEEP: "none"}, {KEEP: "constant"}, {MOMENTUM: "none"}]
    around = points(file, ABLATION + "baseline: {model.memory.depth: 2, model.memory.keep: token}\n")
    assert around == [
        {DEPTH: 2, KEEP: "token"},
        {DEPTH: 2, KEEP: "none"},
        {DEPTH: 2, KEEP: "constant"},
        {DEPTH: 2, KEEP: "token", MOMENTUM: "none"},
    ]


def test_leave_one_out_changes_all_factors_and_all_but_one(file: Path) -> None:
    one_out = points(file, f"ablate:\n  mode: leave_one_out\n{ONE_EACH}")
    assert one_out == [
        {},
        {KEEP: "none", MOMENTUM: "none", STEP: "constant"},
        {MOMENTUM: "none", STEP: "constant"},
        {KEEP: "none", STEP: "constant"},
        {KEEP: "none", MOMENTUM: "none"},
    ]
    one_at_a_time = points(file, f"ablate:\n{ONE_EACH}")
    assert points(file, f"ablate:\n  mode: both\n{ONE_EACH}") == one_at_a_time + one_out[1:]


def test_the_ablated_cell_is_the_baseline_of_the_plan_beside_other_cells_with_its_settings(file: Path) -> None:
    file.write_text(BASE + ABLATION + "axes: {train.clip: [0.5, 1.0]}\nbaseline: {train.steps: 3}\nseeds: 2\n")
    plan = make_plan(load_sweep(file))
    assert [cell.variant for cell in plan.cells] == [
        "clip=0.5",
        "clip=1",
        "steps=3",
        "steps=3 keep=none",
        "steps=3 keep=constant",
        "steps=3 momentum=none",
    ]
    assert plan.baseline is plan.cells[2] and [trial.seed for trial in plan.trials] == [0] * 6 + [1] * 6


def test_a_factor_that_is_a_block_leaves_nothing_of_the_baselines_block(file: Path) -> None:
    text = "ablate: {model.memory: [{type: delta}]}\nbaseline: {model.memory.depth: 2, train.steps: 3}\n"
    assert points(file, text)[1] == {"train.steps": 3, "model.memory": {"type": "delta"}}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("ablate: {}", "sweep.yaml:6:1: ablate: names no factor"),
        ("ablate: {mode: both}", "ablate: names no factor"),
        ("ablate: [none]", "ablate: expected a mapping, dotted key: list of values"),
        ("ablate: {train.clip: 0.5}", "sweep.yaml:6:10: ablate.train.clip: expected a list of values"),
        ("ablate: {train.clip: []}", "ablate.train.clip: expected a list of values"),
        ("ablate: {mode: one_out, train.clip: [0]}", "ablate.mode: unknown mode 'one_out'; did you mean"),
        (
            "ablate: {mode: leave_one_out, train.clip: [0, 1]}",
            "ablate.train.clip: has 2 values; expected one for the mode `leave_one_out`",
        ),
        ("ablate: {steps: [3]}", "ablate.steps: unknown key 'steps'; did you mean 'train.steps'?"),
        ("ablate: {train.seed: [0]}", "ablate.train.seed: seeds are no settings"),
        ("ablate: {train.clip: [0]}\nbaseline: {train.seed: 1}", "sweep.yaml:7:12: baseline.train.seed: seeds are no"),
        ("ablate: {train.clip: [0]}\nexclude: [train.clip == 1]", "exclude: takes out the baseline that `ablate`"),
    ],
)
def test_a_bad_ablation_is_located(file: Path, text: str, expected: str) -> None:
    assert expected in refusal(file, text + "\n")


def test_an_ablated_value_that_no_run_can_have_is_located(file: Path) -> None:
    file.write_text(BASE + "ablate: {model.memory.keep: [off]}\n")
    with pytest.raises(ConfigError, match=r"sweep.yaml:6:30: ablate.model.memory.keep.0: .*did you mean 'none'\?"):
        make_plan(load_sweep(file))


def test_the_grid_is_bounded(file: Path) -> None:
    values = list(range(1, 99))
    text = f"paired: [{{train.steps: {values}}}]\naxes: {{train.clip: {values}, train.accumulate: {values}}}\n"
    assert "sweep.yaml:7:1: axes: the axes make 941,192 cells; expected at most 100,000" in refusal(file, text)
