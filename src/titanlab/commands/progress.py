"""A training run as a person follows it: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from titanlab.commands.screen import Screen

if TYPE_CHECKING:
    from titanlab.platform.training.loop import Progress

SECONDS_BETWEEN_LINES = 10.0


def progress_display(name: str) -> AbstractContextManager[Callable[[Progress], None]]:
    """Yields what to call after each step."""
    console = Screen(soft_wrap=True, markup=False)
    return _bar(name, console) if console.is_terminal else _lines(console)


@contextmanager
def _bar(name: str, console: Screen) -> Iterator[Callable[[Progress], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(name, total=None, facts="starting")

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.step, total=progress.steps, facts=_facts(progress))

        yield show


@contextmanager
def _lines(console: Screen) -> Iterator[Callable[[Progress], None]]:
    due = 0.0

    def show(progress: Progress) -> None:
        nonlocal due
        evaluated = {key: value for key, value in progress.metrics.items() if key.startswith("val/")}
        if not evaluated and time.monotonic() < due:
            return
        due = time.monotonic() + SECONDS_BETWEEN_LINES
        metrics = "".join(f"  {key} {value:.4g}" for key, value in evaluated.items())
        console.print(f"step {progress.step}/{progress.steps}  {_facts(progress)}{metrics}", highlight=False)

    yield show


def _facts(progress: Progress) -> str:
    left = timedelta(seconds=round(progress.seconds_left))
    return f"loss {progress.loss:.4f}  {progress.tokens_per_second:,.0f} tokens/s  {left} left"
