"""Tuning: which points are tried, what is chosen, and that it follows from what is on the disk alone.

Trials are played: their outcomes are written as a trial would, with a value that is a function of their settings.
"""

import csv
import io
import math
import statistics
import sys

import pytest
import yaml

from titanlab.platform.errors import ConfigError
from titanlab.platform.tracking.journal import Journal
from titanlab.platform.training.run_directory import METRICS, write_outcome
from titanlab.sweeps.conclusions.report import write_report
from titanlab.sweeps.conclusions.summary import summarize
from titanlab.sweeps.execution.course import Course
from titanlab.sweeps.execution.progress import Progress
from titanlab.sweeps.execution.stages import standing
from titanlab.sweeps.execution.trial_record import TrialRecord, begin_attempt, write_failure
from titanlab.sweeps.language.search_space import Span
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan
from titanlab.sweeps.planning.tuning_lines import border_lines, choice_lines, tuning_csv
from titanlab.sweeps.tuning.halving import Rung, best, rungs, steps_taken
from titanlab.sweeps.tuning.search import random_points

RATES = {"low": 1.0e-4, "high": 1.0e-1}
BEST_RATE = {1: 2.0e-3, 2: 2.0e-2}
"""Of the played trials, by layers."""


@pytest.fixture
def plan_of(tmp_path):
    """Plans a sweep of two cells with these settings of `tune`; None takes a key out."""

    def planned(*, top=None, train=None, **tune):
        tune = {"train.learning_rate": RATES, "trials": 9, **tune}
        sweep = {
            "name": "tuned",
            "base": {
                "model": {"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": {"type": "linear"}},
                "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12},
                "train": {"steps": 900, **(train or {})},
            },
            "axes": {"model.layers": [1, 2]},
            "tune": {key: value for key, value in tune.items() if value is not None},
            "seeds": 2,
            "baseline": {"model.layers": 1},
            "objective": {"metric": "final/loss"},
            **(top or {}),
        }
        file = tmp_path / "tuned.yaml"
        file.write_text(yaml.safe_dump(sweep, sort_keys=False))
        return make_plan(load_sweep(file))

    return planned


def loss(config):
    """What a played trial comes to: a parabola over the logarithm of its learning rate."""
    away = math.log10(config.train.learning_rate / BEST_RATE[config.model.layers])
    return 1.0 + away**2 + 0.1 * config.train.weight_decay


def play_step(step, trials, value=loss):
    """Leaves on the disk what the trial of a step would."""
    folder, config = trials / step.trial.key, step.trial.config
    begin_attempt(folder)
    result = value(config)
    if isinstance(result, TrialRecord):
        write_failure(folder, result)
        return
    if step.pause_at is not None:
        with Journal(folder / METRICS) as journal:
            journal.write(step.pause_at, {"val/loss": result})
        return
    metrics = {"val/loss": result} | ({"final/loss": result + 0.01} if config.train.evaluate_test else {})
    write_outcome(folder, config.train.steps, metrics, "d1e5")


def play(plan, trials, value=loss, rounds=1000):
    """One command: plays what can run until nothing is left or so many rounds are over; the steps in their order."""
    course, played, ended = Course(plan, trials), [], set()
    for _ in range(rounds):
        steps = course.take()
        if not steps:
            break
        for step in steps:
            play_step(step, trials, value)
            ended.add(step.trial.key)
        played += steps
        course.look(ended)
    return course.plan, played


def tuning_steps(played, layers):
    return [step for step in played if step.trial.stage == "tune" and step.trial.config.model.layers == layers]


# What is tried


def test_every_cell_tries_the_same_points_with_the_same_budget(plan_of, tmp_path):
    _, played = play(plan_of(**{"train.weight_decay": {"choices": [0.0, 0.1]}}), tmp_path)
    one, two = tuning_steps(played, 1), tuning_steps(played, 2)
    assert len(one) == len(two) == 9
    assert [step.trial.values for step in one] == [step.trial.values for step in two]
    assert {step.trial.config.train.steps for step in [*one, *two]} == {900}
    assert {step.trial.seed for step in [*one, *two]} == {1_000_000}
    assert len({step.trial.key for step in [*one, *two]}) == 18


