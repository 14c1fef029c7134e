"""Equal cells: each brought to the baseline's parameters, state or operations, or to a number of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from titanlab.platform.config import Config, shown_value
from titanlab.platform.costs import forward_flops, parameters_of, state_size
from titanlab.platform.errors import ConfigError
from titanlab.platform.keys import key_path
from titanlab.platform.model import ModelConfig
from titanlab.platform.run_config import RunConfig
from titanlab.sweeps.language.grid import Runs
from titanlab.sweeps.language.match_terms import MatchConfig, Matched, Measure
from titanlab.sweeps.language.sweep_file import Sweep
from titanlab.sweeps.planning.expansion import Expansion, Found, budget_at, problems_of_cells, refused_cell
from titanlab.sweeps.planning.sizes import Sizes
from titanlab.sweeps.planning.width_search import Number, Values, WidthSearch, values_of
from titanlab.sweeps.readable import readable_bytes

NAMES: Mapping[Measure, str] = {"parameters": "parameters", "state": "state in all", "flops": "FLOPs a token"}


class UnmatchableError(Exception):
    """A cell that cannot be brought to the target; says why."""


class _Solution(NamedTuple):
    model: ModelConfig
    matched: Matched


def match_cells(sweep: Sweep, runs: Runs, expansion: Expansion, baseline: int | None) -> Expansion:
    """The cells with the width of each as it has to be; those that cannot be matched are refused.

    Args:
        baseline: the number of the baseline among the cells.

    Raises:
        ConfigError: the width is varied elsewhere too, or there is no baseline that the cells could be brought to.
    """
    terms = sweep.config.match
    if terms is None:
        return expansion
    kept = None if baseline is None else expansion.found[baseline]
    _refuse_varied(sweep, terms, kept)
    matcher = _Matcher(terms, _target(sweep, terms, expansion, kept), is_baselines=terms.to == "baseline")
    found: dict[str, Found] = {}
    refused, notes = list(expansion.refused), []
    for cell in expansion.found:
        if cell is kept and terms.to == "baseline":
            found[cell.key] = cell
            continue
        try:
            matched = matcher.brought(cell, runs)
        except UnmatchableError as error:
            problem = sweep.document.problem(("match", "vary"), str(error))
            refused.append(refused_cell(runs, cell.point, cell.variant, (problem,)))
        except ConfigError as error:
            refused.append(refused_cell(runs, cell.point, cell.variant, error.problems))
        else:
            if matched.key in found:
                notes.append(f"'{cell.variant}' is, matched, the same run as '{found[matched.key].variant}'")
            found.setdefault(matched.key, matched)
    notes += matcher.summary(found)
    return Expansion(tuple(found.values()), tuple(refused), (*expansion.notes, *notes))


def _refuse_varied(sweep: Sweep, terms: MatchConfig, baseline: Found | None) -> None:
    """A width that something else sets cell by cell is not free to be solved for."""
    config = sweep.config
    fixed = [] if baseline is None else [baseline.point.values()]  # what an explicit baseline sets is its own matter
    owners = {
        "axes": [config.axes],
        "paired": config.paired,
        "ablate": [config.ablate or {}],
        "cells": [cell for cell in config.cells if cell not in fixed],
    }
    for name, blocks in owners.items():
        if any(terms.vary in block for block in blocks):
            message = f"'{terms.vary}' is set by `{name}`, so it is not free to be solved for; vary another width"
            raise ConfigError(sweep.document.problem(("match", "vary"), message))


def _target(sweep: Sweep, terms: MatchConfig, expansion: Expansion, baseline: Found | None) -> float:
    if terms.to != "baseline":
        return float(terms.to)
    if baseline is None:
        if expansion.refused:  # the baseline is one of those
            raise ConfigError(problems_of_cells(expansion.refused))
        message = "there is no baseline to match; name one under `baseline`, or give a number"
        raise ConfigError(sweep.document.problem(("match", "to"), message))
    found = amount(terms.on, baseline.run, baseline.run.model)
    if not found:
        message = f"the baseline '{baseline.variant}' has no {NAMES[terms.on]}, so nothing can be matched to it"
        raise ConfigError(sweep.document.problem(("match", "to"), message))
    return found


def amount(on: Measure, run: RunConfig, model: ModelConfig) -> float | None:
    """What a model in the place of a run's own has of something; None for one that cannot be built or counted."""
    length = run.task.row_length or 1024
    try:
        if on == "parameters":
            return parameters_of(model, run.task.vocab_size)
        return state_size(model, length) if on == "state" else forward_flops(model, run.task.vocab_size, length)
    except (Exception, SystemExit):  # a plug-in may fail in any way at a width that it does not take
        return None


