"""`titanlab check`: whether a memory or an architecture keeps the promises of its interface."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titanlab.commands.options import load_plugins

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from titanlab.platform.config import Config
    from titanlab.platform.plugins import Plugin
    from titanlab.platform.testing.report import Outcome, Report

    Kinds = dict[tuple[str, str], type[Config]]

FAILED = 1


def check(
    target: Annotated[
        str,
        typer.Argument(help="A memory, inner model or architecture by name; or FILE.py or package.module: all of it."),
    ],
    plugins: Annotated[
        list[str] | None, typer.Option("--plugin", help="FILE.py or package.module; may be given again.")
    ] = None,
) -> None:
    """Check that a memory or an architecture keeps its interface's promises; exit code 1 if it does not."""
    import sys

    from titanlab.commands.screen import Screen

    load_plugins(plugins)
    wide = None if sys.stdout.isatty() else 160  # a file or a pipe has no width of its own
    console = Screen(soft_wrap=True, markup=False, highlight=False, width=wide)
    reports = []
    for (registry, _), kind in _chosen(target).items():
        reports.append(_report(registry, kind))
        _show(reports[-1], registry, console)
    if not all(report.passed for report in reports):
        raise typer.Exit(FAILED)


def _report(registry: str, kind: Any) -> Report:
    """The checks of one kind; of an inner model, as the memory that it makes."""
    from dataclasses import replace

    from titanlab.memory_modules.module import ModuleMemoryConfig
    from titanlab.platform.testing import check_architecture, check_memory_module

    if registry == "inner_models":
        return replace(check_memory_module(ModuleMemoryConfig(inner=kind(), chunk_size=4)), name=kind.type_name)
    return (check_memory_module if registry == "memory_modules" else check_architecture)(kind)


def _chosen(target: str) -> Kinds:
    """What to check: the registered kinds that a target names, by registry and name."""
    from titanlab.platform.errors import ConfigError, Problem, unknown_name
    from titanlab.platform.plugins import load_plugin

    if re.search(r"[./]", target):  # no registered name has either
        before = _registered()
        plugin = load_plugin(target)
        chosen = {key: kind for key, kind in _registered().items() if key not in before or _is_from(kind, plugin)}
        if not chosen:
            message = f"{target} registers no memory, inner model or architecture: there is nothing to check"
            raise ConfigError(Problem(message))
        return chosen
    chosen = {(registry.kind, target): registry[target] for registry in _registries() if target in registry}
    if not chosen:
        message = unknown_name("memory or architecture", target, {name for known in _registries() for name in known})
        raise ConfigError(Problem(f"{message}. A plug-in is named as FILE.py or package.module"))
    return chosen


def _registered() -> Kinds:
    return {(registry.kind, name): registry[name] for registry in _registries() for name in registry}


def _registries() -> tuple[Any, ...]:
    from titanlab.memory_modules.inner_model import INNER_MODELS
    from titanlab.platform.architecture import ARCHITECTURES
    from titanlab.platform.memory import MEMORY_MODULES

    return MEMORY_MODULES, INNER_MODELS, ARCHITECTURES


def _is_from(kind: type[Config], plugin: Plugin) -> bool:
    """Whether a plug-in that was loaded before has registered a kind."""
    import sys

    if plugin.module:
        return f"{kind.__module__}.".startswith(f"{plugin.module}.")
    return getattr(sys.modules.get(kind.__module__), "__file__", None) == plugin.file


def _show(report: Report, registry: str, console: Console) -> None:
    console.print(_table(report, f"{report.name} ({registry})"))
    for failure in report.failures:
        console.print(f"\n{failure.check}: failed")
        for heading, text in (("expected", failure.expected), ("came", failure.came), ("usual cause", failure.cause)):
            console.print(f"  {heading + ':':12} {text}")
    passed = sum(outcome.status == "passed" for outcome in report.outcomes)
    rest = len(report.outcomes) - passed - len(report.failures)
    counts = f"{passed} passed, {len(report.failures)} failed" + (f", {rest} not run" if rest else "")
    console.print(f"\n{report.name}: {counts} in {report.seconds:.1f} s")


def _table(report: Report, title: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("check", "result", "remark"):
        table.add_column(heading, overflow="fold")
    table.add_column("seconds", justify="right")
    for outcome in report.outcomes:
        table.add_row(*_cells(outcome))
    return table


def _cells(outcome: Outcome) -> tuple[str, str, str, str]:
    result = outcome.status.upper() if outcome.status == "failed" else outcome.status
    return outcome.check, result, outcome.remark, f"{outcome.seconds:.2f}"
