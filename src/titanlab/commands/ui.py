"""`titanlab ui`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from types import FrameType

    from titanlab.platform.tracking.store import Store, SweepRuns


def ui(
    file: Annotated[str | None, typer.Argument(help="A sweep whose trials to link to; all by default.")] = None,
    store: Annotated[Path, typer.Option(help="The folder of results.")] = Path("titanlab-store"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen on this machine; 0: a free one.")] = 5000,
    link: Annotated[bool, typer.Option("--link", help="Print the link and serve nothing.")] = False,
) -> None:
    """Serve MLflow over the store and print the link that shows a sweep's trials side by side."""
    import signal

    from titanlab.commands.screen import say
    from titanlab.platform.tracking.store import open_store
    from titanlab.platform.tracking.ui_server import HOST, UiError, UiServer

    place = open_store(store)
    sweeps = _sweeps(place, file)
    remote = [runs for runs in sweeps if runs.tracking_uri.startswith("http")]
    local = [runs for runs in sweeps if runs not in remote]
    for runs in remote:
        _show(runs.tracking_uri, [runs])
    if link:
        _show(f"http://{HOST}:{port}", local)
    elif local:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):  # Windows has no SIGHUP
                signal.signal(getattr(signal, name), _stop)
        with UiServer(open_store(store, _database(local)), port) as server:
            _show(server.address, local)
            say(f"MLflow serves {place.root} at {server.address}; Ctrl-C stops it")
            server.wait()
            raise UiError(f"MLflow's server ended by itself; its log is {place.root / 'ui.log'}")


def _sweeps(store: "Store", file: str | None) -> "list[SweepRuns]":
    """Where the named sweep, or every sweep of the store, stands in MLflow."""
    from titanlab.platform.errors import ConfigError, Problem
    from titanlab.platform.tracking.store import read_sweep_runs
    from titanlab.sweeps.language.sweep_file import load_sweep

    if file is not None:
        sweep_id = load_sweep(file).config.id
        found = read_sweep_runs(store.sweep(sweep_id))
        if found is None:
            raise ConfigError(
                Problem(f"sweep '{sweep_id}' was never run in {store.root}; run it with `titanlab sweep run {file}`")
            )
        return [found]
    folders = sorted((store.root / "sweeps").glob("*/mlflow.json"))
    sweeps = [runs for folder in folders if (runs := read_sweep_runs(folder.parent)) is not None]
    if not sweeps:
        raise ConfigError(Problem(f"no sweep was run in {store.root}; name another folder with --store"))
    return sweeps


def _database(sweeps: "list[SweepRuns]") -> str:
    """The one database that the sweeps are in."""
    from titanlab.platform.errors import ConfigError, Problem

    databases = sorted({runs.tracking_uri for runs in sweeps})
    if len(databases) > 1:
        raise ConfigError(
            Problem(f"the sweeps are in several databases ({', '.join(databases)}); name one sweep's file")
        )
    return databases[0]


def _show(server: str, sweeps: "list[SweepRuns]") -> None:
    from titanlab.commands.screen import say
    from titanlab.platform.tracking.links import trials_link

    for runs in sweeps:
        say(f"{runs.sweep_id}: {trials_link(server, runs)}")


def _stop(number: int, frame: "FrameType | None") -> None:
    raise typer.Exit(0)
