"""The base of every configuration: frozen, strict, no unknown keys, errors that name the key and the nearest valid one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer
from pydantic import Field as _Field
from pydantic import model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from titanlab.platform.errors import Location, Problem, nearest, unknown_name

SCHEMA_VERSION = 1
"""Raised when a setting changes its meaning, so that trials of the old meaning are not taken for trials of the new."""

T = TypeVar("T")


class Config(BaseModel):
    """A block of settings. Subclass it with typed fields; every field needs a meaning (`Field(description=...)`).

    `type` is the name under which a registered configuration class is known; it is written with the settings
    and is no field of its own.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
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
            raise validation_error(
                cls.__name__, [((str(key),), unknown_name("key", key, cls.model_fields), settings[key]) for key in unknown]
            )
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
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if not decides_result(field) or value == field.get_default(call_default_factory=True):
                continue
            chosen[name] = value.identity() if isinstance(value, Config) else value
        return chosen

    def replace(self, **settings: Any) -> Self:
        """This configuration with some settings changed, validated anew."""
        return type(self).model_validate({**{name: getattr(self, name) for name in type(self).model_fields}, **settings})


def no_result(default: Any, **keywords: Any) -> Any:
    """A field that does not change a run's result (device, logging) and so is no part of its identity."""
    return _Field(default, json_schema_extra={"decides_result": False}, **keywords)


def decides_result(field: Any) -> bool:
    """Whether a pydantic field is part of a configuration's identity."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("decides_result") is False)


def digest(data: Any) -> str:
    """sha256 of the canonical JSON of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def validation_error(title: str, errors: Sequence[tuple[tuple[str | int, ...], str, Any]]) -> ValidationError:
    """A pydantic error from (path, message, input) triples; raised inside a validator, its paths join the outer path."""
    # PydanticCustomError formats its template, so the braces of a message are escaped by passing it as context.
    return ValidationError.from_exception_data(
        title,
        [
            InitErrorDetails(type=PydanticCustomError("setting", "{message}", {"message": message}), loc=path, input=value)
            for path, message, value in errors
        ],
    )


def problems_of(
    error: ValidationError, locate: Callable[[tuple[str | int, ...]], tuple[str, Location | None]]
) -> list[Problem]:
    """One `Problem` for each error of a failed validation; `locate` gives a path's dotted name and place in the file."""
    problems = []
    for detail in error.errors():
        path, location = locate(tuple(detail["loc"]))
        problems.append(Problem(_sentence(detail), path, location))
    return problems


def _sentence(detail: Mapping[str, Any]) -> str:
    """What is wrong with a value and what was expected, from pydantic's description of it."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "setting":
        return context["message"]
    if kind == "missing":
        return "this key is required"
    shown = shown_value(value)
    if kind == "literal_error":
        expected = context["expected"]
        guess = nearest(value, expected.replace("'", "").replace(" or ", ", ").split(", "))
        return f"expected {expected}, got {shown}" + (f"; did you mean '{guess}'?" if guess else "")
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{message}, got {shown}" if "got " not in message else message


def shown_value(value: Any) -> str:
    """A value as an error shows it: with its type where YAML's reading may surprise, and never long."""
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    return f"the text {text}" if isinstance(value, str) else text
