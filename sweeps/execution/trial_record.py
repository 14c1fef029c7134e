"""How a trial stands, read from its folder: what decides whether it runs again, whatever MLflow knows.

`outcome.json` (the training's own) says that it is complete; `failure.json` says why its last attempt failed, and
`attempt.json` which attempt it was and in which process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from filelock import FileLock, Timeout

from titanlab.platform.errors import DamagedCheckpointError
from titanlab.platform.files import write_atomically
from titanlab.platform.training.run_directory import LOCK, read_outcome

Status: TypeAlias = Literal["complete", "stopped", "diverged", "out_of_memory", "disk_full", "failed"]
FAILED: tuple[Status, ...] = ("failed", "out_of_memory", "disk_full", "diverged")

FAILURE, ATTEMPT = "failure.json", "attempt.json"


@dataclass(frozen=True)
class TrialRecord:
    """What the last attempt at a trial came to."""

    status: Status
    """`stopped` waits to be resumed; those in `FAILED` are failures."""
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    data_digest: str = ""
    """sha256 of the data of a complete trial."""
    may_pass: bool = False
    """Of a failure: whether another attempt could end otherwise; not so for settings, shapes, code and numbers."""
    warnings: Sequence[str] = ()
    """What went wrong and was mended: a damaged checkpoint, say."""

    @property
    def failed(self) -> bool:
        """Whether it ended in an error."""
        return self.status in FAILED

    @property
    def reason(self) -> str:
        """The failure in one line."""
        lines = self.message.strip().splitlines()
        return f"{self.error_type}: {lines[0]}" if lines else self.error_type


def read_record(folder: Path) -> TrialRecord | None:
    """How the trial stands; None if it was never begun."""
    try:
        finished = read_outcome(folder)
    except DamagedCheckpointError as error:  # the next attempt finishes it again
        return TrialRecord("failed", error_type="DamagedCheckpoint", message=str(error), may_pass=True)
    if finished is not None:
        return TrialRecord("complete", finished[0], finished[1], data_digest=finished[2])
    failure = _read(folder / FAILURE)
    if failure is not None:
        try:
            return TrialRecord(**failure)
        except TypeError:  # of another version
            return TrialRecord("failed", error_type="Unknown", message=f"{folder / FAILURE} cannot be read")
    return TrialRecord("stopped") if attempts(folder) else None


def write_failure(folder: Path, record: TrialRecord) -> None:
    """Keeps a failure until the next attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FAILURE, json.dumps(asdict(record), indent=2) + "\n")


def begin_attempt(folder: Path) -> int:
    """Counts an attempt and forgets the failure of the one before; returns its number, from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    attempt = attempts(folder) + 1
    write_atomically(folder / ATTEMPT, json.dumps({"attempt": attempt, "pid": os.getpid()}) + "\n")
    (folder / FAILURE).unlink(missing_ok=True)
    return attempt


def attempts(folder: Path) -> int:
    """How many attempts were begun."""
    found = _read(folder / ATTEMPT)
    return int(found.get("attempt", 1)) if found else 0


def is_training(folder: Path) -> bool:
    """Whether some process of this machine is training the trial right now."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


def _read(path: Path) -> dict | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:  # damaged: nothing that a new attempt needs
        return None
    return found if isinstance(found, dict) else None
