"""The notes on the pages of MLflow's runs: ours below a mark, what a reader wrote above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from titanlab.platform.redaction import redacted
from titanlab.platform.tracking.sync import set_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE = "mlflow.note.content"
OURS = "<!-- titanlab: what stands below is written anew by each run of the sweep -->"


def write_note(client: MlflowClient, run_id: str, note: str) -> None:
    """Replaces our part of a run's note; what somebody wrote above it in MLflow's page stays."""
    theirs, _, _ = client.get_run(run_id).data.tags.get(NOTE, "").partition(OURS)
    set_tags(client, run_id, {NOTE: own_note(redacted(note), theirs)})


def own_note(note: str, before: str = "") -> str:
    """A note marked as ours, below what somebody else wrote."""
    return "\n\n".join(filter(None, [before.strip(), OURS, note]))
