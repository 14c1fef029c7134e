"""`titanlab export`: a trained trial as an MLflow model, for whoever has titanlab installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from titanlab.commands.options import Overrides, Plugins, StoreFolder, SweepFile, load_plan, load_plugins

if TYPE_CHECKING:
    from titanlab.platform.tracking.mlflow_model import Export
    from titanlab.platform.tracking.store import Store

MLFLOW = "mlflow"


def export(
    file: SweepFile,
    to: Annotated[
        str,
        typer.Option(metavar="DIR|mlflow", help="A new folder, or mlflow: on the trial's run.", show_default=False),
    ],
    trial: Annotated[
        str | None, typer.Option(metavar="KEY", help="The trial, as the plan names it; its beginning is enough.")
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="The best seed of the best cell, which is the default.")] = False,
    overrides: Overrides = None,
    plugins: Plugins = None,
    store: StoreFolder = Path("titanlab-store"),
) -> None:
    """Write a trial's model as an MLflow model: weights and settings, nothing pickled; it loads and predicts."""
    from titanlab.commands.screen import say
    from titanlab.platform.errors import ConfigError, Problem
    from titanlab.platform.tracking.store import open_store
    from titanlab.sweeps.execution.export import choose, export_of
    from titanlab.sweeps.execution.stages import standing

    if best and trial is not None:
        raise ConfigError(Problem("--best and --trial name two models; give one of them"))
    loaded = load_plugins(plugins)
    plan = load_plan(file, overrides, plugins)
    place = open_store(store)
    trials = place.sweep(plan.id) / "trials"
    plan = standing(plan, trials).plan
    choice = choose(plan, trials, trial)
    say(f"{choice.trial.config.name} (trial {choice.trial.key}): {choice.reason}")
    made = export_of(plan, choice, trials / choice.trial.key, loaded)
    where = _log(made, place, plan.id, choice.trial.key) if to == MLFLOW else _save(made, Path(to))
    say(f'load it anywhere titanlab is installed:  mlflow.pyfunc.load_model("{where}").predict(ids)')


def _save(made: Export, target: Path) -> str:
    from titanlab.commands.screen import say
    from titanlab.platform.tracking.mlflow_model import save_mlflow_model

    save_mlflow_model(made, target)
    say(f"saved: {target}")
    return str(target)


def _log(made: Export, place: Store, sweep_id: str, key: str) -> str:
    """Logs the model on the trial's run, where the sweep was tracked."""
    from titanlab.commands.screen import say
    from titanlab.platform.errors import ConfigError, Problem
    from titanlab.platform.tracking.client import TrackingError, one_line, tracking_client
    from titanlab.platform.tracking.mlflow_model import find_trial, log_mlflow_model
    from titanlab.platform.tracking.store import read_sweep_runs

    runs = read_sweep_runs(place.sweep(sweep_id))
    if runs is None:
        raise ConfigError(Problem(f"sweep '{sweep_id}' has no runs in MLflow; export into a folder with --to DIR"))
    client = tracking_client(runs.tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        run_id = find_trial(client, runs, key)
        if run_id is None:
            raise TrackingError(f"MLflow ({runs.tracking_uri}) has no run of trial {key}; run the sweep again")
        address = log_mlflow_model(made, runs.tracking_uri, run_id)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow ({runs.tracking_uri}) did not take the model: {one_line(error)}") from error
    say(f"logged in MLflow on run {run_id} as {address}")
    say(f'where it is:  mlflow.set_tracking_uri("{runs.tracking_uri}")')
    return address
