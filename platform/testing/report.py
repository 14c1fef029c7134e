"""What came of the checks of one module: a line each, and for a failure what was expected, what came and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from titanlab.platform.testing.subject import Subject

Status = Literal["passed", "failed", "not run"]


class Unmet(Exception):
    """Raised by a check whose promise is not kept; its text says what came instead."""


@dataclass(frozen=True)
class Check:
    """One promise of the interface and the function that tries to break it."""

    name: str
    expected: str
    """The promise, in words."""
    cause: str
    """What most often breaks it, and what to do."""
    run: Callable[[Subject], str]
    """Returns a remark for the table (a number measured, or nothing); raises `Unmet` or whatever the module raises."""
    memories_only: bool = False
    """Whether it asks for what only a memory has: `read`, `state_size`."""


def check(
    name: str, *, expected: str, cause: str, memories_only: bool = False
) -> Callable[[Callable[[Subject], str]], Check]:
    """Makes a function a `Check`."""
    return lambda function: Check(name, expected, cause, function, memories_only)


@dataclass(frozen=True)
class Outcome:
    """What came of one check."""

    check: str
    status: Status
    seconds: float = 0.0
    remark: str = ""
    """A number worth seeing, or why the check was not run."""
    expected: str = ""
    came: str = ""
    cause: str = ""

    def __str__(self) -> str:
        if self.status != "failed":
            return f"{self.check}: {self.status}{f' ({self.remark})' if self.remark else ''}"
        return f"{self.check}: failed\n  expected: {self.expected}\n  came: {self.came}\n  usual cause: {self.cause}"


@dataclass(frozen=True)
class Report:
    """The outcomes of one module's checks, in the order they ran."""

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The checks that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    @property
    def passed(self) -> bool:
        """Whether every check ran and passed."""
        return all(outcome.status == "passed" for outcome in self.outcomes)

    @property
    def seconds(self) -> float:
        """What all checks took."""
        return sum(outcome.seconds for outcome in self.outcomes)

    def raise_failures(self) -> None:
        """Raises unless every check ran and passed.

        Raises:
            AssertionError: listing what failed or was not run.
        """
        if not self.passed:
            short = [str(outcome) for outcome in self.outcomes if outcome.status != "passed"]
            raise AssertionError(f"{self.name} breaks promises of its interface\n" + "\n".join(short))
