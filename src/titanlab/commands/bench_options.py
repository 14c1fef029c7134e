"""What the benchmarks' verbs share: how they list names, say what they measure, and show and write what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from titanlab.benchmarks.result import Result

JsonFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--json", help="Also write all of it to this file, row by row.", metavar="FILE", show_default=False),
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


@contextmanager
def kept(
    path: Path | None, drawn: Callable[[Result], None] = lambda result: None
) -> Iterator[Callable[[Result], None]]:
    """Yields what takes all that was measured so far, after each row; the file has it at once, marked as unfinished.

    So a run that is cut, by whatever, loses the row under way alone. If the keyboard interrupts, the table is shown.

    Args:
        path: the JSON file, if there is to be one.
        drawn: is given the same.
    """
    from titanlab.commands.screen import say
    from titanlab.platform.errors import TitanlabError

    latest: Result | None = None

    def keep(result: Result) -> None:
        nonlocal latest
        latest = result
        try:
            if path is not None:
                result.write_json(path)
            drawn(result)
        except TitanlabError as error:  # a disk that is full now may have room at the end
            say(f"not written for now: {error}", err=True)

    try:
        yield keep
    except KeyboardInterrupt:
        if latest is not None:
            _show(latest)
            if path is not None:
                say(f"unfinished, in {path}", err=True)
        raise


def present(result: Result, path: Path | None) -> None:
    """Prints the table; writes the file."""
    from titanlab.commands.screen import say

    _show(result)
    if path is not None:
        result.write_json(path)
        say(f"written to {path}", err=True)


def _show(result: Result) -> None:
    import sys

    from titanlab.commands.screen import Screen

    wide = None if sys.stdout.isatty() else 180  # a file or a pipe has no width of its own
    result.show(Screen(width=wide, highlight=False, markup=False))
