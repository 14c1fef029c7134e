"""Budgets in steps, tokens, operations and seconds: one of them, known in steps before the run, honest in time."""

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from safetensors import safe_open

from titanlab.platform.budgets import budget_of
from titanlab.platform.config import problems_of
from titanlab.platform.costs import Costs, model_costs
from titanlab.platform.errors import ConfigError
from titanlab.platform.plugins import load_plugin
from titanlab.platform.run_config import RunConfig, TrainConfig, load_config
from titanlab.platform.tracking.journal import Point, read_journal
from titanlab.platform.training import meter, pace
from titanlab.platform.training.loop import Outcome, Progress, train
from titanlab.platform.training.schedule import learning_rate, learning_rate_at
from titanlab.sweeps.execution.progress import COMPLETE, Row
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.part import survey_part
from titanlab.sweeps.planning.plan import Plan, make_plan, survey
from titanlab.sweeps.planning.plan_table import plan_csv
from titanlab.sweeps.planning.totals import budget_line, total_line


@pytest.fixture(scope="module", autouse=True)
def tiny_kinds() -> None:
    """Registered when the tests run: tests of every registered kind are collected before."""
    load_plugin(str(Path(__file__).with_name("tiny_kinds.py")))


MODEL = {"dim": 16, "layers": 1, "architecture": {"type": "tiny_block"}, "memory": {"type": "tiny_average"}}
COSTS = Costs(parameters=100, memory_bytes=0, state_bytes=0, flops=50.0, row_length=8)


def tiny(**train: Any) -> RunConfig:
    """Rows of 8 tokens, 4 a step: 32 tokens."""
    settings = {"batch_size": 4, "learning_rate": 1e-2, **train}
    return RunConfig.model_validate({"model": MODEL, "task": {"type": "tiny_count"}, "train": settings})


