"""`titanlab train FILE`: trains one configuration, or goes on where it was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from titanlab.platform.run_config import RunConfig
    from titanlab.platform.training.loop import Outcome
    from titanlab.platform.yaml_source import Document

INTERRUPTED = 130


def train(
    file: Path = typer.Argument(help="The run's YAML file; its keys are model, task, train and name."),
    overrides: list[str] = typer.Option(
        [], "--set", metavar="KEY=VALUE", help="Change a setting, as in train.steps=100."
    ),
    plugins: list[str] = typer.Option([], "--plugin", metavar="FILE|MODULE", help="Load your own modules first."),
    store: Path = typer.Option(Path("titanlab-store"), help="Where runs are kept."),
    fresh: bool = typer.Option(
        False, "--fresh", help="Start again: remove what an earlier run of this configuration left."
    ),
) -> None:
    """Train one configuration. The same command again goes on where it stopped, or says that it is complete."""
    config = _read(file, overrides, plugins)

    from titanlab.platform.distributed import is_main, process_group
    from titanlab.platform.files import slug
    from titanlab.platform.tracking.store import open_store
    from titanlab.platform.training.device import choose_device
    from titanlab.platform.training.run_directory import read_outcome

    directory = open_store(store).root / "runs" / f"{slug(config.name)}-{config.key}"
    with process_group(choose_device(config.train).type):
        if fresh:
            _remove(directory)
        was_complete = read_outcome(directory) is not None
        outcome = _run(config, directory)
        if is_main():
            _conclude(outcome, directory, was_complete)
    if outcome.status == "stopped":
        raise typer.Exit(INTERRUPTED)


def _read(file: Path, overrides: list[str], plugins: list[str]) -> RunConfig:
    from titanlab.platform.overrides import apply_overrides
    from titanlab.platform.plugins import load_plugin
    from titanlab.platform.run_config import run_config
    from titanlab.platform.yaml_source import read_yaml

    for plugin in plugins:
        load_plugin(plugin)
    document = apply_overrides(read_yaml(file), overrides)
    config = run_config(document)
    _refuse_unbuildable(config, document)
    return config if "name" in config.model_fields_set else config.replace(name=file.stem)


def _refuse_unbuildable(config: RunConfig, document: Document) -> None:
    """Builds the model without storage: what cannot be built is told with its place, before anything is written."""
    from titanlab.platform.errors import ConfigError
    from titanlab.sweeps.sizes import Sizes, UnbuildableError

    try:
        Sizes().of(config)
    except UnbuildableError as error:
        path = tuple(error.path.split("."))
        raise ConfigError(document.problem(path, f"the model cannot be built: {error}")) from None


def _remove(directory: Path) -> None:
    import shutil

    from titanlab.platform.distributed import is_main, wait_for_all

    if is_main() and directory.exists():
        shutil.rmtree(directory)
    wait_for_all()


def _run(config: RunConfig, directory: Path) -> Outcome:
    from contextlib import nullcontext

    from titanlab.commands.interruption import stop_requests
    from titanlab.commands.progress import progress_display
    from titanlab.platform.distributed import is_main
    from titanlab.platform.training.loop import train as train_run

    display = progress_display(config.name) if is_main() else nullcontext(lambda progress: None)
    with stop_requests() as requested, display as observe:
        return train_run(config, directory, observe=observe, should_stop=requested)


def _conclude(outcome: Outcome, directory: Path, was_complete: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, markup=False)
    if outcome.status == "stopped":
        console.print(f"stopped at step {outcome.step}; the same command goes on from there", highlight=False)
    else:
        title = f"complete after {outcome.step} steps"
        table = Table("metric", "value", title=title if not was_complete else f"was {title}", title_justify="left")
        for name, value in outcome.metrics.items():
            table.add_row(name, f"{value:,.0f}" if value.is_integer() or value >= 1e4 else f"{value:.5g}")
        console.print(table)
        if was_complete:
            console.print("nothing was left to do; --fresh removes this run and trains it again", highlight=False)
    console.print(f"checkpoint: {directory / 'checkpoint'}", highlight=False)
