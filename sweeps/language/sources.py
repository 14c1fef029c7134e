"""Where each value of a sweep comes from: a file it extends, the file itself, or an option of the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from titanlab.platform.yaml_source import Document, KeyPath, dotted


class Source(NamedTuple):
    """A written value and its place."""

    key: str
    """Dotted, as errors show it: `base.model.dim`."""
    value: str
    place: str
    """`file:line`, or the option."""


def sources(document: Document) -> list[Source]:
    """Every value that a sweep's files and options write, in their order; a list is one value."""
    return [
        Source(dotted(path), json.dumps(value, ensure_ascii=False), _place(document, path))
        for path, value in _leaves(document.value, ())
    ]


def _leaves(block: Mapping[str, Any], path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in block.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _place(document: Document, path: KeyPath) -> str:
    place = document.location(path)
    return place.file if place.line is None else f"{place.file}:{place.line}"
