"""Reading YAML as people mean it: YAML 1.2 rules, no duplicate keys, bounded, and every value's place remembered.

PyYAML parses; the meaning of plain scalars is YAML 1.2's core schema (chapter 10.3), so `off` is a word, `1e-3` a
number and `010` ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from titanlab.platform.errors import ConfigError, Location, Problem
from titanlab.platform.keys import key_path

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_DIGITS = 300  # beyond any setting, and within what a float can hold
MAX_VALUES = 100_000  # after aliases are expanded: an alias bomb stops here
MAX_EVENTS = 250_000  # as written: keys, values, ends of blocks; more would take the parser long

KeyPath = tuple[str | int, ...]

_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Document:
    """A parsed file: plain data, and where each value stands."""

    file: str
    value: dict[str, Any]
    marks: dict[KeyPath, Location] = field(default_factory=dict, repr=False)

    def location(self, path: KeyPath) -> Location:
        """The place of a value, or of the innermost block around it that the file holds."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.marks:
                return self.marks[path[:end]]
        return Location(self.file)

    def locate(self, path: KeyPath) -> tuple[str, Location]:
        """The dotted name and the place of a value."""
        return dotted(path), self.location(path)

    def problem(self, path: KeyPath, message: str) -> Problem:
        """A problem with the value at `path`."""
        return Problem(message, *self.locate(path))

    def located(self, error: ConfigError) -> ConfigError:
        """The error with the place of each setting that it names by its dotted path alone."""
        return ConfigError(
            [
                self.problem(key_path(problem.path), problem.message)
                if problem.path and problem.location is None
                else problem
                for problem in error.problems
            ]
        )

    def sources(self) -> set[str]:
        """The files and `--set` options that its values come from."""
        return {mark.file for mark in self.marks.values()}

    def part(self, *path: str | int) -> Document:
        """The block at `path` as a document of its own, places kept."""
        value: Any = self.value
        for key in path:
            value = value[key]
        marks = {key[len(path) :]: mark for key, mark in self.marks.items() if key[: len(path)] == path}
        return Document(self.file, value, marks)


def dotted(path: KeyPath) -> str:
    """`("axes", "model.dim", 0)` as a reader writes it: `axes.model.dim.0`."""
    return ".".join(str(part) for part in path)


def read_yaml(path: str | Path) -> Document:
    """Parses a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, too large, not text, not YAML, or breaks one of the rules above.
    """
    return parse_yaml(read_text(path), str(path))


