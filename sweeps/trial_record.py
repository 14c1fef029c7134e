"""How a trial ended, kept in its folder: what decides whether it runs again, whatever MLflow knows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from filelock import FileLock, Timeout

from titanlab.platform.errors import TitanlabError
from titanlab.platform.files import write_atomically

Status: TypeAlias = Literal["complete", "stopped", "diverged", "out_of_memory", "failed"]
HANDOVER = 60.0  # seconds a new process waits for a dying one to leave a trial


class TrialBusyError(TitanlabError):
    """Another process is training this trial."""


@dataclass(frozen=True)
class TrialRecord:
    """The end of a trial's last attempt."""

    status: Status
    """`stopped` waits to be resumed; the last three are failures that a retry would repeat."""
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    attempt: int = 1

    @property
    def failed(self) -> bool:
        """Whether it ended in an error."""
        return self.status in ("diverged", "out_of_memory", "failed")

    @property
    def reason(self) -> str:
        """The failure in one line."""
        lines = self.message.strip().splitlines()
        text = lines[0] if lines else ""
        return f"{self.error_type}: {text}" if text else self.error_type

    def write(self, folder: Path) -> None:
        """Keeps it as `outcome.json`, in one step."""
        write_atomically(folder / "outcome.json", json.dumps(asdict(self)) + "\n")


def read_record(folder: Path) -> TrialRecord | None:
    """What the last attempt came to; None if there was none, or if it was killed."""
    try:
        return TrialRecord(**json.loads((folder / "outcome.json").read_text()))
    except FileNotFoundError:
        return None


def begin_attempt(folder: Path) -> int:
    """Counts an attempt and removes the record of the one before; returns its number, from 1."""
    (folder / "outcome.json").unlink(missing_ok=True)
    attempt = attempts(folder) + 1
    write_atomically(folder / "attempt.json", json.dumps({"attempt": attempt, "pid": os.getpid()}) + "\n")
    return attempt


def attempts(folder: Path) -> int:
    """How many attempts were begun."""
    try:
        return int(json.loads((folder / "attempt.json").read_text())["attempt"])
    except FileNotFoundError:
        return 0


@contextmanager
def training(folder: Path, patience: float = HANDOVER) -> Iterator[None]:
    """Holds a trial's folder for one process; the operating system lets go of it when the process dies.

    Raises:
        TrialBusyError: another process holds it and does not leave.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise TrialBusyError(f"another process is training the trial in {folder}") from None
    try:
        yield
    finally:
        lock.release()


def is_training(folder: Path) -> bool:
    """Whether some process is training the trial right now."""
    if not (folder / ".lock").exists():
        return False
    try:
        with training(folder, patience=0):
            return False
    except TrialBusyError:
        return True
