"""Files that are whole or absent, whenever the process is killed, and names that are safe in a path."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from titanlab.platform.yaml_source import plain_scalar


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file: a reader sees the old content or the new, also after a crash of the machine."""
    temporary = path.with_name(f".{path.name}.writing")
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


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