def read_text(path: str | Path) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: the file is missing, a folder, too large or not UTF-8.
    """
    place = Location(str(path))
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        _refuse(place, "there is no such file")
    except IsADirectoryError:
        _refuse(place, "is a folder; expected a YAML file")
    except OSError as error:
        _refuse(place, f"cannot be read: {error.strerror}")
    except ValueError:  # a NUL in the name
        _refuse(Location(repr(str(path))), "is no name of a file")
    if len(data) > MAX_BYTES:
        _refuse(place, f"is larger than {MAX_BYTES >> 20} MiB; expected a configuration")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(place, f"is not a text file (byte {error.start} is not UTF-8); expected YAML")


def parse_yaml(text: str, file: str) -> Document:
    """Parses YAML text; `file` is the name that errors show. See `read_yaml`."""
    node = _compose(text, file)
    if node is None:
        _refuse(Location(file), "is empty; expected a mapping of settings")
    if not isinstance(node, yaml.MappingNode):
        _refuse(_location(file, node.start_mark), "expected a mapping of settings at the top level")
    reader = _Reader(file)
    return Document(file, reader.read(node, ()), reader.marks)


def _compose(text: str, file: str) -> yaml.Node | None:
    try:
        _check_size(text, file)
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        _refuse(_location(file, mark) if mark else Location(file), f"is not valid YAML: {reason}")
    except yaml.reader.ReaderError as error:
        _refuse(Location(file), f"is not a text file: the character at position {error.position} is not allowed")
    except (ValueError, OverflowError) as error:  # an escape or a version number that stands for no character or number
        _refuse(Location(file), f"is not valid YAML: {error}")


def _check_size(text: str, file: str) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.BaseLoader)):
        if count > MAX_EVENTS:
            _refuse(_location(file, event.start_mark), f"holds more than {MAX_VALUES} values")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                _refuse(_location(file, event.start_mark), f"is nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Turns composed nodes into plain data and remembers where each value stands."""

    def __init__(self, file: str) -> None:
        self.file, self.values = file, 0
        self.marks: dict[KeyPath, Location] = {}
        self.open_nodes: set[int] = set()

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        location = _location(self.file, node.start_mark)
        self.marks.setdefault(path, location)
        self.values += 1
        if self.values > MAX_VALUES:
            _refuse(location, f"expands to more than {MAX_VALUES} values; are its aliases nested?", path)
        if id(node) in self.open_nodes:
            _refuse(location, "an alias refers to the block it stands in", path)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, location, path)
        self.open_nodes.add(id(node))
        value = dict(self._entries(node, path)) if isinstance(node, yaml.MappingNode) else self._items(node, path)
        self.open_nodes.discard(id(node))
        return value

    def _entries(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        self._refuse_tag(node, "tag:yaml.org,2002:map", path)
        seen: dict[str, Location] = {}
        for key_node, value_node in node.value:
            place = _location(self.file, key_node.start_mark)
            key = self._key(key_node, place, path)
            if key in seen:
                message = f"the key '{key}' stands here twice; its first place is line {seen[key].line}"
                _refuse(place, message, (*path, key))
            seen[key] = place
            self.marks[(*path, key)] = place
            yield key, self.read(value_node, (*path, key))

    def _key(self, node: yaml.Node, place: Location, path: KeyPath) -> str:
        if not isinstance(node, yaml.ScalarNode):
            _refuse(place, "a key must be a word, not a list or a mapping", path)
        self._refuse_tag(node, "tag:yaml.org,2002:str", path)
        self._refuse_surrogates(node.value, place, path)
        if node.value == "<<" and node.style is None:
            _refuse(place, "merge keys (<<) are not part of YAML 1.2; write the settings out", path)
        return node.value

    def _items(self, node: yaml.Node, path: KeyPath) -> list[Any]:
        self._refuse_tag(node, "tag:yaml.org,2002:seq", path)
        return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]

    def _scalar(self, node: yaml.ScalarNode, location: Location, path: KeyPath) -> Any:
        self._refuse_tag(node, "tag:yaml.org,2002:str", path)
        text = node.value
        self._refuse_surrogates(text, location, path)
        if node.style is not None:  # quoted or a block: always text
            return text
        if len(text) > MAX_DIGITS and (_INT.fullmatch(text) or _BASED_INT.fullmatch(text)):
            _refuse(location, f"a number of more than {MAX_DIGITS} digits", path)
        return plain_scalar(text)

    def _refuse_tag(self, node: yaml.Node, expected: str, path: KeyPath) -> None:
        if node.tag not in (expected, "!"):
            place = _location(self.file, node.start_mark)
            _refuse(place, f"the tag {node.tag} is not allowed; settings are plain data", path)

    def _refuse_surrogates(self, text: str, place: Location, path: KeyPath) -> None:
        """Half a UTF-16 pair, written as an escape, is no character: nothing could print or hash it."""
        if any("\ud800" <= character <= "\udfff" for character in text):
            _refuse(place, "holds an escape that is no character", path)


def plain_scalar(text: str) -> Any:
    """The meaning of an unquoted scalar in YAML 1.2's core schema."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text)
    if _BASED_INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    return float("nan") if _NAN.fullmatch(text) else text


def _location(file: str, mark: Any) -> Location:
    """A mark of PyYAML's, counting from 1."""
    return Location(file, mark.line + 1, mark.column + 1)


def _refuse(location: Location, message: str, path: KeyPath = ()) -> NoReturn:
    raise ConfigError(Problem(message, dotted(path), location))
