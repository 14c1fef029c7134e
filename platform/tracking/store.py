"""Where results are kept: the folders of a store, its MLflow address and its locks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from titanlab.platform.errors import ConfigError, Problem, TitanlabError
from titanlab.platform.files import write_atomically
from titanlab.platform.redaction import holds_password
from titanlab.platform.tracking.driver import driver_of, holding

DEFAULT_STORE = Path("titanlab-store")


class SweepBusyError(TitanlabError):
    """Another process is running this sweep in this store."""


@dataclass(frozen=True)
class Store:
    """A folder of results and the MLflow server (or database) that shows them."""

    root: Path
    """Absolute."""
    tracking_uri: str
    """The SQLite database in `root` unless a server was named."""

    @property
    def is_local(self) -> bool:
        """Whether the tracking data lies in the store itself, and so do the artifacts."""
        return self.tracking_uri == _database_uri(self.root)

    @property
    def artifact_location(self) -> str | None:
        """Where a new experiment keeps its artifacts; None leaves it to the server."""
        return (self.root / "artifacts").as_uri() if self.is_local else None

    def sweep(self, sweep_id: str) -> Path:
        """The folder of a sweep."""
        return self.root / "sweeps" / sweep_id

    def trial(self, sweep_id: str, key: str) -> Path:
        """The folder of a trial: config.yaml, metrics.jsonl, checkpoint/, outcome.json."""
        return self.sweep(sweep_id) / "trials" / key

    @contextmanager
    def setting_up(self) -> Iterator[None]:
        """Holds the store alone: two processes that open a fresh SQLite database break its migration."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock", timeout=120):
            yield

    def _refuse_ways_out(self, folder: Path) -> None:
        """Of what a sweep writes to, nothing may be a link that leads out of the store.

        Raises:
            ConfigError: naming the link.
        """
        trials = folder / "trials"
        inside = os.walk(trials)  # which follows no link
        links = [Path(place, name) for place, *names in inside for name in (*names[0], *names[1])]
        for path in (folder.parent, folder, trials, *filter(Path.is_symlink, links)):
            if not path.resolve().is_relative_to(self.root.resolve()):
                raise ConfigError(
                    Problem(f"{path} leads out of the store, to {path.resolve()}; remove the link, or move the store")
                )

    @contextmanager
    def driving(self, sweep_id: str) -> Iterator[None]:
        """Holds a sweep for one driver; the operating system lets go of the lock when the driver dies.

        Raises:
            ConfigError: it cannot be written, or leads out of the store.
            SweepBusyError: another driver holds it.
        """
        folder = self.sweep(sweep_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.root, error) from None
        self._refuse_ways_out(folder)
        with ExitStack() as held:
            try:
                held.enter_context(holding(folder))
            except Timeout:
                who = driver_of(folder)
                raise SweepBusyError(
                    f"sweep '{sweep_id}' is being run by another process in {self.root}"
                    f"{f' ({who})' if who else ''}; wait for it, or stop it first: `titanlab sweep stop`"
                ) from None
            yield


@dataclass(frozen=True)
class SweepRuns:
    """Where a sweep stands in MLflow; kept as `mlflow.json` in its folder, so that a link needs no look-up."""

    experiment_id: str
    parent_run_id: str
    sweep_id: str
    metric: str
    """The objective."""
    direction: str
    """`max` or `min`."""
    tracking_uri: str
    has_view: bool = False
    """Whether the experiment keeps the view that a link opens; one of an older titanlab has none."""

    def write(self, folder: Path) -> None:
        """Keeps it in the sweep's folder; with a password in its address, for nobody else to read."""
        mode = 0o600 if holds_password(self.tracking_uri) else 0o666
        write_atomically(folder / "mlflow.json", json.dumps(asdict(self), indent=2) + "\n", mode=mode)


def read_sweep_runs(folder: Path) -> SweepRuns | None:
    """What `SweepRuns.write` kept, or None for a sweep that was never run."""
    try:
        return SweepRuns(**json.loads((folder / "mlflow.json").read_text()))
    except FileNotFoundError:
        return None


def open_store(root: str | Path = DEFAULT_STORE, tracking_uri: str | None = None) -> Store:
    """Names a store; creates nothing.

    Raises:
        ConfigError: the path is a file or within one, or the tracking address is of a kind that cannot work.
    """
    folder = Path(root).expanduser().absolute()
    standing = next(path for path in (folder, *folder.parents) if path.exists())
    if not standing.is_dir():
        what = "is a file" if standing == folder else f"lies within {standing}, which is a file"
        raise ConfigError(Problem(f"the store {folder} {what}; name a folder with --store"))
    if tracking_uri is None:
        return Store(folder, _database_uri(folder))
    known = ("http://", "https://", "sqlite:///", "postgresql", "mysql", "mssql", "databricks")
    if not tracking_uri.startswith(known):
        raise ConfigError(
            Problem(
                f"--tracking-uri {tracking_uri}: expected the address of an MLflow server (http://HOST:PORT) or of a "
                "database (sqlite:///..., postgresql://...)"
            )
        )
    return Store(folder, tracking_uri)


def _database_uri(root: Path) -> str:
    return f"sqlite:///{root / 'mlflow.db'}"


def _unusable(root: Path, error: OSError) -> ConfigError:
    return ConfigError(
        Problem(f"the store {root} cannot be written: {error.strerror}; name another folder with --store")
    )
