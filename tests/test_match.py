"""`match`: cells brought to equal size by one width, solved before anything runs, shown, and never pretended."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from titanlab.platform.config import Config
from titanlab.platform.costs import model_costs
from titanlab.platform.errors import ConfigError
from titanlab.platform.model import parameter_count
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import Cell, Plan, make_plan, survey
from titanlab.sweeps.planning.plan_table import plan_csv, trial_table
from titanlab.sweeps.planning.width_search import Number, Values, WidthSearch, values_of

BASE: dict[str, Any] = {
    "model": {
        "dim": 32,
        "layers": 1,
        "architecture": {"type": "lmm"},
        "memory": {"type": "titans", "depth": 1, "heads": 2, "chunk_size": 8},
    },
    "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 16},
    "train": {"steps": 2, "batch_size": 2},
}
MEMORIES: list[dict[str, Any]] = [{"type": "delta"}, {"type": "gla"}, {"type": "titans", "depth": 2, "chunk_size": 8}]
TRANSFORMER = {"model.architecture": {"type": "transformer", "heads": 2}}
PARAMETERS = {"on": "parameters", "vary": "model.expansion"}
"""`match` with its defaults: to the baseline, within 2 %."""


def load(folder: Path, match: dict[str, Any] | None, **sweep: Any) -> Any:
    file = folder / "sweep.yaml"
    terms = {} if match is None else {"match": match}
    file.write_text(yaml.safe_dump({"name": "m", "base": BASE, **terms, **sweep}, sort_keys=False))
    return load_sweep(file)


def plan(folder: Path, match: dict[str, Any] | None, **sweep: Any) -> Plan:
    return make_plan(load(folder, match, **sweep))


def refusals(folder: Path, match: dict[str, Any], **sweep: Any) -> list[str]:
    try:
        return [str(problem) for cell in survey(load(folder, match, **sweep)).refused for problem in cell.problems]
    except ConfigError as error:  # no cell is left
        return [str(problem) for problem in error.problems]


WIDE = {**TRANSFORMER, "model.expansion": 12.0}


def compared(baseline: dict[str, Any] = TRANSFORMER) -> dict[str, Any]:
    return {"axes": {"model.memory": MEMORIES}, "cells": [baseline], "baseline": baseline}


def expansion(cell: Cell) -> float:
    return cell.trials[0].config.model.expansion


@pytest.mark.parametrize("on", ["parameters", "flops"])
def test_cells_come_within_the_tolerance_of_the_baseline_which_stays_as_written(tmp_path: Path, on: str) -> None:
    before = plan(tmp_path, None, **compared(WIDE))
    after = plan(tmp_path, {"on": on, "vary": "model.expansion"}, **compared(WIDE))
    assert [cell.variant for cell in after.cells] == [cell.variant for cell in before.cells]
    assert before.baseline is not None and after.baseline is not None
    assert after.baseline.key == before.baseline.key and after.baseline.match is None
    for cell in after.cells[:-1]:
        model, target = cell.trials[0].config.model, after.baseline
        counted = model_costs(model, 32, 16)
        reached = counted.parameters / target.parameters if on == "parameters" else counted.flops / target.flops
        assert abs(reached - 1) <= 0.02 and cell.match is not None and cell.match.solved
        assert cell.match.deviation == pytest.approx(reached - 1) and cell.match.value == model.expansion != 2.0
        assert (cell.parameters, cell.flops) == (counted.parameters, counted.flops)
    assert parameter_count(after.cells[0].trials[0].config.model.build(32)) == after.cells[0].parameters


def test_the_solved_value_is_part_of_the_configuration_and_its_key(tmp_path: Path) -> None:
    matched = plan(tmp_path, PARAMETERS, **compared()).cells[0]
    run = matched.trials[0].config
    written = {"model.memory": MEMORIES[0], "model.expansion": expansion(matched)}
    alone = plan(tmp_path, None, cells=[written]).cells[0]
    assert matched.key == alone.key == run.cell_key and matched.trials[0].key == alone.trials[0].key
    assert run.settings()["model"]["expansion"] == expansion(matched)
    assert run.train.steps == 2 and run.model.dim == 32, "nothing else has changed"


def test_state_is_matched_by_whole_heads(tmp_path: Path) -> None:
    match = {"on": "state", "vary": "model.memory.heads", "to": 5500, "tolerance": 0.25}
    made = plan(tmp_path, match, axes={"model.memory": [{"type": "delta"}, {"type": "gla"}], "model.dim": [32, 64]})
    for cell in made.cells:
        heads = cell.trials[0].config.model.memory.settings()["heads"]
        assert cell.match is not None and heads == cell.match.value and 32 % heads == 0
        assert cell.state_bytes is not None and abs(cell.state_bytes / 5500 - 1) <= 0.25
    assert len({cell.match.value for cell in made.cells if cell.match}) > 1


def test_the_width_of_the_model_keeps_to_its_multiples(tmp_path: Path) -> None:
    match = {"on": "parameters", "vary": "model.dim", "to": 500_000, "tolerance": 0.1}
    made = plan(tmp_path, match, axes={"model.memory": MEMORIES})
    dims = [cell.trials[0].config.model.dim for cell in made.cells]
    assert all(dim % 16 == 0 for dim in dims)
    for cell, dim in zip(made.cells, dims, strict=True):  # no other width is nearer
        model = cell.trials[0].config.model
        off = [abs(model_costs(model.replace(dim=dim + by), 32, 16).parameters / 500_000 - 1) for by in (-16, 0, 16)]
        assert min(off) == off[1] <= 0.1


def test_a_number_is_for_the_baseline_too_and_close_cells_stay_as_written(tmp_path: Path) -> None:
    here = plan(tmp_path, None, **compared()).cells[0].parameters
    made = plan(tmp_path, {**PARAMETERS, "to": here, "tolerance": 0.001 + 8 * 96 / here / 2}, **compared())
    assert made.cells[0].match is not None and not made.cells[0].match.solved and expansion(made.cells[0]) == 2.0
    assert made.baseline is not None and made.baseline.match is not None and made.baseline.match.solved
    assert made.baseline.is_baseline and made.baseline is made.cells[-1]


def test_the_plan_shows_what_was_solved(tmp_path: Path) -> None:
    made = plan(tmp_path, PARAMETERS, **compared())
    first = made.cells[0].match
    assert first is not None and first.words == f"expansion={first.value:g}, {first.deviation:+.2%}"
    (note,) = (note for note in made.notes if "matched" in note)
    assert note.startswith(f"3 cells are matched to the {made.cells[-1].parameters:,} parameters of the baseline: ")
    assert "model.expansion from " in note and "off by at most " in note
    lines = plan_csv(made, {}).splitlines()
    assert f",{first.value},{round(first.deviation, 6)}," in lines[1] and "matched_value,matched_deviation" in lines[0]
    column = trial_table(made, {}).columns[6]
    shown = list(column.cells)
    assert (column.header, shown[0], shown[-1]) == ("matched", first.words, "as written")


def test_a_budget_in_operations_is_that_of_the_matched_cell(tmp_path: Path) -> None:
    base = {**BASE, "train": {"flops": 1e8, "batch_size": 2}}
    made = plan(tmp_path, {"on": "flops", "vary": "model.expansion"}, **compared(WIDE), base=base)
    steps = [cell.budget.steps or 0 for cell in made.cells]
    assert 0 < max(steps) <= 1.05 * min(steps)


def test_a_width_without_effect_is_refused_with_advice(tmp_path: Path) -> None:
    vary = {"on": "flops", "vary": "model.memory.expansion", "to": 50_000}
    cells = [TRANSFORMER, {"model.memory.depth": 1}, {"model.memory": {"type": "delta"}}]
    transformer, flat, without = refusals(tmp_path, vary, cells=cells)
    assert "match.vary: model.memory.expansion has no effect on FLOPs a token here" in transformer
    assert "an architecture 'transformer' has no memory" in transformer
    assert "vary another width, as model.expansion, or leave the cell out with `exclude`" in transformer
    assert "has no effect" in flat and "no memory" not in flat
    assert "model.memory (it is 'delta') has no setting 'expansion'" in without


def test_a_cell_out_of_reach_is_refused_with_the_nearest_and_why(tmp_path: Path) -> None:
    (few,) = refusals(tmp_path, {"on": "parameters", "vary": "model.expansion", "to": 900}, cells=[{}])
    assert "cannot be brought within 0.02 of the 900 parameters by model.expansion: " in few
    assert "gives more; raise" in few and "raise `match.tolerance`, or vary another width, as model.dim" in few
    heads = {"on": "state", "vary": "model.memory.heads", "to": 3000}
    (between,) = refusals(tmp_path, heads, cells=[{"model.memory": {"type": "delta"}}])
    assert "on the other side" in between and "takes no value between that does better" in between
    with pytest.raises(ConfigError, match="cannot be brought within"):
        plan(tmp_path, heads, cells=[{"model.memory": {"type": "delta"}}])


@pytest.mark.parametrize(
    "match, sweep, message",
    [
        ({"vary": "expansion"}, {}, "match.vary: expected the dotted key of a width, as in model.expansion"),
        ({"vary": "train.steps"}, {}, "match.vary: expected the dotted key of a width"),
        ({"to": "base"}, {}, "match.to: expected baseline or a number greater than 0, got the text 'base'"),
        ({"to": 0}, {}, "match.to: expected baseline or a number greater than 0"),
        ({"on": "size"}, {}, "match.on: expected 'parameters', 'state' or 'flops', got the text 'size'"),
        ({"tolerance": 0}, {}, "match.tolerance: expected a number greater than 0"),
        ({"within": 0.1}, {}, "match.within: unknown key 'within'"),
        ({}, {"baseline": None}, "match.to: there is no baseline to match; name one under `baseline`"),
        ({"vary": "model.dim"}, {"axes": {"model.dim": [16, 32]}}, "match.vary: 'model.dim' is set by `axes`"),
        (
            {"vary": "model.dim"},
            {"paired": [{"model.dim": [16, 32], "train.clip": [1.0, 2.0]}]},
            "match.vary: 'model.dim' is set by `paired`",
        ),
        ({}, {"cells": [TRANSFORMER, {"model.expansion": 3.0}]}, "match.vary: 'model.expansion' is set by `cells`"),
        ({"vary": "model.widht"}, {}, "model has no setting 'widht'"),
        ({"vary": "model.memory.keep"}, {}, "'keep' is the text 'token', no number that could be varied"),
        ({"vary": "model.memory.keep_start"}, {}, "'keep_start' is nothing (null), no number that could be varied"),
        ({}, {"base": {**BASE, "model": {**BASE["model"], "expansion": 0}}}, "takes a part of the model away"),
    ],
)
def test_what_cannot_be_meant_is_an_error_at_its_place(
    tmp_path: Path, match: dict[str, Any], sweep: dict[str, Any], message: str
) -> None:
    settings = {"axes": {"model.memory.depth": [1, 2]}, "cells": [TRANSFORMER], "baseline": TRANSFORMER, **sweep}
    with pytest.raises(ConfigError) as refused:
        plan(tmp_path, {**PARAMETERS, **match}, **{key: value for key, value in settings.items() if value is not None})
    assert message in str(refused.value) and "sweep.yaml:" in str(refused.value)


def test_the_baseline_of_an_ablation_and_an_explicit_baseline_may_set_the_width(tmp_path: Path) -> None:
    ablation = {"mode": "one_at_a_time", "model.memory.momentum": ["none"], "model.memory.depth": [2]}
    made = plan(tmp_path, PARAMETERS, ablate=ablation, baseline={"model.expansion": 4.0})
    assert made.baseline is made.cells[0] and expansion(made.cells[0]) == 4.0
    assert all(abs(cell.parameters / made.cells[0].parameters - 1) <= 0.02 for cell in made.cells)
    assert expansion(made.cells[2]) < 4.0
    wide = {**TRANSFORMER, "model.expansion": 5.0}
    made = plan(tmp_path, PARAMETERS, axes={"model.memory.depth": [1, 2]}, cells=[wide], baseline=wide)
    assert made.baseline is not None and expansion(made.baseline) == 5.0


def test_a_baseline_that_cannot_run_leaves_nothing_unmatched(tmp_path: Path) -> None:
    sweep = {"axes": {"model.memory.heads": [3, 2]}, "baseline": {"model.memory.heads": 3}}
    with pytest.raises(ConfigError, match="the model cannot be built"):
        survey(load(tmp_path, PARAMETERS, **sweep))


def test_a_thousand_cells_are_matched_in_seconds(tmp_path: Path) -> None:
    axes = {"model.memory.depth": [1, 2], "model.memory.heads": [1, 2], "train.clip": [i / 10 for i in range(250)]}
    sweep = load(tmp_path, {**PARAMETERS, "to": 40_000}, axes=axes)
    began = time.process_time()
    assert len(survey(sweep).cells) == 1000
    assert time.process_time() - began < 5


class Widths(Config):
    """A block of numbers."""

    whole: int = Field(4, ge=1, le=9)
    """A whole number."""
    sixteen: int = Field(64, ge=16, multiple_of=16)
    """A multiple."""
    some: float | None = Field(None, gt=0, le=1)
    """A fraction, or nothing."""
    word: str = ""
    """No number."""


def test_a_field_says_what_a_width_may_be() -> None:
    fields = Widths.model_fields
    assert values_of(fields["whole"]) == Values(True, 1, 9) and values_of(fields["some"]) == Values(False, 0, 1)
    sixteen = values_of(fields["sixteen"])
    assert sixteen == Values(True, 16, math.inf, 16)
    assert [sixteen.at(number) for number in (70, 7, 73.0)] == [64, None, 80]
    assert values_of(fields["word"]) is None


WHOLE, FRACTION = Values(True, 1, math.inf), Values(False, 0, 64)


@pytest.mark.parametrize(
    "look, values, start, target, expected",
    [
        (lambda x: 10.0 * x + 500, WHOLE, 4, 1730.0, 123),
        (lambda x: 1e6 / x, WHOLE, 4, 1e6 / 37, 37),  # falls
        (lambda x: x**2, WHOLE, 1000, 49.0, 7),
        (lambda x: None if 96 % x else 1e4 / x, WHOLE, 2, 1e4 / 24, 24),  # most values are refused
        (lambda x: None if x > 40 else 1.0 * x, WHOLE, 16, 39.9, 40),  # the target lies before a wall
        (lambda x: 100 + abs(x - 50.0), WHOLE, 20, 110.0, 40),  # falls, then rises
        (lambda x: 100 - (x - 8.0) ** 2, WHOLE, 12, 99.0, 9),  # a hump
        (lambda x: float(math.floor(x * 4)), FRACTION, 2.0, 13.0, 3.3),  # steps: 3.25 to 3.5 are alike
        (lambda x: math.exp(x), FRACTION, 1.0, math.exp(3.1), 3.1),
    ],
)
def test_the_search_finds_the_value_without_assuming_that_more_gives_more(
    look: Callable[[Number], float | None], values: Values, start: Number, target: float, expected: float
) -> None:
    asked: list[Number] = []
    search = WidthSearch(lambda value: asked.append(value) or look(value), values, start, target)
    search.run(0.002)
    assert search.best == pytest.approx(expected, rel=2e-3) and abs(search.deviation(search.best)) < 0.01
    assert len(asked) == len(set(asked)) < 90 and search.has_effect


def test_the_search_gives_up_on_what_changes_nothing_and_on_what_cannot_be_reached() -> None:
    flat = WidthSearch(lambda value: 5.0, WHOLE, 3, 10.0)
    flat.run(0.01)
    assert not flat.has_effect and flat.best == 3
    capped = WidthSearch(lambda value: float(min(value, 20)), WHOLE, 3, 50.0)
    capped.run(0.01)
    assert capped.has_effect and capped.found[capped.best] == 20
    assert not WidthSearch(lambda value: None, WHOLE, 3, 50.0).found
