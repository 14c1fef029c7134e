"""What the benchmarks' verbs share: how they list names, say what they measure, and show and write what they found."""

from __future__ import annotations

import stat
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
    """Names with commas between them; none of an empty text."""
    return [name.strip() for name in text.split(",") if name.strip()]


def some_names_of(text: str, option: str) -> list[str]:
    """As `names_of`, one at least.

    Raises:
        ConfigError: naming the option.
    """
    from titanlab.platform.errors import ConfigError, Problem

    if not (names := names_of(text)):
        raise ConfigError(Problem(f"{option}: expected names with commas between them, got '{text}'"))
    return names


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


def check_file(path: Path | None, option: str = "--json") -> None:
    """Refuses a file that could not be written, before anything is measured.

    Raises:
        ConfigError: its folder does not exist, or what is there is no file that may be replaced.
    """
    from titanlab.platform.errors import ConfigError, Problem

    if path is None:
        return
    if path.is_dir():
        raise ConfigError(Problem(f"{option} {path}: is a folder; expected a file's name"))
    if not path.parent.is_dir():
        raise ConfigError(Problem(f"{option} {path}: there is no folder {path.parent}; create it, or name another"))
    if path.exists() and not path.is_file():
        message = f"{option} {path}: exists and is no regular file, which alone can be replaced; name another"
        raise ConfigError(Problem(message))


@contextmanager
def kept(
    path: Path | None, drawn: Callable[[Result], None] = lambda result: None
) -> Iterator[Callable[[Result], None]]:
    """Yields what takes all that was measured so far, after each row; the file has it at once, marked as unfinished.

    So a run that is cut, by whatever, loses the row under way alone. Where it ends by an error, or by the keyboard, the
    table is shown; settings with which nothing could be measured leave the file as it was. A file that cannot be
    written, or a picture that cannot be drawn, is said and ends nothing.

    Args:
        path: the JSON file, if there is to be one.
        drawn: is given the same.
    """
    from titanlab.commands.screen import say
    from titanlab.platform.errors import TitanlabError

    latest: Result | None = None
    put_back = _older(path)

    def keep(result: Result) -> None:
        nonlocal latest
        latest = result
        # a disk that is full now may have room at the end
        if path is not None and (problem := _written(result, path)):
            say(f"not written for now: {problem}", err=True)
        # what is measured does not depend on its picture, whatever the drawing raises
        try:
            drawn(result)
        except Exception as error:
            say(f"not drawn for now: {type(error).__name__}: {error}", err=True)

    try:
        yield keep
    except BaseException as error:
        if latest is None:
            raise
        if isinstance(error, TitanlabError) and not latest.rows:
            put_back()
            raise
        problem = None if path is None else _written(latest, path)
        _show(latest)
        if path is not None:
            say(f"not written: {problem}" if problem else f"unfinished, in {path}", err=True)
        raise


def _older(path: Path | None) -> Callable[[], None]:
    """What gives a file back what it holds now, or takes it away if it is not there."""
    from titanlab.commands.screen import say
    from titanlab.platform.errors import TitanlabError
    from titanlab.platform.files import write_atomically

    if path is None:
        return lambda: None
    there = path.exists()
    try:
        content, mode = (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) if there else (b"", 0)
    except OSError:  # it may be replaced, but not read
        return lambda: None

    def put_back() -> None:
        try:
            if there:
                write_atomically(path, content, mode=mode)
            else:
                path.unlink(missing_ok=True)
        except (OSError, TitanlabError) as error:  # what ends the run is another error, which must be seen
            say(f"--json {path}: what was there before is lost ({error})", err=True)

    return put_back


def present(result: Result, path: Path | None) -> None:
    """Writes the file; prints the table, also if the file cannot be written."""
    from titanlab.commands.screen import say

    try:
        if path is not None:
            result.write_json(path)
    finally:
        _show(result)
    if path is not None:
        say(f"written to {path}", err=True)


def _written(result: Result, path: Path) -> str | None:
    """Writes the file; why it could not be, if so."""
    from titanlab.platform.errors import TitanlabError

    try:
        result.write_json(path)
    except TitanlabError as error:
        return str(error)
    return None


def _show(result: Result) -> None:
    import sys

    from titanlab.commands.screen import Screen

    wide = None if sys.stdout.isatty() else 180  # a file or a pipe has no width of its own
    result.show(Screen(width=wide, highlight=False, markup=False))
