"""What the benchmarks' verbs share: how they list names, say what they measure, and show and write what they found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from titanlab.benchmarks.result import Result

JsonFile: TypeAlias = Annotated[
    Path | None, typer.Option("--json", help="Also write all of it to this file.", metavar="FILE", show_default=False)
]
Quick: TypeAlias = Annotated[bool, typer.Option("--quick", help="Time each for a moment only.")]


def names_of(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers_of(text: str, option: str) -> list[int]:
    """Whole numbers from 1 on with commas between them.

    Raises:
        ConfigError: naming the option.
    """
    from titanlab.platform.errors import ConfigError, Problem

    words = names_of(text)
    if not words or not all(word.isdecimal() and int(word) >= 1 for word in words):
        raise ConfigError(Problem(f"{option}: expected whole numbers from 1 on with commas between them, got '{text}'"))
    return [int(word) for word in words]


def teller() -> Callable[[str], None]:
    """Says what is measured next, on the error stream: the table alone is the output."""
    from titanlab.commands.screen import say

    return lambda text: say(f"measuring {text}", err=True)


def check_json(path: Path | None, option: str = "--json") -> None:
    """Refuses a file that could not be written, before anything is measured.

    Raises:
        ConfigError: its folder does not exist.
    """
    from titanlab.platform.errors import ConfigError, Problem

    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise ConfigError(Problem(f"{option} {path}: expected a file in a folder that exists"))


def present(result: Result, path: Path | None) -> None:
    """Prints the table; writes the file."""
    import sys

    from titanlab.commands.screen import Screen, say

    wide = None if sys.stdout.isatty() else 180  # a file or a pipe has no width of its own
    result.show(Screen(width=wide, highlight=False, markup=False))
    if path is not None:
        result.write_json(path)
        say(f"written to {path}", err=True)
