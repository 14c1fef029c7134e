"""`titanlab train FILE`: trains one configuration, or goes on where it was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from titanlab.commands.options import load_plugins

if TYPE_CHECKING:
    from titanlab.platform.budgets import Budget
    from titanlab.platform.costs import Costs
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
    config, costs, budget = _read(file, overrides, plugins)

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
        if is_main() and not was_complete:
            _announce(config, costs, budget)
        outcome = _run(config, directory)
        if is_main():
            _conclude(outcome, directory, was_complete)
    if outcome.status == "stopped":
        raise typer.Exit(INTERRUPTED)


def _read(file: Path, overrides: list[str], plugins: list[str]) -> tuple[RunConfig, Costs, Budget]:
    from titanlab.platform.budgets import budget_of
    from titanlab.platform.errors import ConfigError
    from titanlab.platform.extends import resolve_extends
    from titanlab.platform.overrides import apply_overrides
    from titanlab.platform.run_config import run_config
    from titanlab.platform.yaml_source import read_yaml

    load_plugins(plugins)
    document = apply_overrides(resolve_extends(read_yaml(file)), overrides)
    config = run_config(document)
    costs = _costs(config, document)
    try:
        budget = budget_of(config, costs)
    except ConfigError as error:
        raise document.located(error) from None
    return config if "name" in config.model_fields_set else config.replace(name=file.stem), costs, budget


def _costs(config: RunConfig, document: Document) -> Costs:
    """Builds the model without storage: what cannot be built is told with its place, before anything is written."""
    from titanlab.platform.errors import ConfigError
    from titanlab.platform.keys import key_path
    from titanlab.sweeps.planning.sizes import Sizes, UnbuildableError

    try:
        return Sizes().of(config)
    except UnbuildableError as error:
        raise ConfigError(document.problem(key_path(error.path), f"the model cannot be built: {error}")) from None


def _announce(config: RunConfig, costs: Costs, budget: Budget) -> None:
    """What the model costs, in one line, and what training may spend, in another."""
    from titanlab.commands.screen import Screen
    from titanlab.sweeps.planning.inequalities import unknown
    from titanlab.sweeps.readable import readable_bytes, readable_count

    known = [f"{costs.parameters:,} parameters"]
    if costs.state_bytes is not None:
        of_memory = f" ({readable_bytes(costs.memory_bytes)} of memory)" if costs.memory_bytes else ""
        known.append(f"{readable_bytes(costs.state_bytes)} of state a sequence{of_memory}")
    if costs.flops is not None:
        known.append(f"{readable_count(costs.flops)} FLOPs a token forward")
    console = Screen(soft_wrap=True, markup=False)
    console.print(f"{config.name}: {', '.join(known)}", highlight=False)
    console.print(f"budget: {budget.words}", highlight=False)
    for note in unknown([costs]):
        console.print(f"note: {note}", highlight=False)


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
        return train_run(config, directory, observe=observe, should_stop=requested, warn=_warn)


def _warn(text: str) -> None:
    from titanlab.platform.distributed import is_main

    if is_main():
        typer.echo(f"warning: {text}", err=True)


def _conclude(outcome: Outcome, directory: Path, was_complete: bool) -> None:
    from rich.table import Table

    from titanlab.commands.screen import Screen

    console = Screen(soft_wrap=True, markup=False)
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
    if (directory / "checkpoint").is_dir():  # `train.keep_weights: none` leaves none
        console.print(f"checkpoint: {directory / 'checkpoint'}", highlight=False)
