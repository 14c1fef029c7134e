"""Settings changed on the command line: `--set model.memory.depth=2`, read by the rules of the YAML files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from titanlab.platform.errors import ConfigError, Location, Problem
from titanlab.platform.keys import key_path, layer_key
from titanlab.platform.yaml_source import Document, KeyPath, dotted, parse_yaml


def apply_overrides(
    document: Document, overrides: Sequence[str], root: KeyPath = (), dotted_blocks: Collection[str] = ()
) -> Document:
    """The document with each `a.b=value` set, in order; its place is then the option itself.

    The value is YAML (`1e-3`, `[1, 2]`, `{type: delta}`) and replaces what stood there, a whole block too. Blocks on
    the way that do not exist are created, so that the configuration says what is wrong with a name nobody knows.

    Args:
        document: a parsed file; it is left as it is.
        overrides: `KEY=VALUE` texts, KEY dotted.
        root: where in the file the keys start (`("base",)` for the base of a sweep).
        dotted_blocks: top-level blocks whose keys are themselves dotted (`axes`): what follows them is one key.

    Raises:
        ConfigError: no `=`, an empty key, a value that is no YAML, or a way through something that is no mapping.
    """
    for override in overrides:
        document = _apply(document, override, root, dotted_blocks)
    return document


def _apply(document: Document, override: str, root: KeyPath, dotted_blocks: Collection[str]) -> Document:
    path = (*root, *_key(override, dotted_blocks))
    place = Location(f"--set {override}")
    value = _value(override, path)
    marks = {key: mark for key, mark in document.marks.items() if key[: len(path)] != path}
    changed = dict(document.value)
    block: dict[str, Any] = changed
    for depth, key in enumerate(path[:-1], start=1):
        inner = block.get(str(key), {})
        if not isinstance(inner, dict):
            here = path[:depth]
            message = f"is no block of settings, so '{dotted(path[depth:])}' cannot be set in it"
            raise ConfigError(Problem(message, dotted(here), place))
        if str(key) not in block:
            marks[path[:depth]] = place
        copy = dict(inner)
        block[str(key)] = copy
        block = copy
    block[str(path[-1])] = value
    marks[path] = place
    return Document(document.file, changed, marks)


def _key(override: str, dotted_blocks: Collection[str]) -> tuple[str, ...]:
    key, separator, _ = override.partition("=")
    first, _, rest = key.strip().partition(".")
    parts = (first, rest) if first in dotted_blocks and rest else key_path(key.strip())
    if not separator or not all(parts):
        _refuse(override, "expected KEY=VALUE with a dotted KEY, as in --set train.steps=100")
    meant = layer_key(key.strip()) if parts[0] not in dotted_blocks else None
    if meant is not None:
        _refuse(override, f"settings of single layers are overrides: --set '{meant}=...'", key.strip())
    return parts


def _value(override: str, path: KeyPath) -> Any:
    text = override.partition("=")[2]
    if "\n" in text:
        _refuse(override, "the value must be on one line")
    try:
        return parse_yaml(f"value: {text}", "").value["value"]
    except ConfigError as error:
        problem = error.problems[0]
        _refuse(override, problem.message, dotted((*path, *problem.path.split(".")[1:])))


def _refuse(override: str, message: str, path: str = "") -> NoReturn:
    raise ConfigError(Problem(message, path, Location(f"--set {override}")))