def test_cells_take_turns_in_the_tuning_and_the_comparison_comes_after_all_of_it(plan_of, tmp_path):
    _, played = play(plan_of(), tmp_path)
    assert [step.trial.config.model.layers for step in played[:18]] == [1, 2] * 9
    assert [(step.trial.stage, step.trial.config.model.layers, step.trial.seed) for step in played[18:]] == [
        ("final", 1, 0),
        ("final", 2, 0),
        ("final", 1, 1),
        ("final", 2, 1),
    ]


def test_a_longer_search_begins_with_the_points_of_a_shorter_one_and_another_key_moves_no_value():
    rate, decay = Span(low=1e-4, high=1e-1), Span(choices=[0.0, 0.1])
    short, long = (random_points({"rate": rate}, 3, count) for count in (5, 12))
    both = random_points({"rate": rate, "decay": decay}, 3, 5)
    assert long[:5] == short == [{"rate": point["rate"]} for point in both]
    assert random_points({"rate": rate}, 4, 5) != short


@pytest.mark.parametrize(("scale", "middle"), [("log", 1e-2), ("linear", 0.5)])
def test_points_lie_in_their_range_spread_by_its_scale(scale, middle):
    points = random_points({"rate": Span(low=1e-4, high=1.0, scale=scale)}, 0, 999)
    values = [point["rate"] for point in points]
    assert all(1e-4 <= value <= 1.0 and value == float(f"{value:.4g}") for value in values)
    assert len(set(values)) == 999
    low, _, high = statistics.quantiles(values, n=4)
    assert low < middle / 1.2 and high > middle * 1.2
    assert 0.8 * middle < statistics.median(values) < 1.25 * middle


def test_a_search_among_choices_tries_each_combination_once():
    space = {"decay": Span(choices=[0.0, 0.1]), "clip": Span(choices=[0.0, 1.0, 2.0])}
    points = random_points(space, 0, 6)
    assert len({tuple(point.values()) for point in points}) == 6


# What is chosen


def test_the_best_point_of_each_cell_is_compared_with_the_seeds_of_the_sweep(plan_of, tmp_path):
    plan, _ = play(plan_of(), tmp_path)
    for cell in plan.cells:
        search = plan.tuning.search(cell.key)
        assert search.chosen == min(search.tried, key=lambda point: loss(point.trials[0].config))
        for trial, seed in zip(cell.trials, (0, 1), strict=True):
            assert trial.config.train.learning_rate == search.chosen.values["train.learning_rate"]
            assert (trial.seed, trial.config.train.seed, trial.pending) == (seed, seed, False)
            assert trial.key == trial.config.key
    rates = [cell.trials[0].config.train.learning_rate for cell in plan.cells]
    assert rates[0] < rates[1]
    assert plan.baseline is plan.cells[0]


def test_a_point_with_several_seeds_is_judged_by_their_mean(plan_of, tmp_path):
    def spoiled(config):
        best_rate = 1.0 < loss(config) < 1.05
        return loss(config) + (10 if best_rate and config.train.seed == 8 else 0)

    plan, played = play(plan_of(seeds=[7, 8]), tmp_path, spoiled)
    assert len(tuning_steps(played, 1)) == 18
    for search in plan.tuning.searches:
        means = [statistics.mean(spoiled(trial.config) for trial in point.trials) for point in search.tried]
        assert search.chosen.number == means.index(min(means))


def test_what_diverged_is_the_worst_and_is_not_run_again(plan_of, tmp_path):
    def diverging(config):
        return TrialRecord("diverged") if config.train.learning_rate > 1e-2 else loss(config)

    plan, played = play(plan_of(), tmp_path, diverging)
    for search in plan.tuning.searches:
        states = [(point.state, point.values["train.learning_rate"] > 1e-2) for point in search.tried]
        assert set(states) == {("failed", True), ("complete", False)}
        assert search.chosen.values["train.learning_rate"] <= 1e-2
    again, more = play(plan_of(), tmp_path, diverging)
    assert more == [] and again.cells == plan.cells
    progress = Progress(plan, {trial.key: tmp_path / trial.key for trial in plan.stages})
    progress.look_at_disk()
    assert all(row.is_over and not row.reason for row in progress.rows.values())


