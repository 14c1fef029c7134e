"""The folders of a run's checkpoints: how one takes another's place, and whether its files are what was written.

A new one is written beside the present one, synced, and takes its place by two renames: checkpoint -> checkpoint.old,
checkpoint.writing -> checkpoint. So at every moment a folder named `checkpoint` is complete, or `checkpoint.old` is;
and while a run goes on the former one stays, for the day the newest turns out to be damaged.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from titanlab.platform.errors import DamagedCheckpointError
from titanlab.platform.files import sync_file, sync_folder, telling_full_disk, write_atomically

NAME, WRITING, OLD, DAMAGED, BEST = (
    "checkpoint",
    "checkpoint.writing",
    "checkpoint.old",
    "checkpoint.damaged",
    "checkpoint.best",
)
WEIGHTS, TRAINING, DIGESTS = "model.safetensors", "training.pt", "sha256.json"


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """Yields an empty folder; what is written there becomes the checkpoint, or nothing does.

    Raises:
        DiskFullError: it does not fit; the checkpoints of before stay, and half of the new one is gone.
    """
    writing, target, old = directory / WRITING, directory / NAME, directory / OLD
    shutil.rmtree(writing, ignore_errors=True)
    try:
        with telling_full_disk(writing):
            writing.mkdir(parents=True)
            yield writing
            write_digests(writing)
    except Exception:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    writing.rename(target)
    sync_folder(directory)


def write_digests(folder: Path) -> None:
    """Writes down what the folder's files are, and waits until all of it is on the disk."""
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.name != DIGESTS:
            sync_file(path)
            digests[path.name] = _digest(path)
    write_atomically(folder / DIGESTS, json.dumps(digests, indent=2) + "\n")


def verify(folder: Path, *names: str) -> None:
    """Reads files of a checkpoint whole: neither safetensors nor torch would notice a changed number.

    A folder without digests, of an earlier titanlab, is taken as it is.

    Raises:
        DamagedCheckpointError: one is missing, or is not what was written.
    """
    digests = _read_digests(folder / DIGESTS)
    for name in names:
        path = folder / name
        if not path.is_file():
            raise damaged(path, "the file is missing")
        if digests is None:
            continue
        if name not in digests:
            raise damaged(folder / DIGESTS, f"it does not name {name}")
        if _digest(path) != digests[name]:
            raise damaged(path, "its content is not what was written")


def folders_in(directory: Path) -> list[Path]:
    """The checkpoints of a run's directory, the newest first."""
    return [directory / name for name in (NAME, OLD) if (directory / name).is_dir()]


def set_aside(folder: Path) -> None:
    """Takes a damaged checkpoint out of the way; the last one stays to be looked at until the run is complete."""
    aside = folder.with_name(DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def damaged(path: Path, reason: Any) -> DamagedCheckpointError:
    """The error for a file that cannot be what was written."""
    lines = str(reason).strip().splitlines()
    return DamagedCheckpointError(
        f"{path}: the checkpoint is incomplete or damaged ({lines[0] if lines else type(reason).__name__})"
    )


def _read_digests(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise damaged(path, error) from error
    if not isinstance(found, dict):
        raise damaged(path, "no mapping of files to digests")
    return found


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
