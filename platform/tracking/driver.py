"""Who drives a sweep: a lock that the operating system lets go of when the driver dies, and its name beside it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from titanlab.platform.files import write_atomically

LOCK, DRIVER = ".lock", "driver.json"


@dataclass(frozen=True)
class Driver:
    """The process that runs a sweep."""

    pid: int
    host: str
    started: float
    """Seconds since 1970."""

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host}, since {since}"


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Holds a sweep's folder for this process.

    Raises:
        Timeout: another process holds it.
    """
    lock = FileLock(folder / LOCK)
    lock.acquire(timeout=0)
    try:
        driver = Driver(os.getpid(), socket.gethostname(), time.time())
        write_atomically(folder / DRIVER, json.dumps(asdict(driver)) + "\n")
        yield
    finally:
        with suppress(OSError):
            (folder / DRIVER).unlink(missing_ok=True)
        lock.release()


def is_driven(folder: Path) -> bool:
    """Whether some process runs the sweep of this folder right now."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def driver_of(folder: Path) -> Driver | None:
    """Who wrote its name here last; it may be dead (`is_driven`)."""
    try:
        return Driver(**json.loads((folder / DRIVER).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
