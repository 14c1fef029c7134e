"""MLflow's client, quiet and impatient: a tracking server that does not answer costs seconds, not minutes."""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING

from titanlab.platform.errors import TitanlabError
from titanlab.platform.redaction import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = 5.0  # seconds a request may take

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(int(PATIENCE)),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines a trial otherwise, with a server
    "DO_NOT_TRACK": "true",
}


class TrackingError(TitanlabError):
    """The tracking server does not answer, or refuses what a sweep needs."""


def import_mlflow(tracking_uri: str) -> None:
    """Imports what a client of the address needs, with our settings; contacts nothing. Takes seconds, once a process.

    Settings that the user made in the environment are left as they are.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    importlib.import_module("mlflow")
    if not tracking_uri.startswith("http"):
        importlib.import_module("mlflow.store.tracking.sqlalchemy_store")  # MLflow would import it at the first request
    for name in ("alembic", "mlflow"):  # importing MLflow configures its own loggers anew
        logging.getLogger(name).setLevel(logging.ERROR)


def tracking_client(tracking_uri: str) -> MlflowClient:
    """A client of a tracking address; the first in a process imports MLflow (3 s)."""
    import_mlflow(tracking_uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri)


def one_line(error: BaseException) -> str:
    """An error's kind and the first line of its message, which may hold the address, without its password."""
    lines = redacted(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