def test_another_failure_counts_in_its_session_and_is_tried_again_in_the_next(plan_of, tmp_path):
    def broken(config):
        return TrialRecord("failed") if loss(config) < 1.05 else loss(config)

    plan, first = play(plan_of(), tmp_path, broken)
    failed = [step for step in first if isinstance(broken(step.trial.config), TrialRecord)]
    assert failed and any(step.trial.stage == "final" for step in first)
    mended, second = play(plan_of(), tmp_path)
    assert [step.trial.key for step in second[: len(failed)]] == [step.trial.key for step in failed]
    assert all(search.chosen.value < 1.05 for search in mended.tuning.searches)


def test_a_cell_without_a_single_value_keeps_no_other_from_its_comparison(plan_of, tmp_path):
    plan, played = play(
        plan_of(), tmp_path, lambda config: TrialRecord("diverged") if config.model.layers == 2 else loss(config)
    )
    assert [step.trial.config.model.layers for step in played if step.trial.stage == "final"] == [1, 1]
    assert all(trial.pending for trial in plan.cells[1].trials)
    assert "nothing chosen, none of 9 points has a value" in choice_lines(plan)[1]
    progress = Progress(plan, {trial.key: tmp_path / trial.key for trial in plan.stages})
    progress.look_at_disk()
    reasons = [row.reason for row in progress.rows.values() if row.reason]
    assert len(reasons) == 2 and all("no point of its tuning has a value" in reason for reason in reasons)


# What is on the disk decides


@pytest.mark.parametrize("tune", [{}, {"scheduler": "halving"}, {"method": "optuna", "parallel": 2}])
def test_a_search_that_was_cut_anywhere_goes_on_with_the_same_points_and_chooses_the_same(plan_of, tmp_path, tune):
    if "method" in tune:
        pytest.importorskip("optuna")
    whole, straight = play(plan_of(**tune), tmp_path / "straight")
    count = len(straight)
    for cut in range(1, count, 5):
        trials, played = tmp_path / f"cut-{cut}", 0
        course, ended = Course(plan_of(**tune), trials), set()
        while played < cut:
            for step in course.take()[: cut - played]:
                play_step(step, trials)
                ended.add(step.trial.key)
                played += 1
            course.look(ended)
        resumed, rest = play(plan_of(**tune), trials)
        assert played + len(rest) == count
        assert resumed.cells == whole.cells and resumed.tuning == whole.tuning


def test_a_plan_that_nobody_ran_waits_for_its_tuning(plan_of, tmp_path):
    plan = standing(plan_of(), tmp_path / "nothing").plan
    assert plan.summary == "22 trials: 18 to tune (2 cells x 9), 4 to compare (2 cells x 2 seeds)"
    assert all(trial.pending for trial in plan.trials) and len(plan.stages) == 22
    assert not (tmp_path / "nothing").exists()


def test_more_trials_later_keep_what_was_tried_and_may_choose_anew(plan_of, tmp_path):
    few, first = play(plan_of(trials=3), tmp_path)
    many, more = play(plan_of(trials=12), tmp_path)
    assert len([step for step in more if step.trial.stage == "tune"]) == 18
    for before, after in zip(few.tuning.searches, many.tuning.searches, strict=True):
        assert after.tried[:3] == before.tried
        assert after.chosen.value <= before.chosen.value


# Successive halving


def test_rungs_are_those_of_successive_halving():
    assert rungs(9, 900, 3) == [Rung(100, 3), Rung(300, 1)]
    assert rungs(8, 1000, 2) == [Rung(125, 4), Rung(250, 2), Rung(500, 1)]
    assert rungs(8, 100, 3) == [Rung(34, 2)]
    assert rungs(2, 100, 3) == [] and rungs(9, 1, 3) == []
    assert rungs(81, 4, 3) == [Rung(1, 3), Rung(2, 1)]  # two rungs at the first step are one
    assert steps_taken(9, 900, 3) == 9 * 100 + 3 * 200 + 600
    assert best([3.0, math.inf, 1.0, 1.0, 2.0], 2, more=False) == [2, 3]
    assert best([3.0, -math.inf, 1.0], 2, more=True) == [0, 2]
    assert best([math.inf, math.inf], 1, more=False) == []


