"""The options that several verbs take, in one wording, and the plan they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from titanlab.platform.plugins import Plugin
    from titanlab.sweeps.planning.plan import Plan

SweepFile: TypeAlias = Annotated[str, typer.Argument(help="The sweep, a YAML file.", show_default=False)]
Overrides: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: a.b=c; may be given again.", metavar="A.B=C")
]
Plugins: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", metavar="FILE|MODULE", help="FILE.py or package.module with memories, architectures or tasks."
    ),
]
Only: TypeAlias = Annotated[
    str | None,
    typer.Option("--only", help="Only trials that fulfil it: 'model.memory.depth == 2'.", metavar="CONDITION"),
]
StoreFolder: TypeAlias = Annotated[Path, typer.Option(help="The folder of results.")]
TrackingUri: TypeAlias = Annotated[
    str | None, typer.Option(help="An MLflow server instead of the store's own database.")
]
RayAddress: TypeAlias = Annotated[str | None, typer.Option(help="A Ray cluster instead of this machine.")]


class ExecutorName(StrEnum):
    """Where trials run."""

    RAY = "ray"
    LOCAL = "local"


Runner: TypeAlias = Annotated[ExecutorName, typer.Option(help="Ray, or one trial after another here.")]


def load_plugins(plugins: Sequence[str] | None) -> list[Plugin]:
    """Registers what they define.

    Raises:
        PluginError: one cannot be used.
    """
    from titanlab.platform.plugins import load_plugin

    return [load_plugin(target) for target in plugins or ()]


def load_plan(
    file: str, overrides: Sequence[str] | None, plugins: Sequence[str] | None, only: str | None = None
) -> Plan:
    """The plan of a sweep file, or of a part of it, its plug-ins loaded first."""
    from titanlab.sweeps.language.sweep_file import load_sweep
    from titanlab.sweeps.planning.part import plan_part

    load_plugins(plugins)
    return plan_part(load_sweep(file, overrides or ()), only)
