"""`titanlab list`: what is registered, and the settings of one entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from titanlab.platform.config import Config
    from titanlab.platform.registry import Registry

    AnyRegistry = Registry[Any]


def list_registered(
    kind: Annotated[str | None, typer.Argument(help="memory_modules, architectures or tasks.")] = None,
    name: Annotated[str | None, typer.Argument(help="An entry, to see its settings.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="FILE.py or package.module; may be repeated.")] = None,
) -> None:
    """Show everything that a configuration can name, or the settings of one entry."""
    from titanlab.platform.errors import ConfigError, Problem, unknown_name
    from titanlab.platform.plugins import load_plugin

    for target in plugin or []:
        load_plugin(target)
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
    from titanlab.platform.architecture import ARCHITECTURES
    from titanlab.platform.memory import MEMORY_MODULES
    from titanlab.platform.task import TASKS

    return {registry.kind: registry for registry in (MEMORY_MODULES, ARCHITECTURES, TASKS)}


def _show_registry(registry: AnyRegistry) -> None:
    from titanlab.platform.errors import PluginError

    typer.echo(registry.kind)
    width = max(map(len, registry), default=0)
    for name in registry:
        try:
            summary = _summary(registry[name])
        except PluginError as error:  # one broken installation does not hide the rest
            summary = f"cannot be used: {error}"
        typer.echo(f"  {name:{width}}  {summary}")


def _summary(cls: type[Config]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _show_settings(cls: type[Config]) -> None:
    from pydantic_core import PydanticUndefined

    typer.echo(f"{cls.type_name}: {_summary(cls)}")
    for name, field in cls.model_fields.items():
        default = "required" if field.default is PydanticUndefined else f"default {field.default}"
        bounds = "".join(f", {_bound(item)}" for item in field.metadata if _bound(item))
        typer.echo(f"  {name}: {_type(field.annotation)}{bounds}, {default}")
        typer.echo(f"      {' '.join((field.description or '').split())}")


def _type(annotation: Any) -> str:
    from types import NoneType, UnionType
    from typing import Literal, Union, get_args, get_origin

    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(_type(part) for part in get_args(annotation))
    if annotation is NoneType:
        return "null"
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _bound(item: Any) -> str:
    words = {"Gt": ">", "Ge": ">=", "Lt": "<", "Le": "<=", "MultipleOf": "a multiple of"}
    kind = type(item).__name__
    return (
        f"{words[kind]} {getattr(item, {'MultipleOf': 'multiple_of'}.get(kind, kind.lower()))}" if kind in words else ""
    )
