"""A plan: every cell validated, counted once, in an order that compares early."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import titanlab.sweeps
from titanlab.platform.errors import ConfigError
from titanlab.platform.model import parameter_count
from titanlab.sweeps.language.labels import variants
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning import sizes
from titanlab.sweeps.planning.plan import Plan, make_plan

BASE: dict[str, Any] = {
    "model": {
        "dim": 16,
        "layers": 1,
        "architecture": {"type": "lmm"},
        "memory": {"type": "titans", "depth": 1, "heads": 1, "chunk_size": 4},
    },
    "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12},
    "train": {"steps": 2, "batch_size": 2},
}


def plan(folder: Path, **sweep: Any) -> Plan:
    """The plan of a sweep over `BASE`."""
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"name": "tiny", "base": BASE, **sweep}, sort_keys=False))
    return make_plan(load_sweep(file))


def test_the_grid_is_the_product_in_written_order_with_explicit_cells_beside_it(tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        axes={"model.memory.depth": [1, 2], "model.memory.keep": ["none", "token"]},
        cells=[{"model.architecture": {"type": "transformer", "heads": 2}}],
        seeds=[3, 1],
    )
    assert [cell.variant for cell in made.cells] == [
        "depth=1 keep=none",
        "depth=1 keep=token",
        "depth=2 keep=none",
        "depth=2 keep=token",
        "architecture=transformer",
    ]
    assert made.cells[1].settings == {"model.memory.depth": 1, "model.memory.keep": "token"}
    assert made.summary == "10 trials (5 cells x 2 seeds)"
    assert [trial.seed for trial in made.trials] == [3] * 5 + [1] * 5, "all cells with the first seed come first"
    assert [trial.cell_key for trial in made.trials[:5]] == [cell.key for cell in made.cells]
    assert all(trial.config.train.seed == trial.seed for trial in made.trials)
    assert len({trial.key for trial in made.trials}) == 10
    assert made.cell(made.cells[2].key) is made.cells[2]


def test_a_mapping_replaces_its_block_and_a_finer_key_holds_within_it(tmp_path: Path) -> None:
    made = plan(tmp_path, axes={"model.memory.heads": [2], "model.memory": [{"type": "delta"}, {"type": "titans"}]})
    memories = [cell.trials[0].config.model.memory for cell in made.cells]
    assert [memory.type_name for memory in memories] == ["delta", "titans"]
    assert [memory.settings()["heads"] for memory in memories] == [2, 2]
    assert memories[1].settings()["depth"] != 1, "nothing of the base's block is left"


def test_an_axis_into_a_block_that_the_base_leaves_out_changes_the_default_block(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("name: x\nbase: {}\naxes: {model.memory.depth: [1, 2], train.steps: [5]}\n")
    made = make_plan(load_sweep(file))
    assert [cell.trials[0].config.model.memory.settings()["depth"] for cell in made.cells] == [1, 2]


def test_the_same_run_written_twice_is_planned_once_and_said(tmp_path: Path) -> None:
    made = plan(tmp_path, axes={"train.steps": [2, 3, 2], "train.device": ["auto", "cpu"]}, cells=[{}])
    assert len(made.cells) == 2
    assert "'base' is the same run as 'steps=2 device=auto': planned once" in made.notes
    assert len(made.notes) == 5


def test_parameters_and_memory_are_those_of_the_model_that_would_train(tmp_path: Path) -> None:
    made = plan(tmp_path, axes={"model.memory": [{"type": "titans"}, {"type": "delta"}], "model.dim": [16, 48]})
    for cell in made.cells:
        config = cell.trials[0].config
        assert cell.parameters == parameter_count(config.model.build(config.task.vocab_size))
        assert cell.memory_bytes == config.model.memory.state_size(config.model.dim) > 0
    transformer = plan(tmp_path, axes={"model.architecture": [{"type": "transformer", "heads": 2}]}).cells[0]
    assert transformer.memory_bytes == 0


def test_each_distinct_model_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    real = sizes.model_costs
    monkeypatch.setattr(sizes, "model_costs", lambda *arguments: built.append(arguments) or real(*arguments))
    made = plan(tmp_path, axes={"model.memory.depth": [1, 2], "train.clip": [1.0, 2.0, 3.0]}, seeds=4)
    assert len(made.trials) == 24 and len(built) == 2


def test_a_plan_leaves_the_random_state_as_it_is(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    plan(tmp_path, axes={"model.memory.depth": [1, 2, 3]})
    assert torch.equal(before, torch.random.get_rng_state())


SLOW_IMPORTS = """
import sys
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan
make_plan(load_sweep(sys.argv[1]))
print(*(name for name in ("ray", "mlflow", "matplotlib", "scipy", "torch._dynamo", "sympy") if name in sys.modules))
"""


def test_a_plan_imports_nothing_slow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SLOW_IMPORTS, str(Path(titanlab.sweeps.__path__[0]) / "quickstart.yaml")],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "baseline",
    [
        {"model.memory.depth": 2},
        {"model.memory": {"depth": 2}},
        {"model.memory.depth": 2, "model.memory.type": "titans", "train.steps": 2},
    ],
)
def test_a_baseline_is_the_one_cell_that_has_its_settings(tmp_path: Path, baseline: dict[str, Any]) -> None:
    made = plan(tmp_path, axes={"model.memory.depth": [1, 2]}, baseline=baseline)
    assert made.baseline is made.cells[1] and made.baseline.is_baseline
    assert [cell.is_baseline for cell in made.cells] == [False, True]


def test_a_boolean_is_no_number_to_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no planned cell"):
        plan(tmp_path, axes={"model.memory.depth": [1, 2]}, baseline={"model.memory.depth": True})


@pytest.mark.parametrize(
    "objective, aim",
    [
        ({}, ("final/loss", "min")),
        ({"metric": "final/accuracy"}, ("final/accuracy", "max")),
        ({"metric": "cost/tokens_per_second"}, ("cost/tokens_per_second", "max")),
        ({"metric": "cost/seconds"}, ("cost/seconds", "min")),
        ({"metric": "val/loss", "direction": "max"}, ("val/loss", "max")),
    ],
)
def test_an_objective_has_sensible_defaults(tmp_path: Path, objective: dict[str, str], aim: tuple[str, str]) -> None:
    assert plan(tmp_path, axes={"train.steps": [1]}, objective=objective).objective == aim


def test_seeds_default_to_the_seed_of_the_base(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("name: x\nbase: {train: {seed: 5}}\naxes: {train.steps: [1]}\n")
    assert [trial.seed for trial in make_plan(load_sweep(file)).trials] == [5]


def test_adding_to_a_sweep_leaves_the_keys_of_the_trials_it_had(tmp_path: Path) -> None:
    small = plan(tmp_path, axes={"model.memory.depth": [1]}, seeds=1)
    large = plan(tmp_path, axes={"model.memory.depth": [1, 2], "train.clip": [1.0, 2.0]}, seeds=2, name="another")
    assert {trial.key for trial in small.trials} < {trial.key for trial in large.trials}


def test_thousands_of_cells_are_planned_with_each_problem_told_once(tmp_path: Path) -> None:
    axes = {
        "train.steps": list(range(1, 41)),
        "train.clip": [value / 10 for value in range(40)],
        "model.memory.keep": ["none", "on"],
    }
    with pytest.raises(ConfigError) as refused:
        plan(tmp_path, axes=axes)
    assert len(refused.value.problems) == 1
    assert refused.value.problems[0].path == "axes.model.memory.keep.1"


@pytest.mark.parametrize("name", ["quickstart", "depth_momentum_gating"])
def test_the_shipped_sweeps_can_be_planned(name: str) -> None:
    file = Path(titanlab.sweeps.__path__[0]) / f"{name}.yaml"
    made = make_plan(load_sweep(file))
    assert made.baseline is not None and made.baseline.variant == "architecture=transformer"
    assert {"model.memory.depth", "model.memory.momentum", "model.memory.keep"} == set(made.axes)


def test_labels_are_as_short_as_stays_clear() -> None:
    points: list[dict[str, Any]] = [
        {"model.memory.heads": 2, "model.architecture.heads": 4, "train.clip": 1e-3, "task.type": "mqar"},
        {"model.memory": {"type": "titans", "depth": 1, "keep": "none"}},
        {"model.memory": {"type": "titans", "depth": 2, "keep": "none"}},
        {"model.architecture": {"type": "mac", "segment": 8}, "train.on": True, "train.off": None},
        {},
    ]  # fmt: skip
    assert variants(points) == [
        "memory.heads=2 architecture.heads=4 clip=0.001 task=mqar",
        "memory=titans(depth=1)",
        "memory=titans(depth=2)",
        "architecture=mac on=true off=null",
        "base",
    ]


def test_a_chunk_as_long_as_the_tasks_rows_is_said_where_it_is_a_part_of_the_rule(tmp_path: Path) -> None:
    memories = [{"type": "lact"}, {"type": "lact", "chunk_size": 4}, {"type": "delta", "chunk_size": 64}]
    said = [note for note in plan(tmp_path, axes={"model.memory": memories}).notes if "chunks of" in note]
    assert said == [
        "memory 'lact' has chunks of 2048 tokens and the task rows of 12: all gradients are taken at the memory before "
        "the first token"
    ]
