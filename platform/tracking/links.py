"""Links into MLflow's user interface."""

from __future__ import annotations

from urllib.parse import quote

from titanlab.platform.tracking.chart_view import VIEW
from titanlab.platform.tracking.store import SweepRuns


def trials_filter(sweep_id: str) -> str:
    """The search expression that finds a sweep's trials."""
    return f"tags.`run.kind` = 'trial' and tags.`sweep.id` = '{sweep_id}'"


def trials_link(server: str, runs: SweepRuns) -> str:
    """A sweep's trials side by side as charts, the best one first.

    Args:
        server: the address of the MLflow server, as in `http://127.0.0.1:5000`.
    """
    mode = {"compareRunsMode": "CHART", "workflowType": "machine_learning"}
    query = (
        {"viewStateShareKey": VIEW, **mode}
        if runs.has_view
        else {
            "searchFilter": trials_filter(runs.sweep_id),
            "orderByKey": f"metrics.`{runs.metric}`",
            "orderByAsc": str(runs.direction == "min").lower(),
            **mode,
        }
    )
    text = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
    return f"{server.rstrip('/')}/#/experiments/{runs.experiment_id}/runs?{text}"