def test_halving_trains_the_best_points_on_and_gives_every_cell_the_same_steps(plan_of, tmp_path):
    plan, played = play(plan_of(scheduler="halving"), tmp_path)
    for layers, search in enumerate(plan.tuning.searches, start=1):
        steps = tuning_steps(played, layers)
        assert [step.pause_at for step in steps] == [100] * 9 + [300] * 3 + [None]
        ranked = sorted(search.tried, key=lambda point: loss(point.trials[0].config))
        assert {step.trial.key for step in steps[9:12]} == {point.trials[0].key for point in ranked[:3]}
        assert [point.state for point in ranked] == ["complete"] + ["given up"] * 8
        assert search.chosen.number == ranked[0].number
        assert plan.tuning.steps_of(search.cell) == 9 * 100 + 3 * 200 + 600


def test_a_rung_never_lets_a_diverged_point_through(plan_of, tmp_path):
    def diverging(config):
        return TrialRecord("diverged") if config.train.learning_rate > 3e-4 else loss(config)

    plan, played = play(plan_of(scheduler="halving"), tmp_path, diverging)
    for search in plan.tuning.searches:
        alive = [point for point in search.tried if point.values["train.learning_rate"] <= 3e-4]
        assert 0 < len(alive) < 3 and search.chosen in alive
        assert {point.state for point in search.tried if point not in alive} == {"failed"}


# Optuna


def test_optuna_begins_with_the_random_points_and_then_goes_where_each_cell_does_well(plan_of, tmp_path):
    pytest.importorskip("optuna")
    plan, played = play(plan_of(method="optuna", trials=30), tmp_path)
    first = [point.values for point in plan.tuning.searches[0].tried[:10]]
    assert first == [point.values for point in plan.tuning.searches[1].tried[:10]]
    assert len(tuning_steps(played, 1)) == len(tuning_steps(played, 2)) == 30
    for layers, search in enumerate(plan.tuning.searches, start=1):
        away = [abs(math.log10(p.values["train.learning_rate"] / BEST_RATE[layers])) for p in search.tried]
        assert statistics.median(away[10:]) < statistics.median(away[:10])
        assert min(away) < 0.1


def test_without_optuna_the_plan_says_how_to_get_it(plan_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        ConfigError, match=r"tuned.yaml:\d+:\d+: tune.method: needs Optuna: pip install 'titanlab\[tune\]'"
    ):
        plan_of(method="optuna")
    plan_of()  # random search needs nothing


