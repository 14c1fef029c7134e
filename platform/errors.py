"""Errors for people: what is wrong, where, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class TitanlabError(Exception):
    """Something a user can mend; the command line prints its message without a traceback and exits with 2."""


class PluginError(TitanlabError):
    """A plug-in that cannot be used: it clashes, misses a method or fails to import."""


class DataError(TitanlabError):
    """Data that a task needs is not there or cannot be read."""


class NonFiniteLossError(TitanlabError):
    """The training loss became NaN or infinite; a trial that ends so is tagged `diverged`."""


class CheckpointError(TitanlabError):
    """A checkpoint that is missing, incomplete or of another configuration."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not what was written; an older one, or the first step, stands in for it."""


class DiskFullError(TitanlabError):
    """Nothing more can be written: the disk, a quota or a limit on the size of files is used up."""


@dataclass(frozen=True)
class Location:
    """Where in a file a setting stands; lines and columns count from 1."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration."""

    message: str
    path: str = ""  # dotted, as in `base.model.memory.depth`
    location: Location | None = None

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.location, self.path, self.message) if part)


class ConfigError(TitanlabError, ValueError):
    """A configuration that cannot be used; `problems` says each reason with its place."""

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name a misspelt one most likely meant, or None."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(what: str, name: object, known: Iterable[str], guess: str | None = None) -> str:
    """`unknown WHAT 'NAME'; did you mean 'GUESS'? Known: ...` - the one wording for every misspelt name.

    Without a guess, the nearest known name is one.
    """
    names = sorted(known)
    guess = guess or nearest(name, names)
    hint = f"; did you mean '{guess}'?" if guess else "."
    return f"unknown {what} '{name}'{hint} Known: {', '.join(names) if names else '(none)'}"
