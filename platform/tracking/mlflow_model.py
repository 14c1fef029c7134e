"""A trained model as an MLflow model, and how MLflow loads one: weights and settings only, nothing pickled.

The folder holds `model.safetensors`, `config.yaml` and the sources of the plug-ins that the model needs. MLflow finds
this module by its name (`loader_module`), so whoever loads the model needs titanlab installed and nothing else, but
for a plug-in that was named as an installed module, `package.module`: that one must be installed there too.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.files import yaml_text
from titanlab.platform.model import Model
from titanlab.platform.plugins import Plugin, install, load_plugin
from titanlab.platform.run_config import RunConfig
from titanlab.platform.tracking.client import import_mlflow
from titanlab.platform.tracking.store import SweepRuns
from titanlab.platform.training.checkpoint import WEIGHTS, load_model, weights_of
from titanlab.platform.training.run_directory import CONFIG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

PLUGINS, MODULES = "plugins", "modules.txt"
NAME = "model"
EXAMPLE = 16  # tokens


@dataclass(frozen=True)
class Export:
    """What becomes an MLflow model."""

    directory: Path
    """Of the run: its checkpoint is exported."""
    config: RunConfig
    plugins: Sequence[Plugin] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the model's `MLmodel` file says of where it came from."""


def save_mlflow_model(export: Export, target: Path) -> None:
    """Writes the MLflow model into a folder, which is complete or not there at all.

    Raises:
        ConfigError: the folder exists and holds something, or cannot be written.
        CheckpointError: the run has no checkpoint.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(Problem(f"{target} exists already; name a folder that is new or empty with --to"))
    import_mlflow("sqlite:///")
    import mlflow.pyfunc

    with _contents(export) as data:
        whole = data.parent / "whole"
        mlflow.pyfunc.save_model(str(whole), **_arguments(export, data))
        try:
            if target.exists():
                target.rmdir()
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(whole, target)
        except OSError as error:
            raise ConfigError(Problem(f"{target} cannot be written: {error.strerror}; name another folder")) from None


def log_mlflow_model(export: Export, tracking_uri: str, run_id: str) -> str:
    """Logs the MLflow model on the trial's run; returns the address by which MLflow loads it.

    Raises:
        CheckpointError: the run has no checkpoint.
        MlflowException: the server does not answer, or refuses.
    """
    import_mlflow(tracking_uri)
    import mlflow
    import mlflow.pyfunc
    from mlflow.models import Model as MlflowModel

    mlflow.set_tracking_uri(tracking_uri)
    with _contents(export) as data:
        logged = MlflowModel.log(None, mlflow.pyfunc, run_id=run_id, name=NAME, **_arguments(export, data))
    return str(logged.model_uri)


def find_trial(client: MlflowClient, runs: SweepRuns, key: str) -> str | None:
    """The id of a trial's run."""
    filters = f"tags.`sweep.id` = '{runs.sweep_id}' and tags.`trial.key` = '{key}'"
    found = client.search_runs([runs.experiment_id], filters, max_results=1, order_by=["attributes.start_time ASC"])
    return found[0].info.run_id if found else None


@contextmanager
def _contents(export: Export) -> Iterator[Path]:
    """A folder with what the model is loaded from; MLflow's advice on how to log differently is kept quiet."""
    weights = weights_of(export.directory)
    with tempfile.TemporaryDirectory(prefix="titanlab-export-") as folder:
        data = Path(folder) / "data"
        (data / PLUGINS).mkdir(parents=True)
        shutil.copyfile(weights, data / WEIGHTS)
        (data / CONFIG).write_text(yaml_text(export.config.settings()), encoding="utf-8")
        for plugin in export.plugins:
            if not plugin.module:
                (data / PLUGINS / f"{plugin.name}.py").write_text(plugin.source, encoding="utf-8")
        modules = [plugin.module for plugin in export.plugins if plugin.module]
        (data / PLUGINS / MODULES).write_text("\n".join(modules), encoding="utf-8")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        yield data


def _arguments(export: Export, data: Path) -> dict[str, Any]:
    vocab = export.config.task.vocab_size
    example = np.arange(EXAMPLE, dtype=np.int64)[None] % vocab
    return {
        "loader_module": __name__,
        "data_path": str(data),
        "signature": _signature(vocab),
        "input_example": example,
        "pip_requirements": [f"{name}=={version(name)}" for name in ("titanlab", "mlflow", "torch", "safetensors")],
        "metadata": dict(export.facts),
    }


def _signature(vocab: int) -> ModelSignature:
    """Token ids [b, t] to logits [b, t, vocab]."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    ids = TensorSpec(np.dtype(np.int64), (-1, -1))
    logits = TensorSpec(np.dtype(np.float32), (-1, -1, vocab))
    return ModelSignature(Schema([ids]), Schema([logits]))


class Predictor:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, ids: Any, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """Logits [b, t, vocab] for the token after each position of ids [b, t]; each row starts a fresh memory."""
        with torch.no_grad():
            logits, _ = self.model(torch.as_tensor(np.asarray(ids), dtype=torch.int64))
        return logits.float().numpy()


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Predictor:
    """MLflow calls it by this name. Runs the plug-ins that the model was exported with, as `--plugin` does."""
    folder = Path(path)
    for source in sorted((folder / PLUGINS).glob("*.py")):
        install(Plugin(source.stem, source.read_text(encoding="utf-8"), str(source)))
    for module in (folder / PLUGINS / MODULES).read_text(encoding="utf-8").split():
        load_plugin(module)
    return Predictor(load_model(folder / WEIGHTS))