def complaint(**train: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        TrainConfig.model_validate(train)
    (problem,) = problems_of(refused.value, lambda path: (".".join(map(str, path)), None))
    return f"{problem.path}: {problem.message}"


def test_steps_remain_what_they_were_and_keep_the_keys_of_runs() -> None:
    assert TrainConfig().budget == ("steps", 1000) and TrainConfig().identity() == {}
    assert TrainConfig(steps=7).identity() == {"steps": 7}
    assert {"tokens", "flops", "seconds"}.isdisjoint(TrainConfig().settings())
    # As titanlab wrote it before there were other budgets.
    assert RunConfig.model_validate({"train": {"steps": 20, "learning_rate": 0.01}}).key == "0d6bb7e1cb5f4837"


@pytest.mark.parametrize("budget", [{"tokens": 1000}, {"flops": 1e9}, {"seconds": 1.5}, {"steps": 3}])
def test_a_budget_survives_its_settings_being_written_and_read(budget: dict[str, Any]) -> None:
    config = tiny(**budget)
    assert config.train.budget == next(iter(budget.items()))
    again = RunConfig.model_validate(config.settings())
    assert again == config and again.key == config.key
    assert config.train.replace(clip=2.0).budget == config.train.budget
    assert len({tiny(**other).key for other in ({"tokens": 1000}, {"flops": 1000.0}, {"seconds": 1000.0}, {})}) == 4


def test_whole_numbers_may_be_written_as_people_write_large_ones() -> None:
    assert tiny(tokens=1e6).key == tiny(tokens=1_000_000).key
    assert "tokens: expected a whole number, got 1.5" in complaint(tokens=1.5)
    assert "tokens: " in complaint(tokens=0) and "seconds: " in complaint(seconds=0.0)


def test_a_run_has_exactly_one_budget() -> None:
    message = complaint(steps=3, tokens=1000)
    assert message.startswith("tokens: a run has one budget, but steps and tokens are given")
    assert "tokens and seconds are given" in complaint(tokens=1000, seconds=1.0)
    assert "steps: a run has a budget; give one of steps, tokens, flops, seconds" in complaint(steps=None)
    assert TrainConfig.model_validate({"steps": None, "tokens": 5}).budget == ("tokens", 5)
    assert TrainConfig.model_validate({"steps": 3, "tokens": None}).budget == ("steps", 3)


@pytest.mark.parametrize(
    "budget, steps",
    [({"tokens": 32}, 1), ({"tokens": 63}, 1), ({"tokens": 64}, 2), ({"flops": 3 * 50 * 32 * 5}, 5)]
    + [({"flops": 3 * 50 * 32 * 5 - 1.0}, 4), ({"steps": 9}, 9)],
)
def test_a_budget_is_as_many_steps_as_fit_in_it(budget: dict[str, Any], steps: int) -> None:
    found = budget_of(tiny(**budget), COSTS)
    assert found.steps == steps and found.tokens == 32 * steps and found.flops == 3 * 50 * 32 * steps


def test_a_budget_that_cannot_become_steps_says_why() -> None:
    for config, costs, message in [
        (tiny(tokens=31), COSTS, "train.tokens: is less than one step, which takes 32; raise it"),
        (tiny(flops=10.0), COSTS, "train.flops: is less than one step, which takes 4,800"),
        (tiny(tokens=99), COSTS._replace(row_length=None), "train.tokens: the task does not say how long its rows"),
        (tiny(flops=1e9), COSTS._replace(flops=None, failure="E: no"), "train.flops: operations cannot be counted (E:"),
    ]:
        with pytest.raises(ConfigError, match=r".") as refused:
            budget_of(config, costs)
        assert message in str(refused.value)
    unknown = budget_of(tiny(steps=5), COSTS._replace(row_length=None, flops=None))
    assert (unknown.steps, unknown.tokens, unknown.flops) == (5, None, None)


def test_words_say_the_rounding() -> None:
    assert budget_of(tiny(tokens=1000), COSTS).words == "1,000 tokens: 31 steps of 32, 992 in all"
    assert budget_of(tiny(flops=5000.0), COSTS).words == "5000 FLOPs: 1 step of 4800, 4800 in all"
    assert budget_of(tiny(seconds=90), COSTS).words == "90 seconds of training"
    assert budget_of(tiny(steps=1000), COSTS).words == "1,000 steps"


def clockless(directory: Path) -> list[tuple[int, dict[str, float]]]:
    clocked = ("cost/seconds", "cost/tokens_per_second")
    points = read_journal(directory / "metrics.jsonl")
    return [(at.step, {name: value for name, value in at.metrics.items() if name not in clocked}) for at in points]


def test_tokens_and_operations_train_as_the_steps_they_come_to(tmp_path: Path) -> None:
    costs = model_costs(tiny().model, 16, 8)
    assert costs.flops is not None
    budgets = {"steps": 12, "tokens": 12 * 32 + 31, "flops": 12.5 * 3 * costs.flops * 32}
    outcomes = {unit: train(tiny(**{unit: amount}), tmp_path / unit) for unit, amount in budgets.items()}
    assert {outcome.step for outcome in outcomes.values()} == {12}
    assert clockless(tmp_path / "steps") == clockless(tmp_path / "tokens") == clockless(tmp_path / "flops")
    assert outcomes["tokens"].metrics["cost/tokens"] == 12 * 32 and outcomes["flops"].metrics["cost/steps"] == 12
    assert load_config(tmp_path / "tokens/config.yaml") == tiny(tokens=12 * 32 + 31)


class Clock:
    """Time that passes when a step asks for it: each reading is `tick` later."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock(0.5)
    monkeypatch.setattr(meter, "time", clock)
    yield clock


def timed(directory: Path, stop_after: int = 0, **changes: Any) -> tuple[Outcome, list[Progress]]:
    seen: list[Progress] = []
    config = tiny(**{"seconds": 10.0, "warmup": 0.2, "log_every": 1, **changes})
    outcome = train(config, directory, observe=seen.append, should_stop=lambda: 0 < stop_after == len(seen) + 1)
    return outcome, seen


def rates(points: list[Point]) -> dict[int, float]:
    return {point.step: point.metrics["train/learning_rate"] for point in points if point.metrics}


def test_seconds_end_with_the_step_that_uses_them_up_and_the_rate_follows_the_clock(
    tmp_path: Path, clock: Clock
) -> None:
    outcome, seen = timed(tmp_path, checkpoint_every=1000)
    assert (outcome.status, outcome.step) == ("complete", 20), "each step takes half a second by this clock"
    assert outcome.metrics["cost/seconds"] == pytest.approx(10.0)
    followed = rates(read_journal(tmp_path / "metrics.jsonl"))
    config = tiny(seconds=10.0, warmup=0.2).train
    assert followed == {step: pytest.approx(learning_rate_at((step - 1) / 20, config)) for step in range(1, 21)}
    assert max(followed, key=lambda step: followed[step]) == 5
    assert [progress.seconds_left for progress in seen] == pytest.approx([10 - step / 2 for step in range(1, 21)])
    assert {progress.steps for progress in seen} == {20}


def test_time_is_kept_over_a_stop_and_pauses_between_sessions_cost_nothing(tmp_path: Path, clock: Clock) -> None:
    timed(tmp_path / "whole", checkpoint_every=1000)
    outcome, _ = timed(tmp_path / "parts", stop_after=7, checkpoint_every=1000)
    assert (outcome.status, outcome.step) == ("stopped", 7)
    clock.now += 1000.0
    outcome, _ = timed(tmp_path / "parts", checkpoint_every=1000)
    assert (outcome.status, outcome.step) == ("complete", 20)
    parts, whole = (read_journal(tmp_path / name / "metrics.jsonl") for name in ("parts", "whole"))
    assert rates(parts) == pytest.approx(rates(whole))


def test_evaluation_and_checkpoints_are_not_on_the_clock(tmp_path: Path, clock: Clock) -> None:
    outcome, _ = timed(tmp_path, evaluate_every=3, checkpoint_every=4)
    assert outcome.step == 20 and outcome.metrics["cost/seconds"] == pytest.approx(10.0)


def test_a_timed_run_writes_ten_checkpoints_over_its_time(tmp_path: Path, clock: Clock) -> None:
    seen: set[str] = set()

    def look(progress: Progress) -> None:
        if (weights := tmp_path / "checkpoint/model.safetensors").exists():
            with safe_open(str(weights), framework="pt") as file:
                seen.add(file.metadata()["step"])

    train(tiny(seconds=10.0), tmp_path, observe=look)
    assert seen == {str(step) for step in range(2, 21, 2)}


def test_ranks_agree_on_the_mean_of_their_clocks_and_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "world_size", lambda: 2)
    monkeypatch.setattr(pace, "sum_over_ranks", lambda values: [values[0] + 8.0])  # the other rank's clock shows 8
    config, speed = tiny(seconds=10.0, warmup=0.0).train, meter.Speed(seconds=6.0)
    one = pace.Pace(budget_of(tiny(seconds=10.0), COSTS), config, speed)
    one.take_time()
    assert one.seconds == speed.seconds == 7.0, "what the checkpoint keeps is what all went by"
    assert one.learning_rate(1) == learning_rate_at(0.7, config) and one.saves(1) and not one.at_end(1)


def test_real_seconds_are_about_what_was_asked_for(tmp_path: Path) -> None:
    began = time.perf_counter()
    outcome = train(tiny(seconds=0.5), tmp_path)
    elapsed = time.perf_counter() - began
    assert outcome.step > 1 and 0.5 <= outcome.metrics["cost/seconds"] <= elapsed


def test_the_curve_over_time_is_the_curve_over_steps() -> None:
    config = TrainConfig(learning_rate=2.0, warmup=0.25, final_learning_rate=0.1)
    over_steps = [learning_rate(step, 1000, config) for step in range(1, 1001)]
    over_time = [learning_rate_at(step / 1000, config) for step in range(1, 1001)]
    assert over_time == pytest.approx(over_steps)
    assert learning_rate_at(0.0, config) == 0.0 and learning_rate_at(7.0, config) == pytest.approx(0.2)
    assert learning_rate_at(0.0, TrainConfig(warmup=0.0, learning_rate=2.0)) == 2.0


SWEEP: dict[str, Any] = {
    "name": "budgets",
    "base": {
        "model": {**MODEL, "architecture": {"type": "lmm"}, "memory": {"type": "titans", "heads": 1}},
        "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12},
        "train": {"tokens": 1000, "batch_size": 4},
    },
    "axes": {"model.memory.depth": [1, 2]},
    "seeds": 3,
}


def planned(folder: Path, **train: Any) -> Plan:
    base = {**SWEEP["base"], "train": {"batch_size": 4, **train}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**SWEEP, "base": base}, sort_keys=False))
    return make_plan(load_sweep(folder / "sweep.yaml"))


def test_a_plan_knows_its_steps_and_what_the_sweep_spends_in_all(tmp_path: Path) -> None:
    plan = planned(tmp_path, tokens=1000)
    assert [cell.budget.steps for cell in plan.cells] == [20, 20]
    assert budget_line(plan) == "a trial's budget: 1,000 tokens: 20 steps of 48, 960 in all"
    flops = 3 * sum(6 * 960 * (cell.flops or math.nan) for cell in plan.cells) / 2
    assert total_line(plan).startswith("in all: 6 trials, 120 steps, 5.8 k tokens, ")
    assert f"{flops * 1e-6:.0f} M FLOPs of training" in total_line(plan)
    lines = plan_csv(plan, {}).splitlines()
    assert "steps,tokens,training_flops,training_seconds" in lines[0] and ",20,960," in lines[1]


def test_equal_operations_are_fewer_steps_of_a_costlier_cell(tmp_path: Path) -> None:
    plan = planned(tmp_path, flops=1e8)
    steps = [cell.budget.steps or 0 for cell in plan.cells]
    assert steps[0] > steps[1] > 0
    assert all((cell.budget.flops or 0) <= 1e8 < (cell.budget.flops or 0) + 1e7 for cell in plan.cells)
    assert "(and 1 other budgets of other cells)" in budget_line(plan)


def test_a_plan_of_timed_trials_says_their_time(tmp_path: Path) -> None:
    plan = planned(tmp_path, seconds=3600)
    assert total_line(plan) == "in all: 6 trials, 6.0 h of training, one trial after another"
    assert [cell.budget.steps for cell in plan.cells] == [None, None]


def test_a_cell_whose_budget_is_too_small_is_refused_at_the_place_of_the_budget(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        yaml.safe_dump({**SWEEP, "axes": {"train.tokens": [1000, 20]}}, sort_keys=False)
    )
    surveyed = survey(load_sweep(tmp_path / "sweep.yaml"))
    assert len(surveyed.cells) == 1
    (problem,) = surveyed.refused[0].problems
    assert problem.path == "axes.train.tokens.1" and "less than one step, which takes 48" in problem.message
    assert len(survey_part(load_sweep(tmp_path / "sweep.yaml"), "train.tokens == 1000").cells) == 1


def test_a_timed_trial_shows_how_far_it_is_by_its_time(tmp_path: Path) -> None:
    row = Row("key", "variant", 0, budget_of(tiny(seconds=200), COSTS), tmp_path, step=12, seconds=50.0)
    assert (row.size, row.done, row.position) == (200, 50, "12 (25%)")
    row.status = COMPLETE
    assert (row.done, row.position) == (200, "12 (100%)")
    row = Row("key", "variant", 0, budget_of(tiny(tokens=64), COSTS), tmp_path, step=1)
    assert (row.size, row.done, row.position) == (2, 1, "1/2")


def test_every_pair_of_budgets_is_refused() -> None:
    amounts = {"steps": 1, "tokens": 100, "flops": 1e9, "seconds": 1.0}
    for one, other in itertools.combinations(amounts, 2):
        assert f"{one} and {other} are given" in complaint(**{one: amounts[one], other: amounts[other]})
