"""The folder of one run: config.yaml, metrics.jsonl, checkpoint/ and, when it is done, outcome.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from titanlab.platform.distributed import is_main
from titanlab.platform.errors import CheckpointError, ConfigError, DamagedCheckpointError, Problem, TitanlabError
from titanlab.platform.files import write_atomically, yaml_text
from titanlab.platform.run_config import RunConfig, load_config
from titanlab.platform.training.checkpoint import other_configuration

CONFIG, METRICS, OUTCOME, LOCK = "config.yaml", "metrics.jsonl", "outcome.json", ".lock"
PATIENCE = 10.0  # seconds: a worker that lost its driver may still be ending


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Creates the folder and keeps it for this process; the kernel lets go of it when the process ends, however.

    Raises:
        ConfigError: the folder cannot be created.
        TitanlabError: another process trains there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(Problem(f"{directory} cannot be created: {error.strerror}; name another folder")) from None
    lock = FileLock(directory / LOCK, timeout=PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise TitanlabError(f"{directory}: another process trains this run; wait for it, or end it first") from None
    try:
        yield
    finally:
        lock.release()


def check_configuration(directory: Path, config: RunConfig) -> None:
    """Refuses a folder in which a run of another configuration was begun.

    Raises:
        CheckpointError: naming both keys.
    """
    path = directory / CONFIG
    if not path.exists():
        return
    try:
        found = load_config(path).key
    except ConfigError as error:
        raise CheckpointError(
            f"{directory}: holds a run of a configuration that cannot be read here: {error}"
        ) from error
    if found != config.key:
        raise other_configuration(directory, found, config.key)


def write_configuration(directory: Path, config: RunConfig) -> None:
    """Writes the resolved configuration, defaults included."""
    write_atomically(directory / CONFIG, yaml_text(config.settings()))


def write_outcome(directory: Path, step: int, metrics: dict[str, float], data_digest: str) -> None:
    """Marks the run as complete."""
    # JSON has no NaN and no infinity: those are kept as text, which float() reads.
    values = {name: value if math.isfinite(value) else repr(value) for name, value in metrics.items()}
    record = {"status": "complete", "step": step, "metrics": values, "data_digest": data_digest}
    write_atomically(directory / OUTCOME, json.dumps(record, indent=2, allow_nan=False) + "\n")


def read_outcome(directory: Path) -> tuple[int, dict[str, float], str] | None:
    """Step, metrics and data digest of a complete run; None if it is not complete.

    Raises:
        DamagedCheckpointError: the file is damaged.
    """
    path = directory / OUTCOME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        metrics = {name: float(value) for name, value in record["metrics"].items()}
        return int(record["step"]), metrics, str(record["data_digest"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{path}: is damaged ({error})") from error


def finished_run(directory: Path, warn: Callable[[str], None]) -> tuple[int, dict[str, float], str] | None:
    """As `read_outcome`, but a damaged one is set aside: the run is finished again."""
    try:
        return read_outcome(directory)
    except DamagedCheckpointError as error:
        if is_main():
            (directory / OUTCOME).replace(directory / f"{OUTCOME}.damaged")
        warn(f"{error}; the run is finished again")
        return None