class _Matcher:
    """Solves cells, each different model once."""

    def __init__(self, terms: MatchConfig, target: float, is_baselines: bool) -> None:
        self.terms, self.target, self.is_baselines = terms, target, is_baselines
        self.path = key_path(terms.vary)[1:]
        self._sizes = Sizes()
        self._known: dict[Hashable, _Solution | UnmatchableError] = {}

    def brought(self, cell: Found, runs: Runs) -> Found:
        """A cell at the target.

        Raises:
            UnmatchableError: no value of the width brings it there.
            ConfigError: its budget is too small for what it has become.
        """
        run = cell.run
        same = (run.model.model_dump_json(), run.task.vocab_size, run.task.row_length)
        if same not in self._known:
            try:
                self._known[same] = self._solved(run)
            except UnmatchableError as error:
                self._known[same] = error
        solution = self._known[same]
        if isinstance(solution, UnmatchableError):
            raise solution
        if not solution.matched.solved:
            return cell._replace(match=solution.matched)
        run = run.model_copy(update={"model": solution.model})
        costs = self._sizes.of(run)
        budget = budget_at(runs, cell.point, run, costs)
        return cell._replace(run=run, key=run.cell_key, costs=costs, budget=budget, match=solution.matched)

    def _solved(self, run: RunConfig) -> _Solution:
        start, values = _setting(run.model, self.path)

        def look(value: Number) -> float | None:
            model = _put(run.model, self.path, value)
            return None if model is None else amount(self.terms.on, run, model)

        search = WidthSearch(look, values, start, self.target)
        written = search.look(start)
        if written is None:
            raise UnmatchableError(f"its {NAMES[self.terms.on]} cannot be counted")
        if abs(written / self.target - 1) <= self.terms.tolerance:
            return _Solution(run.model, Matched(self.terms.vary, start, written / self.target - 1, solved=False))
        search.run(self.terms.tolerance)
        if not search.has_effect:
            raise UnmatchableError(self._without_effect(run, search))
        value = search.best
        deviation, model = search.deviation(value), _put(run.model, self.path, value)
        if abs(deviation) > self.terms.tolerance or model is None:
            raise UnmatchableError(self._too_far(search))
        return _Solution(model, Matched(self.terms.vary, value, deviation, solved=True))

    def _words(self, number: float) -> str:
        return readable_bytes(round(number)) if self.terms.on == "state" else f"{number:,.0f} {NAMES[self.terms.on]}"

    @property
    def _goal(self) -> str:
        of = " of the baseline" if self.is_baselines else ""
        what = " of state in all" if self.terms.on == "state" else ""
        return f"the {self._words(self.target)}{what}{of}"

    def _without_effect(self, run: RunConfig, search: WidthSearch) -> str:
        near = sorted(search.found, key=lambda value: abs(value - search.start))[:4]
        tried = ", ".join(f"{value:g}" for value in sorted(near))
        found = self._words(next(iter(search.found.values())))
        has_none = self.path[0] == "memory" and not self._sizes.of(run).memory_bytes
        why = f": an architecture '{run.model.architecture.type_name}' has no memory" if has_none else ""
        return (
            f"{self.terms.vary} has no effect on {NAMES[self.terms.on]} here{why} ({tried} all give {found}), so the "
            f"cell cannot be brought to {self._goal}; {_advice(self.terms)}, or leave the cell out with `exclude`"
        )

    def _too_far(self, search: WidthSearch) -> str:
        nearest = search.best
        off = search.deviation(nearest)
        across = [value for value in search.found if search.deviation(value) * off < 0]
        if across:
            other = min(across, key=lambda value: abs(search.deviation(value)))
            why = f"on the other side {self._told(search, other)}, and it takes no value between that does better"
        else:
            least, most = min(search.found), max(search.found)
            why = f"all it takes from {least:g} to {most:g} gives {'more' if off > 0 else 'less'}"
        return (
            f"cannot be brought within {self.terms.tolerance:.2g} of {self._goal} by {self.terms.vary}: "
            f"{self._told(search, nearest)}; {why}; raise `match.tolerance`, or {_advice(self.terms)}"
        )

    def _told(self, search: WidthSearch, value: Number) -> str:
        return f"{value:g} gives {self._words(search.found[value])}, {search.deviation(value):+.1%}"

    def summary(self, found: Mapping[str, Found]) -> list[str]:
        """One sentence about the cells that were matched."""
        matched = [cell.match for cell in found.values() if cell.match is not None]
        if not matched:
            return []
        values = [f"{value:g}" for value in sorted({match.value for match in matched})]
        off = max(abs(match.deviation) for match in matched)
        count = "1 cell is" if len(matched) == 1 else f"{len(matched)} cells are"
        written = sum(not match.solved for match in matched)
        as_written = f", {written} of them as written" if written else ""
        return [
            f"{count} matched to {self._goal}{as_written}: {self.terms.vary} "
            f"{f'from {values[0]} to {values[-1]}' if len(values) > 1 else values[0]}, off by at most {off:.2%}"
        ]


def _advice(terms: MatchConfig) -> str:
    other = "model.dim" if terms.on == "state" or terms.vary == "model.expansion" else "model.expansion"
    return f"vary another width, as {other}" if other != terms.vary else "vary another width"


def _setting(model: ModelConfig, path: tuple[str, ...]) -> tuple[Number, Values]:
    """Where the width stands and what it may be."""
    value: Any = model
    field = None
    for depth, name in enumerate(path):
        field = type(value).model_fields.get(name) if isinstance(value, Config) else None
        if field is None:
            kind = f" (it is '{value.type_name}')" if isinstance(value, Config) and value.type_name else ""
            raise UnmatchableError(
                f"{'.'.join(('model', *path[:depth]))}{kind} has no setting '{name}', so it cannot be matched by it; "
                "vary a width that every cell has, as model.expansion or model.dim"
            )
        value = getattr(value, name)
    values = None if field is None else values_of(field)
    name = path[-1]
    if values is None or not isinstance(value, int | float) or isinstance(value, bool):
        raise UnmatchableError(f"'{name}' is {shown_value(value)}, no number that could be varied")
    if value <= 0:
        raise UnmatchableError(f"'{name}' is {value:g} here, which takes a part of the model away; start from more")
    return value, values


def _put(model: ModelConfig, path: tuple[str, ...], value: Number) -> ModelConfig | None:
    """The model with one setting changed; None if it does not take the value."""
    try:
        return _with(model, path, value)
    except ValidationError:
        return None


def _with(config: Any, path: tuple[str, ...], value: Number) -> Any:
    inner = value if len(path) == 1 else _with(getattr(config, path[0]), path[1:], value)
    return config.replace(**{path[0]: inner})
