"""The JSON schema of a sweep file (draft 2020-12): what an editor completes and checks while one is written.

It says what a file may hold, with every registered kind under its `type`. A block that leaves its `type` out is not
checked, since it may merge into one of a file that is extended. What decides in the end is titanlab's own reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.config import Config
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.registry import Registry
from titanlab.platform.run_config import RunConfig
from titanlab.platform.task import TASKS
from titanlab.sweeps.language.field_checks import ABLATION_MODES, MAX_SEEDS
from titanlab.sweeps.language.sweep_file import SweepConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_KIND = "x-kind"
"""Marks, until it is replaced, where a registered kind stands."""

_EXTENDS = {
    "description": "A file, or a list of files, whose settings these are written over; relative to this file.",
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}},
    ],
}


def schema_text() -> str:
    """`sweep_schema` as a file."""
    return json.dumps(sweep_schema(), indent=1, ensure_ascii=False) + "\n"


def sweep_schema() -> dict[str, Any]:
    """The schema of a sweep file, with the kinds that are registered now."""
    kinds = _Kinds()
    sweep = kinds.schema(SweepConfig)
    run = kinds.schema(RunConfig)
    run["properties"] = {"extends": _EXTENDS, **run["properties"]}
    del run["properties"]["name"]  # the sweep's own name names its runs
    kinds.definitions["run"] = run
    keys = {key: {"description": text} for key, text in kinds.descriptions(RunConfig).items()}
    kinds.definitions["keys"] = {"type": "object", "properties": keys}
    properties = sweep["properties"]
    for name, schema in _FIELDS.items():
        properties[name] = {"description": properties[name]["description"], **schema}
    return {
        "$schema": DIALECT,
        "title": "titanlab sweep",
        "description": sweep["description"],
        "type": "object",
        "properties": {"extends": _EXTENDS, **properties},
        "additionalProperties": False,
        "anyOf": [{"required": ["extends"]}, {"required": sweep["required"]}],
        "$defs": dict(sorted(kinds.definitions.items())),
    }


_SETTINGS = {"$ref": "#/$defs/keys"}
_LISTS = {"allOf": [_SETTINGS], "patternProperties": {r"\.": {"type": "array", "minItems": 1}}}
_ONLY_KEYS = {"propertyNames": {"pattern": r"\."}}
_SEED = {"type": "integer", "minimum": 0}

_FIELDS: dict[str, dict[str, Any]] = {
    "base": {"$ref": "#/$defs/run"},
    "axes": {**_LISTS, **_ONLY_KEYS},
    "paired": {"type": "array", "items": {**_LISTS, **_ONLY_KEYS, "minProperties": 1}},
    "ablate": {**_LISTS, "properties": {"mode": {"enum": list(ABLATION_MODES)}}, "minProperties": 1},
    "cells": {"type": "array", "items": _SETTINGS},
    "baseline": _SETTINGS,
    "seeds": {
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": MAX_SEEDS},
            {"type": "array", "items": _SEED, "minItems": 1, "maxItems": MAX_SEEDS, "uniqueItems": True},
        ]
    },
}
"""Fields of a sweep whose meaning is wider than their type in Python."""


_BASES: dict[type, Registry[Any]] = {registry.base: registry for registry in (MEMORY_MODULES, ARCHITECTURES, TASKS)}


class _Kinds:
    """Collects the schema of every registry that the settings lead to."""

    def __init__(self) -> None:
        self.definitions: dict[str, Any] = {}
        self._registries: dict[str, Registry[Any]] = {}

    def schema(self, config: type[Config]) -> dict[str, Any]:
        """The schema of a configuration class, its nested blocks among the definitions."""
        found: list[Registry[Any]] = []
        schema = config.model_json_schema(schema_generator=_generator(found.append), ref_template="#/$defs/{model}")
        for name, definition in schema.pop("$defs", {}).items():
            self.definitions.setdefault(name, _finished(definition))
        for registry in found:
            self._add(registry)
        return _finished(schema)

    def _add(self, registry: Registry[Any]) -> None:
        if registry.kind in self._registries:
            return
        self._registries[registry.kind] = registry
        for name in registry:
            kind = self.schema(registry[name])
            kind["properties"] = {"type": {"const": name}, **kind.get("properties", {})}
            self.definitions[f"{registry.kind}.{name}"] = kind
        self.definitions[registry.kind] = {
            "type": "object",
            "properties": {"type": {"enum": list(registry), "description": f"Which of the {registry.kind}."}},
            "allOf": [
                {
                    "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                    "then": {"$ref": f"#/$defs/{registry.kind}.{name}"},
                }
                for name in registry
            ],
        }

    def descriptions(self, config: type[Config], prefix: str = "") -> dict[str, str]:
        """The meaning of every dotted key from a configuration on, of all kinds that may stand there."""
        told: dict[str, str] = {}
        for name, field in config.model_fields.items():
            key = f"{prefix}{name}"
            if key in ("name", "train.seed"):  # no sweep varies them
                continue
            told.setdefault(key, " ".join((field.description or "").split()))
            for registry in self._registries.values():
                if field.annotation is registry.base:
                    told.setdefault(f"{key}.type", f"Which of the {registry.kind}.")
                    for kind in registry:
                        told = self.descriptions(registry[kind], f"{key}.") | told
            if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
                told = self.descriptions(field.annotation, f"{key}.") | told
        return dict(sorted(told.items()))


def _generator(found: Callable[[Registry[Any]], object]) -> type[GenerateJsonSchema]:
    """Pydantic's generator, which leaves a mark where a registry resolves a block."""

    class Generator(GenerateJsonSchema):
        def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
            registry = getattr(schema["function"]["function"], "__self__", None)
            if isinstance(registry, Registry):
                found(registry)
                return {_KIND: registry.kind}
            return super().function_before_schema(schema)

        def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
            registry = _BASES.get(schema["cls"])
            if registry is not None:
                found(registry)
                return {_KIND: registry.kind}
            return super().model_schema(schema)

    return Generator


def _finished(schema: Any) -> Any:
    """The schema with marks replaced, and without the titles that repeat names."""
    if isinstance(schema, list):
        return [_finished(item) for item in schema]
    if isinstance(schema, str):
        return " ".join(schema.split())  # a description is wrapped where its source is
    if not isinstance(schema, dict):
        return schema
    kind = {"$ref": f"#/$defs/{schema[_KIND]}"} if _KIND in schema else {}
    return kind | {
        key: {name: _finished(value) for name, value in entry.items()} if key == "properties" else _finished(entry)
        for key, entry in schema.items()
        if key not in (_KIND, "title", "decides_result")
    }
