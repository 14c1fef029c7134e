"""How MLflow's page opens on a sweep: what it sets out to improve first, then the curves, then what that cost.

Left alone, MLflow draws the sections of charts in the order of their names, `cost` before `final`, and every number
that is known once, at the end, as a curve of one point. A view saved with the experiment says otherwise: a tag
`mlflow.sharedViewState.KEY`, shown by a link with `viewStateShareKey=KEY` and listed under *Views* on the page.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from titanlab.platform.tracking.naming import clean_key

VIEW = "titanlab"
"""The key of the saved view; an experiment has one."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
NAME = "Trials of the sweep"

SHOWN = 30  # runs in the charts; beyond, only the best 20 are drawn until the reader asks for more
SECTIONS = ("final", "val", "train", "cost", "memory", "System metrics")
TRAINING = ("loss", "gradient_norm", "learning_rate")
COSTS = ("parameters", "state_bytes", "flops_per_token", "seconds", "tokens_per_second")
RUN_NAME = "attributes.`Run Name`"
AXES = 5  # of the parallel coordinates; more cannot be read


@dataclass(frozen=True)
class Shown:
    """What decides how a sweep is best shown."""

    filter: str
    """Finds the trials."""
    metric: str
    """The objective, as in `final/accuracy`."""
    direction: str
    """`max` or `min`."""
    axes: Sequence[str]
    """Dotted keys of the settings that vary."""
    metrics: Sequence[str]
    """What the task measures, as in `accuracy`."""
    trials: int
    cost: str
    """The metric that quality is drawn against, as in `cost/state_bytes`; empty where all trials cost the same."""
    validated: bool
    """Whether there are validation results during training, and not at its end alone."""


def saved_view(shown: Shown) -> str:
    """The value of the tag `VIEW_TAG`."""
    now = int(time.time() * 1000)
    text = json.dumps(view_state(shown), separators=(",", ":"))
    packed = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    return json.dumps({"name": NAME, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"})


def view_state(shown: Shown) -> dict[str, Any]:
    """The state of MLflow's page, in its own words."""
    settings = [f"params.`{clean_key(key)}`" for key in (*shown.axes, "train.seed")]
    columns = [_metric(shown.metric), *map(_metric, ("cost/parameters", "cost/state_bytes")), *settings]
    return {
        "searchFilter": shown.filter,
        "orderByKey": _metric(shown.metric),
        "orderByAsc": shown.direction == "min",
        "selectedColumns": columns,
        "columnOrder": [RUN_NAME, "runDateAndNestInfo", "duration", *columns],
        "columnWidths": {RUN_NAME: 320, **dict.fromkeys(columns, 140), **dict.fromkeys(settings, 170)},
        "runsHiddenMode": "SHOW_ALL" if shown.trials <= SHOWN else "FIRST_20_RUNS",
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True, "isGenerated": True, "columns": 2}
            for name in SECTIONS
        ],
        "compareRunCharts": list(_charts(shown)),
    }


def _charts(shown: Shown) -> Iterator[dict[str, Any]]:
    objective = shown.metric.rpartition("/")[2]
    measured = sorted(dict.fromkeys(shown.metrics), key=lambda name: name != objective)
    yield from (_bar(f"final/{name}") for name in measured)
    if shown.cost:
        yield _scatter("Quality against cost", shown.cost, shown.metric)
    if shown.axes:
        yield _parallel("Settings against the objective", [clean_key(key) for key in shown.axes[:AXES]], shown.metric)
    yield from ((_line if shown.validated else _bar)(f"val/{name}") for name in measured)
    yield from (_line(f"train/{name}") for name in TRAINING)
    yield from (_bar(f"cost/{name}") for name in COSTS)
    yield _line("cost/flops")
    yield _bar("memory/state_bytes")
    yield _line("progress/step") | {"deleted": True}  # how far MLflow has been told, of no use to a reader


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _chart(kind: str, section: str, title: str, **own: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"{section} {title} {kind}",
        "metricSectionId": section,
        "displayName": title,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        **own,
    }


def _bar(name: str) -> dict[str, Any]:
    section, _, title = name.partition("/")
    return _chart("BAR", section, title, metricKey=name)


def _line(name: str) -> dict[str, Any]:
    section, _, title = name.partition("/")
    return _chart(
        "LINE",
        section,
        title,
        metricKey=name,
        lineSmoothness=0,
        xAxisScaleType="linear",
        scaleType="linear",
        range={},
        xAxisKey="step",
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        ignoreOutliers=False,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )


def _scatter(title: str, x: str, y: str) -> dict[str, Any]:
    ends = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return _chart("SCATTER", "final", title, **ends)


def _parallel(title: str, params: Sequence[str], metric: str) -> dict[str, Any]:
    return _chart("PARALLEL", "final", title, selectedParams=[*params], selectedMetrics=[metric], showAllRuns=True)
