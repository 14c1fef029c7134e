"""`titanlab list`: what is registered, and the settings of one entry."""

from __future__ import annotations

import json
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from titanlab.commands.options import load_plugins

_TYPES = {"str": "text", "Path": "path"}

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from titanlab.platform.config import Config
    from titanlab.platform.registry import Registry

    AnyRegistry = Registry[Any]


def list_registered(
    kind: Annotated[str | None, typer.Argument(help="memory_modules, inner_models, architectures or tasks.")] = None,
    name: Annotated[str | None, typer.Argument(help="An entry, to see its settings.")] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(metavar="FILE|MODULE", help="Your own; may be given again.")
    ] = None,
) -> None:
    """Show everything that a configuration can name, or the settings of one entry."""
    from titanlab.platform.errors import ConfigError, Problem, unknown_name

    load_plugins(plugin)
    registries = _registries()
    if kind is not None and kind not in registries:
        raise ConfigError(Problem(unknown_name("kind", kind, registries)))
    if kind is None or name is None:
        for shown in registries if kind is None else [kind]:
            _show_registry(registries[shown])
        return
    if name not in registries[kind]:
        raise ConfigError(Problem(unknown_name(f"name in {kind}", name, registries[kind])))
    _show_settings(registries[kind][name])


def _registries() -> dict[str, AnyRegistry]:
    from titanlab.memory_modules.inner_model import INNER_MODELS
    from titanlab.platform.architecture import ARCHITECTURES
    from titanlab.platform.memory import MEMORY_MODULES
    from titanlab.platform.task import TASKS

    return {registry.kind: registry for registry in (MEMORY_MODULES, INNER_MODELS, ARCHITECTURES, TASKS)}


def _show_registry(registry: AnyRegistry) -> None:
    from titanlab.platform.errors import PluginError

    width = max(map(len, registry), default=0)  # first: it looks the names up, which may be refused
    typer.echo(registry.kind)
    for name in registry:
        try:
            summary = _summary(registry[name])
        except PluginError as error:  # one broken installation does not hide the rest
            summary = f"cannot be used: {error}"
        typer.echo(f"  {name:{width}}  {summary}")


def _summary(cls: type[Config]) -> str:
    return (cls.__doc__ or f"({cls.__name__} has no docstring)").strip().partition("\n")[0]


def _show_settings(cls: type[Config]) -> None:
    typer.echo(f"{cls.type_name}: {_summary(cls)}")
    if not cls.model_fields:
        typer.echo("  no settings")
    _show_fields(cls, "  ")


def _show_fields(cls: type[Config], indent: str) -> None:
    for name, field in cls.model_fields.items():
        bounds = "".join(f", {_bound(item)}" for item in field.metadata if _bound(item))
        typer.echo(f"{indent}{name}: {_type(field.annotation)}{bounds}, {_default(field)}")
        if field.description:
            typer.echo(f"{indent}    {' '.join(field.description.split())}")
        for block in _blocks(field.annotation):
            _show_fields(block, f"{indent}    ")


def _default(field: FieldInfo) -> str:
    """As YAML writes it."""
    from titanlab.platform.config import Config

    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    value = value.settings() if isinstance(value, Config) else value
    return f"default {value if value and isinstance(value, str) else json.dumps(value, default=str)}"


def _blocks(annotation: Any) -> list[type[Config]]:
    """The blocks of settings that a setting is made of, as in a list of mappings."""
    from titanlab.platform.config import Config

    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation] if issubclass(annotation, Config) else []
    return [block for part in get_args(annotation) for block in _blocks(part)]


def _type(annotation: Any) -> str:
    from titanlab.platform.config import Config

    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " | ".join(map(_type, parts))
    if origin in (list, tuple) and parts:
        inner = _type(parts[0])
        return f"list of {'mappings' if inner == 'mapping' else inner}"
    if origin is Annotated:
        return _type(parts[0])
    if annotation is NoneType:
        return "null"
    if not isinstance(annotation, type) or parts:
        return str(annotation)
    return "mapping" if issubclass(annotation, Config) else _TYPES.get(annotation.__name__, annotation.__name__)


def _bound(item: Any) -> str:
    words = {"Gt": ">", "Ge": ">=", "Lt": "<", "Le": "<=", "MultipleOf": "a multiple of"}
    kind = type(item).__name__
    return (
        f"{words[kind]} {getattr(item, {'MultipleOf': 'multiple_of'}.get(kind, kind.lower()))}" if kind in words else ""
    )
