"""A sweep on the screen: a table that follows the trials on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import threading
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from titanlab.sweeps.execution.progress import (
    COMPLETE,
    GIVEN_UP,
    RUNNING,
    STOPPED,
    WAITING,
    Progress,
    Row,
    failures,
)
from titanlab.sweeps.execution.trial_record import TrialRecord
from titanlab.sweeps.readable import duration

STYLES = {WAITING: "dim", RUNNING: "cyan", COMPLETE: "green", STOPPED: "yellow", GIVEN_UP: "dim"}
TALLEST = 24  # rows; a longer sweep shows what runs, what failed and what ended last
MOST_FAILURES = 3  # that say why while the sweep runs; its end lists all
REFRESH = 1.0  # seconds


class SweepDisplay:
    """Shows a sweep while it runs; it is the executors' watcher.

    Args:
        progress: what is shown.
        console: where; it must hold its own stream, since an executor redirects the standard ones.
    """

    def __init__(self, progress: Progress, console: Console) -> None:
        self.progress, self.console = progress, console
        self._live: Live | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self.console,
                refresh_per_second=1 / REFRESH,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, key: str) -> None:
        """See `Watcher`."""
        row = self.progress.start(key)
        again = "goes on" if row.step and row.metric else f"started again (attempt {row.attempt})"
        self._say(row, "started" if row.attempt == 1 else again)

    def died(self, key: str) -> None:
        """See `Watcher`."""
        row = self.progress.rows[key]
        row.status = WAITING
        row.look(self.progress.metric)
        self._say(row, f"lost its process at step {row.step}; it will go on from its checkpoint")

    def ended(self, key: str, record: TrialRecord) -> None:
        """See `Watcher`."""
        row = self.progress.rows[key]
        with self._lock:
            row.take(record, self.progress.metric)
        metric = row.metric or self.progress.metric
        value = "" if row.objective is None else f", {metric} {row.objective:.4g}"
        how = "paused" if record.status == STOPPED and row.metric else record.status
        failed = record.failed and not row.is_over  # that a point of the tuning diverged is a finding
        self._say(row, f"failed: {row.reason}" if failed else f"{how} at step {row.step}{value}")

    def remark(self, text: str) -> None:
        """See `Watcher`."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _say(self, row: Row, what: str) -> None:
        if self._live is not None:
            return
        done = len(self.progress.rows) - len(self.progress.with_status(WAITING, RUNNING))
        left = self.progress.seconds_left()
        rest = f", {duration(left)} left" if left else ""
        self.console.print(
            f"[{done}/{len(self.progress.rows)}{rest}] {row.variant} seed={row.seed}: {what}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _render(self) -> Group:
        with self._lock:
            self.progress.look_at_running()
        rows = list(self.progress.rows.values())
        below = self._below(rows)
        room = self.console.height - len(below) - 1  # a live table taller than its terminal loses its lower end
        return Group(self._fitting(rows, room), *below)

    def _below(self, rows: list[Row]) -> list[Table | Text]:
        """What stands under the table, a line each: the last failures, the bar, the counts."""
        why = [Text(f"failed: {line}", "red", no_wrap=True, overflow="ellipsis") for line in failures(rows)]
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=1.0, completed=self.progress.fraction(), width=60))
        left = duration(self.progress.seconds_left())
        counts = Text(f"{self.progress.counts()}; time left: {left}", no_wrap=True, overflow="ellipsis")
        return [*why[-MOST_FAILURES:], bar, counts]

    def _fitting(self, rows: list[Row], room: int) -> Table:
        """The table of as many trials as fit in `room` lines; a long name takes several."""
        shown = rows if len(rows) <= TALLEST else _selection(rows, TALLEST)
        while True:
            table = trial_table(shown, self.progress.metric)
            lines = len(self.console.render_lines(table, pad=False))
            if lines <= room or len(shown) <= 1:
                return table
            too_many = math.ceil(len(shown) * (lines - room) / lines)
            shown = _selection(shown, max(1, len(shown) - too_many))


def trial_table(rows: list[Row], metric: str) -> Table:
    """The trials, one a line; why one failed is told apart (`failures`), where there is room for it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", overflow="fold")
    table.add_column("seed", justify="right")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("loss", justify="right", no_wrap=True)
    shown = dict.fromkeys(row.metric or metric for row in rows)  # while tuning, that of its points comes first
    table.add_column("\n".join(shown) or metric, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(row.variant),
            str(row.seed),
            row.position,
            "" if row.loss is None else f"{row.loss:.4g}",
            "" if row.objective is None else f"{row.objective:.4g}",
            Text(row.status.replace("_", " "), style=STYLES.get(row.status, "red")),
        )
    return table


def _selection(rows: list[Row], count: int) -> list[Row]:
    """What a person wants to see of many: what runs, the last failures, the last complete trials, what comes next."""
    running = [row for row in rows if row.status == RUNNING]
    failed = [row for row in rows if row.reason][-5:]
    others = [row for row in rows if row not in running and row not in failed]
    complete = [row for row in reversed(others) if row.status == COMPLETE]
    waiting = [row for row in others if row.status != COMPLETE]
    keep = {row.key for row in [*running, *failed, *complete, *waiting][:count]}
    return [row for row in rows if row.key in keep]