# What is refused


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ({"train.learning_rate": {"low": 0, "high": 1}}, r"tune.train.learning_rate.low: a log scale starts above 0"),
        (
            {"train.learning_rate": {"low": -1, "high": 1, "scale": "linear"}},
            r"learning_rate.low: expected a number gr",
        ),
        ({"train.learning_rate": {"low": 1, "high": 0.1}}, r"tune.train.learning_rate.high: expected more than low"),
        ({"train.learning_rate": {}}, r"tune.train.learning_rate: expected a range"),
        ({"train.learning_rate": {"low": 1, "choices": [1]}}, r"learning_rate.low: a list of `choices` has no range"),
        ({"train.learning_rate": {"lo": 1, "high": 2}}, r"did you mean 'low'"),
        ({"train.weight_decay": {"choices": [0.0, -1.0]}}, r"weight_decay.choices.1: expected a number of at least 0"),
        ({"train.weight_decay": {"choices": [0.1, 0.1]}}, r"weight_decay.choices: 0.1 stands here twice"),
        ({"train.lerning_rate": RATES}, r"did you mean 'train.learning_rate'"),
        ({"trial": 3}, r"tune.trial: unknown key 'trial'; did you mean 'trials'"),
        ({"model.dim": {"choices": [16, 32]}}, r"tune.model.dim: only settings of training are tuned"),
        ({"train.steps": {"choices": [16, 32]}}, r"tune.train.steps: is the budget of a run"),
        ({"train.evaluate_test": {"choices": [True]}}, r"is no setting that a search could choose"),
        ({"train.learning_rate": None}, r"tune: names nothing to tune"),
        ({"train.learning_rate": None, "train.clip": {"choices": [0.0, 1.0]}}, r"make 2 points only, fewer than 9"),
        ({"seeds": [5, 1]}, r"tune.seeds: cells are compared with seed 1"),
        ({"seeds": 0}, r"tune.seeds: expected a count"),
        ({"metric": "final/loss"}, r"is of the test split, which no choice may look at; write val/loss"),
        ({"metric": "val/los"}, r"tune.metric: .*did you mean 'val/loss'"),
        ({"method": "optuna", "scheduler": "halving"}, r"tune.scheduler: `halving` needs all points at once"),
        ({"scheduler": "asha"}, r"tune.scheduler: expected 'fifo' or 'halving'"),
        ({"top": {"axes": {"train.learning_rate": [0.1, 0.2]}, "baseline": None}}, r"is compared by `axes.train.learn"),
        ({"train": {"steps": None, "seconds": 5}, "scheduler": "halving"}, r"tune.scheduler: halving counts steps"),
    ],
)
def test_a_tuning_that_could_mislead_or_not_run_is_refused_with_its_place(plan_of, tune, words):
    with pytest.raises(ConfigError, match=rf"tuned.yaml:\d+:\d+: .*{words}"):
        plan_of(**tune)


# What is said


def test_a_choice_at_the_border_of_its_range_is_said_to_be_one(plan_of, tmp_path):
    plan, _ = play(plan_of(trials=40, **{"train.weight_decay": {"low": 0.0, "high": 1.0, "scale": "linear"}}), tmp_path)
    assert border_lines(plan) == []  # the optimum lies within, and no weight decay has nothing below it
    falling = lambda config: -math.log(config.train.learning_rate)  # noqa: E731
    choices = {"choices": [1.0e-3, 1.0e-2, 1.0e-1]}
    plan, _ = play(plan_of(trials=3, **{"train.learning_rate": choices}), tmp_path / "falling", falling)
    assert border_lines(plan) == [
        "The chosen train.learning_rate lies at the high end of its range (one of 0.001, 0.01, 0.1) for layers=1, "
        "layers=2: the best value may lie beyond it; widen it."
    ]
    plan, _ = play(plan_of(trials=4), tmp_path / "few", falling)
    assert all(search.chosen.values["train.learning_rate"] < 0.07 for search in plan.tuning.searches)
    (line,) = border_lines(plan)
    assert "is the highest that was tried in its range (0.0001 to 0.1 (log))" in line
    assert line.endswith("widen it or try more points.")


def test_the_report_holds_the_space_the_choices_and_a_picture(plan_of, tmp_path):
    def diverging(config):
        return TrialRecord("diverged") if config.train.learning_rate > 1e-2 else loss(config)

    tune = {"train.weight_decay": {"choices": [0.0, 0.1]}, "scheduler": "halving"}
    play(plan_of(**tune), tmp_path / "trials", diverging)
    summary = summarize(plan_of(**tune), tmp_path / "trials")
    written = write_report(summary, tmp_path / "trials", tmp_path / "report")
    assert {"tuning.png", "tuning.svg", "tuning.csv"} <= {path.name for path in written.files}
    for name in ("report.md", "report.html"):
        text = (tmp_path / "report" / name).read_text().replace("\\", "")
        assert "train.learning_rate: 0.0001 to 0.1 (log); train.weight_decay: one of 0, 0.1" in text
        assert "never read the test split" in text and "the best of 9 points (" in text
    assert summary.complete == 4 and len(summary.rows) == 2
    lines = list(csv.DictReader(io.StringIO(tuning_csv(summary.plan))))
    assert len(lines) == 18 and [line["chosen"] for line in lines].count("true") == 2
    assert {line["state"] for line in lines} == {"complete", "given up", "failed"}
