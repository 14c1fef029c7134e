"""`extends: FILE` or a list of files: a configuration written as its differences to others.

What a file writes goes over what it extends, and later files of a list over earlier ones: mappings merge, anything
else replaces, and a block that names another `type` is replaced as a whole. Paths are relative to the file that says
them. A sweep may also say it within its `base`, to take its run from a run's file. Every value keeps its own place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from titanlab.platform.config import shown_value
from titanlab.platform.errors import ConfigError
from titanlab.platform.yaml_source import Document, KeyPath, parse_yaml, read_text

MAX_DEPTH = 16
MAX_FILES = 64
MAX_CHARACTERS = 1 << 20  # of all extended files together

KEY = "extends"


def resolve_extends(document: Document) -> Document:
    """The document over all that it extends, `extends` itself gone.

    Raises:
        ConfigError: located at the `extends` in question: a file that is missing or extends itself, too many files.
    """
    return _Resolver().resolve(document, (document.file,))


class _Resolver:
    """Reads what a file extends, what that extends, and so on; `chain` is the files on the way, outermost first."""

    def __init__(self) -> None:
        self.read = self.characters = 0

    def resolve(self, document: Document, chain: tuple[str, ...]) -> Document:
        for block in (("base",), ()):
            document = self._resolve_block(document, block, chain)
        return document

    def _resolve_block(self, document: Document, block: KeyPath, chain: tuple[str, ...]) -> Document:
        settings: Any = document.value
        for key in block:
            settings = settings.get(key)
        if not isinstance(settings, dict) or KEY not in settings:
            return document
        own = _without(document, (*block, KEY))
        below = Document(document.file, {})
        for place, name in _names(document, (*block, KEY), settings[KEY]):
            below = merge(below, _within(self._parent(document, place, name, chain), block))
        return merge(below, own)

    def _parent(self, document: Document, place: KeyPath, name: str, chain: tuple[str, ...]) -> Document:
        file = str(Path(document.file).parent / name)
        if any(_same_file(file, other) for other in chain):
            message = f"the files extend one another: {' -> '.join((*chain, file))}"
            raise ConfigError(document.problem(place, message))
        self.read += 1
        if len(chain) > MAX_DEPTH or self.read > MAX_FILES:
            message = f"more than {MAX_DEPTH} files in a chain, or {MAX_FILES} in all, are extended"
            raise ConfigError(document.problem(place, message))
        if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
            raise ConfigError(document.problem(place, f"{file}: is no ordinary file"))  # a pipe: reading it may not end
        try:
            text = read_text(file)
        except ConfigError as error:
            raise ConfigError(document.problem(place, f"{file}: {error.problems[0].message}")) from None
        self.characters += len(text)
        if self.characters > MAX_CHARACTERS:
            message = f"the extended files together are larger than {MAX_CHARACTERS >> 20} MiB"
            raise ConfigError(document.problem(place, message))
        return self.resolve(parse_yaml(text, file), (*chain, file))


def _names(document: Document, place: KeyPath, value: Any) -> list[tuple[KeyPath, str]]:
    """The files that an `extends` names, each with its place."""
    listed = value if isinstance(value, list) else [value]
    names = [((*place, index) if isinstance(value, list) else place, name) for index, name in enumerate(listed)]
    problems = [
        document.problem(at, f"expected the name of a file, or a list of names, got {shown_value(name)}")
        for at, name in names
        if not isinstance(name, str) or not name
    ]
    if problems:
        raise ConfigError(problems)
    return names


def _same_file(one: str, other: str) -> bool:
    try:
        return Path(one).resolve() == Path(other).resolve()
    except (OSError, RuntimeError, ValueError):  # a name that no file can have; reading it says so
        return False


def _without(document: Document, path: KeyPath) -> Document:
    value = dict(document.value)
    block: dict[str, Any] = value
    for key in path[:-1]:
        inner = dict(block[str(key)])
        block[str(key)] = inner
        block = inner
    del block[str(path[-1])]
    return Document(document.file, value, {key: mark for key, mark in document.marks.items() if not _in(key, {path})})


def _within(document: Document, block: KeyPath) -> Document:
    """A run's document as the block of a sweep's."""
    value: dict[str, Any] = document.value
    for key in reversed(block):
        value = {str(key): value}
    return Document(document.file, value, {(*block, *path): mark for path, mark in document.marks.items()})


def merge(below: Document, above: Document) -> Document:
    """Both documents as one; where both say something, `above` holds."""
    replaced: set[KeyPath] = set()
    value = _merge(below.value, above.value, (), replaced)
    kept = {path: mark for path, mark in below.marks.items() if not _in(path, replaced)}
    return Document(above.file, value, {**kept, **above.marks})


def _merge(below: dict[str, Any], above: dict[str, Any], path: KeyPath, replaced: set[KeyPath]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = below.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _other_type(old, value):
            merged[key] = _merge(old, value, (*path, key), replaced)
        else:
            replaced.add((*path, key))
            merged[key] = value
    return merged


def _other_type(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return "type" in old and "type" in new and old["type"] != new["type"]


def _in(path: KeyPath, blocks: set[KeyPath]) -> bool:
    """Whether a path is one of the blocks or within one."""
    return any(path[:end] in blocks for end in range(1, len(path) + 1))
