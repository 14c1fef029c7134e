"""The data of a trial as MLflow lists it: a dataset with its digest, an input of the run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_DIGEST = 36  # of MLflow's databases; the whole one is in the source, and in the tag `data.digest`


def log_data(client: MlflowClient, run_id: str, digest: str) -> None:
    """Names the task's data as what the run was trained on; said again, it stays one input.

    Args:
        digest: sha256 of the data, `Task.digest`.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    params = client.get_run(run_id).data.params
    task = {key.removeprefix("task."): value for key, value in params.items() if key.startswith("task.")}
    data = Dataset(
        name=task.get("type", "task"),
        digest=digest[:LONGEST_DIGEST],
        source_type="titanlab",
        source=json.dumps({"sha256": digest, "task": task}, sort_keys=True),
    )
    client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
