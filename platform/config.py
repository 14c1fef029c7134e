"""The base of every configuration: frozen, strict, no unknown keys, errors that name the nearest valid key."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, LiteralString, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic import Field as _Field
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from titanlab.platform.errors import Location, Problem, nearest, unknown_name

SCHEMA_VERSION = 1
"""Raised when a setting changes its meaning, so that trials of the old meaning are not taken for trials of the new."""

UNKNOWN_KEY: LiteralString = "unknown_key"
"""The kind of error that a key nobody knows makes, among pydantic's own kinds."""


class Config(BaseModel):
    """A block of settings. Subclass it with typed fields; every field needs a meaning (`Field(description=...)`).

    `type` is the name under which a registered configuration class is known; it is written with the settings
    and is no field of its own.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    type_name: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        settings = dict(value)
        if cls.type_name and settings.get("type") == cls.type_name:
            del settings["type"]
        unknown = [key for key in settings if key not in cls.model_fields]
        if unknown:
            known = cls.model_fields
            errors = [((str(key),), unknown_name("key", key, known), settings[key]) for key in unknown]
            raise validation_error(cls.__name__, errors, kind=UNKNOWN_KEY)
        return settings

    @model_serializer(mode="wrap")
    def _write_type_first(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        settings = handler(self)
        return {"type": self.type_name, **settings} if self.type_name else settings

    def settings(self) -> dict[str, Any]:
        """All settings as plain data, defaults included; what `config.yaml` of a run holds."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """The settings that decide the result and differ from their defaults, so a new setting orphans no old trial."""
        chosen: dict[str, Any] = {"type": self.type_name} if self.type_name else {}
        for name, default in _default_identities(type(self)).items():
            value = _identity(getattr(self, name))
            if value != default:
                chosen[name] = value
        return chosen

    def replace(self, **settings: Any) -> Self:
        """This configuration with some settings changed, validated anew."""
        return type(self).model_validate(
            {**{name: getattr(self, name) for name in type(self).model_fields}, **settings}
        )


def _identity_of(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_identity_of(item) for item in value]
    return value.identity() if isinstance(value, Config) else value


def no_result(default: Any, **keywords: Any) -> Any:
    """A field that does not change a run's result (device, logging) and so is no part of its identity."""
    return _Field(default, json_schema_extra={"decides_result": False}, **keywords)


_PLAIN = frozenset((bool, int, float, str, type(None)))


def _identity(value: Any) -> Any:
    """A setting as it counts in an identity: of a block only what decides the result."""
    if type(value) in _PLAIN:  # most settings; sweeps of thousands of cells come through here
        return value
    if isinstance(value, Config):
        return value.identity()
    return [_identity(entry) for entry in value] if isinstance(value, list | tuple) else value


@cache
def _default_identities(config: type[Config]) -> dict[str, Any]:
    """The default of every setting that decides the result; a required one has a default that equals nothing."""
    return {
        name: _identity(field.get_default(call_default_factory=True, validated_data={}))
        for name, field in config.model_fields.items()
        if decides_result(field)
    }


def decides_result(field: FieldInfo) -> bool:
    """Whether a pydantic field is part of a configuration's identity."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("decides_result") is False)


def digest(data: Any) -> str:
    """sha256 of the canonical JSON of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def validation_error(
    title: str, errors: Sequence[tuple[tuple[str | int, ...], str, Any]], kind: LiteralString = "setting"
) -> ValidationError:
    """A pydantic error from (path, message, input) triples; inside a validator, its paths join the outer path."""
    # PydanticCustomError formats its template, so the braces of a message are escaped by passing it as context.
    return ValidationError.from_exception_data(
        title,
        [
            InitErrorDetails(type=PydanticCustomError(kind, "{message}", {"message": message}), loc=path, input=value)
            for path, message, value in errors
        ],
    )


def problems_of(
    error: ValidationError, locate: Callable[[tuple[str | int, ...]], tuple[str, Location | None]]
) -> list[Problem]:
    """One `Problem` for each error of a failed validation; `locate` gives a path's dotted name and place."""
    problems = []
    for detail in error.errors():
        path, location = locate(tuple(detail["loc"]))
        problems.append(Problem(_sentence(detail), path, location))
    return problems


def _sentence(detail: Mapping[str, Any]) -> str:
    """What is wrong with a value and what was expected, from pydantic's description of it."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind in ("setting", UNKNOWN_KEY):
        return context["message"]
    if kind == "missing":
        return "this key is required"
    if kind == "literal_error":
        return f"expected {context['expected']}, got {shown_value(value)}{_meant(value, context['expected'])}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind].format_map(context)}, got {shown_value(value)}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return message if "got " in message else f"{message}, got {shown_value(value)}"


_EXPECTED = {
    "model_type": "a mapping of settings",
    "model_attributes_type": "a mapping of settings",
    "dict_type": "a mapping",
    "list_type": "a list",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
}


def _meant(value: Any, expected: str) -> str:
    """`; did you mean 'none'?` for a value that is none of the words a setting takes."""
    words = re.findall(r"'([^']*)'", expected)
    guess = nearest(value, words) if isinstance(value, str) else None
    if "none" in words and (value is None or str(value).lower() in ("off", "no", "false", "disabled", "null")):
        guess = "none"
    return f"; did you mean '{guess}'?" if guess else ""


def shown_value(value: Any) -> str:
    """A value as an error shows it: with its type where YAML's reading may surprise, and never long."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"the text {text}" if isinstance(value, str) else text
