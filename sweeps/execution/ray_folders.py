"""Ray's temporary folders: one a run, held by a lock, and removed by the next run if its owner is dead."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

PREFIX, LOCK = "titanlab-ray-", ".owner"
LONGEST_PARENT = 18  # characters: a socket's path below it may have 107, of which Ray takes 64 and we 24
YOUNGEST = 60.0  # seconds; a folder may not be locked yet while its owner is making it


class RayFolder(NamedTuple):
    """A folder of this run alone."""

    path: Path
    lock: FileLock

    @property
    def inner(self) -> Path:
        """Ray's own: it opens the folder that it is given to everybody, and this one lies within one that is not."""
        return self.path / "r"

    @property
    def empty(self) -> Path:
        """Holds no file that anybody could import."""
        return self.path / "empty"

    def remove(self) -> None:
        """Lets go of it."""
        self.lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def make_ray_folder() -> RayFolder:
    """A new folder, and none left of runs that were killed."""
    parent = tempfile.gettempdir()
    parent = parent if len(parent) <= LONGEST_PARENT else "/tmp"
    _remove_orphans(Path(parent))
    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = FileLock(path / LOCK)
    lock.acquire(timeout=0)  # the operating system lets go of it when this process ends, however it does
    made = RayFolder(path, lock)
    made.empty.mkdir()
    return made


def _remove_orphans(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            status = (folder / LOCK).stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < YOUNGEST:
                continue
            lock = FileLock(folder / LOCK)
            lock.acquire(timeout=0)
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)
