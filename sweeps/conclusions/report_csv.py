"""The comparison with full precision, for other programs: cells, trials, effects."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from titanlab.sweeps.conclusions.factors import Effects
from titanlab.sweeps.conclusions.fronts import Front, fronts
from titanlab.sweeps.conclusions.summary import Row, Summary
from titanlab.sweeps.inference.comparisons import Comparison

_COMPARISON = ("pairs", "difference", "difference_low", "difference_high", "test", "p", "p_holm", "wilcoxon_p")
_EFFECT_SIZE = ("d_z", "hedges_g")


def cells_csv(summary: Summary) -> str:
    """One line a cell, best first, one column a setting and a seed."""
    plan = summary.plan
    settings = list(dict.fromkeys(key for cell in plan.cells for key in cell.settings))
    head = [
        *("rank", "rank_first", "rank_last", "variant", "cell"), *settings, *("metric", "direction", "seeds", "lost"),
        *("mean", "low", "high", "bootstrap_low", "bootstrap_high"), *_COMPARISON, *_EFFECT_SIZE, "verdict",
        *("parameters", "memory_bytes", "state_bytes", "flops_per_token", "seconds", "tokens_per_second"),
        *(f"seed_{seed}" for seed in plan.seeds), "front",
    ]  # fmt: skip
    found = fronts(summary)
    return _text(head, (_cell_line(summary, settings, found, row) for row in summary.rows))


def trials_csv(summary: Summary) -> str:
    """One line a trial in running order, with its status: nothing is left out."""
    plan = summary.plan
    unfinished = {one.trial.key: one for one in summary.unfinished}
    rows = {row.cell.key: row for row in summary.rows}
    lines = []
    for trial in plan.trials:
        row, missing = rows[trial.cell_key], unfinished.get(trial.key)
        status, reason = (missing.status, missing.reason) if missing else ("complete", "")
        lines.append([row.cell.variant, trial.seed, status, row.values.get(trial.seed), reason, trial.key])
    return _text(["variant", "seed", "status", plan.objective.metric, "reason", "trial"], lines)


def effects_csv(found: Effects) -> str:
    """One line a main effect or interaction."""
    head = ["kind", "effect", *_COMPARISON, *_EFFECT_SIZE, "verdict"]
    lines = [
        [
            "interaction" if effect.is_interaction else "main",
            found.label(effect),
            *_comparison(effect.comparison),
            effect.verdict,
        ]
        for effect in found.effects
    ]
    return _text(head, lines)


def _cell_line(summary: Summary, settings: Sequence[str], found: Sequence[Front], row: Row) -> list[Any]:
    return [
        *(row.rank, *(row.places or (None, None)), row.cell.variant, row.cell.key),
        *(_setting(row.cell.settings.get(key)) for key in settings),
        *(*summary.plan.objective, len(row.values), row.lost_words),
        *(*(row.estimate or (None,) * 3), *(row.bootstrap or (None,) * 2), *_comparison(row.comparison), row.verdict),
        *(row.cell.parameters, row.cell.memory_bytes, row.cell.state_bytes, row.cell.flops),
        *(row.metrics.get("cost/seconds"), row.metrics.get("cost/tokens_per_second")),
        *(row.values.get(seed) for seed in summary.plan.seeds),
        "; ".join(front.measure.label for front in found if row in front.best),
    ]


def _comparison(found: Comparison | None) -> list[Any]:
    if found is None:
        return [None] * len(_COMPARISON + _EFFECT_SIZE)
    return [
        *(found.pairs, *found.difference, found.test, found.p, found.p_holm, found.wilcoxon),
        *(found.d_z, found.hedges_g),
    ]


def _setting(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def _text(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_safe(field) for field in line] for line in lines)
    return stream.getvalue()


def _safe(field: Any) -> Any:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{field}" if isinstance(field, str) and field[:1] in ("=", "+", "-", "@", "\t", "\r") else field
