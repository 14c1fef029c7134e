"""What tuning came to, in sentences and as CSV: the space, the chosen values, and what a reader must know of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from titanlab.sweeps.language.search_space import Span, value_words
from titanlab.sweeps.planning.plan import Plan
from titanlab.sweeps.planning.tuning import Search, Tuning, settings_words
from titanlab.sweeps.readable import readable

SHOWN_POINTS = 20
SHOWN_CELLS = 4
BORDER = 0.05
"""A value in the outer twentieth of its range counts as lying at the border."""
FEWEST = 3
"""Fewer choices, or points, have nothing but ends."""


class End(NamedTuple):
    """Where a chosen value has no other beyond it."""

    side: Literal["low", "high"]
    is_border: bool
    """Of its range; else only of the points that were tried."""


def space_lines(tuning: Tuning) -> list[str]:
    """How settings are chosen, and from which values."""
    tried = "; ".join(f"{key}: {span.words}" for key, span in tuning.space.items())
    return [f"Tuned for each cell: {tried}.", f"{tuning.words[0].upper()}{tuning.words[1:]}."]


def plan_lines(plan: Plan, states: Mapping[str, str]) -> list[str]:
    """What a plan says: the space, how many trials that makes, and what is chosen or tried already.

    Args:
        states: how trials stand in the store, by key.
    """
    tuning = plan.tuning
    if tuning is None:
        return []
    lines = space_lines(tuning)
    runs = f"{len(plan.cells)} cells x {tuning.config.trials} points"
    runs += f" x {len(tuning.config.seeds)} seeds" if len(tuning.config.seeds) > 1 else ""
    lines.append(f"tuning: {runs} = {len(plan.cells) * tuning.runs} trials, then {len(plan.trials)} to compare")
    lines += _rung_lines(plan, tuning)
    if tuning.config.method == "random" and tuning.searches:
        tried = tuning.searches[0].tried
        lines += [f"  point {point.number}: {settings_words(point.values)}" for point in tried[:SHOWN_POINTS]]
        lines += [f"  and {len(tried) - SHOWN_POINTS} more points"] if len(tried) > SHOWN_POINTS else []
    return lines + (choice_lines(plan)[:SHOWN_POINTS] if states else [])


def _rung_lines(plan: Plan, tuning: Tuning) -> list[str]:
    by_words: dict[str, int] = {}
    for cell in plan.cells:
        rungs = tuning.rungs(cell)
        if rungs:
            going_on = ", ".join(f"{rung.keep} from step {rung.step}" for rung in rungs)
            words = f"{going_on} of {cell.budget.steps}; {tuning.steps_of(cell):,} steps a cell at most"
            by_words[words] = by_words.get(words, 0) + 1
    more = f" (and {len(by_words) - 1} other budgets of other cells)" if len(by_words) > 1 else ""
    return [f"rungs: of {tuning.config.trials} points go on {next(iter(by_words))}{more}"] if by_words else []


def choice_lines(plan: Plan) -> list[str]:
    """What was chosen for each cell."""
    return [choice_words(plan.tuning, search) for search in plan.tuning.searches] if plan.tuning is not None else []


def choice_words(tuning: Tuning, search: Search) -> str:
    """`depth=2: learning_rate=0.003, val/accuracy 0.91, the best of 8 points (1 failed)`."""
    name, chosen = search.cell.variant, search.chosen
    failed = sum(point.state == "failed" for point in search.tried)
    but = f" ({failed} failed)" if failed else ""
    if chosen is None:
        done = sum(point.state != "open" for point in search.tried)
        if not search.ended:
            return f"{name}: not chosen yet, {done} of {tuning.config.trials} points are tried"
        return f"{name}: nothing chosen, none of {len(search.tried)} points has a value; move the ranges of `tune`"
    return (
        f"{name}: {settings_words(chosen.values)}, {tuning.aim.metric} {readable(chosen.value)}, "
        f"the best of {len(search.tried)} points{but}"
    )


def has_tried(plan: Plan) -> bool:
    """Whether any point of a tuning has ended."""
    searches = () if plan.tuning is None else plan.tuning.searches
    return any(point.state != "open" for search in searches for point in search.tried)


def border_lines(plan: Plan) -> list[str]:
    """A warning for each setting whose best value may lie beyond what was tried."""
    tuning = plan.tuning
    if tuning is None:
        return []
    lines = []
    for key, span in tuning.space.items():
        by_end: dict[End, list[str]] = {}
        for search in tuning.searches:
            if (end := _end(search, key, span)) is not None:
                by_end.setdefault(end, []).append(search.cell.variant)
        lines += [_border_words(key, span, end, cells) for end, cells in by_end.items()]
    return lines


def _border_words(key: str, span: Span, end: End, cells: list[str]) -> str:
    named = ", ".join(cells[:SHOWN_CELLS]) + (
        f" and {len(cells) - SHOWN_CELLS} more" if len(cells) > SHOWN_CELLS else ""
    )
    if end.is_border:
        where = f"lies at the {end.side} end of its range ({span.words})"
        return f"The chosen {key} {where} for {named}: the best value may lie beyond it; widen it."
    where = f"is the {'highest' if end.side == 'high' else 'lowest'} that was tried in its range ({span.words})"
    return f"The chosen {key} {where} for {named}: the best value may lie beyond it; widen it or try more points."


def tuning_lines(plan: Plan) -> list[str]:
    """All of it: space, choices and warnings."""
    if plan.tuning is None:
        return []
    return [*space_lines(plan.tuning), *choice_lines(plan), *border_lines(plan), *_method(plan.tuning)]


def tuning_csv(plan: Plan) -> str:
    """One line a point of each cell, with its value and what became of it."""
    tuning = plan.tuning
    assert tuning is not None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "cell", "point", *tuning.space, "state", tuning.aim.metric, "chosen", "trials"])
    for search in tuning.searches:
        for point in search.tried:
            value = point.value if point.value is not None and math.isfinite(point.value) else None
            chosen = search.chosen is not None and point.number == search.chosen.number
            head = [search.cell.variant, search.cell.key, point.number, *map(value_words, point.values.values())]
            keys = " ".join(trial.key for trial in point.trials)
            writer.writerow([*head, point.state, value, str(chosen).lower(), keys])
    return text.getvalue()


def _end(search: Search, key: str, span: Span) -> End | None:
    """The end that the chosen value lies at: of its span, else of the values that were tried."""
    if search.chosen is None or not _is_ordered(span):
        return None
    value = search.chosen.values[key]
    low, high = (min(span.choices), max(span.choices)) if span.choices else (span.low or 0.0, span.high or 0.0)
    place = _place(value, low, high, span.scale == "log" and not span.choices)
    tried = [point.values[key] for point in search.tried]
    # What lies at 0 has nothing beyond it: no weight decay, no clipping.
    if low != 0 and (place <= BORDER or (value == min(tried) and len(tried) >= FEWEST)):
        return End("low", place <= BORDER)
    if place >= 1 - BORDER or (value == max(tried) and len(tried) >= FEWEST):
        return End("high", place >= 1 - BORDER)
    return None


def _place(value: float, low: float, high: float, is_log: bool) -> float:
    """Where in its range a value lies, from 0 to 1."""
    if is_log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _is_ordered(span: Span) -> bool:
    """Whether a value can lie beyond those of the span."""
    if not span.choices:
        return True
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in span.choices)
    return numbers and len(span.choices) >= FEWEST


def _method(tuning: Tuning) -> Iterator[str]:
    yield (
        "Trials of the tuning never read the test split, and share no seed with the trials that are compared; those "
        "read it once, after their last step."
    )
    if tuning.config.scheduler == "halving":
        yield "A point that a rung gave up is shown with its value there, which a learning rate still high may flatter."
