"""Files that are whole or absent, whenever the process is killed, and names that are safe in a path."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from titanlab.platform.errors import DiskFullError
from titanlab.platform.yaml_source import plain_scalar

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Replaces a file: a reader sees the old content or the new, also after a crash of the machine.

    What fails, or is interrupted, leaves nothing beside it.

    Args:
        path: the file.
        content: all of it; text is written in UTF-8.
        mode: who may read and write it, before the umask.
    """
    temporary = path.with_name(f".{path.name}.writing")
    no_links = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
    with telling_full_disk(path):
        try:
            with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags | no_links, mode)) as stream:
                stream.write(content.encode("utf-8") if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            # what went wrong is said, not that this went wrong too
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextmanager
def telling_full_disk(path: Path) -> Iterator[None]:
    """Within it an error that means a full disk says so.

    Raises:
        DiskFullError: naming the path.
    """
    try:
        yield
    except Exception as error:
        reason = full_disk_reason(error)
        if reason is None:
            raise
        raise DiskFullError(
            f"{path}: cannot be written ({reason}); make room there (or name another folder with --store)"
        ) from error


def full_disk_reason(error: BaseException | None) -> str | None:
    """How the operating system words it, if an error means a full disk; None for any other error.

    The writers of torch and safetensors hide the system's error in one of their own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return os.strerror(error.errno)
        for number in _FULL:
            if f"(os error {number})" in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def sync_file(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until a folder's entries (creations, renames, removals) are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def slug(name: str) -> str:
    """A name as part of a path: small letters and digits joined by single dashes, at most 80; `run` if none is left."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80].rstrip("-") or "run"


def yaml_text(data: dict[str, Any]) -> str:
    """Plain data as YAML that `yaml_source` reads back as the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)


class _Dumper(yaml.SafeDumper):
    """PyYAML quotes what YAML 1.1 would misread; this also quotes what YAML 1.2 would (`1e-3` as text)."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = isinstance(plain_scalar(text), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


_Dumper.add_representer(str, _represent_text)
