"""A sweep on the screen: a table that follows the trials on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from titanlab.sweeps.progress import COMPLETE, RUNNING, STOPPED, WAITING, Progress, Row, duration
from titanlab.sweeps.trial_record import TrialRecord

STYLES = {WAITING: "dim", RUNNING: "cyan", COMPLETE: "green", STOPPED: "yellow"}
TALLEST = 24  # rows; a longer sweep shows what runs, what failed and what ended last
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
        self._say(row, "started" if row.attempt == 1 else f"started again (attempt {row.attempt})")

    def died(self, key: str) -> None:
        """See `Watcher`."""
        row = self.progress.rows[key]
        row.status = WAITING
        self._say(row, f"lost its process at step {row.step}; it will go on from its checkpoint")

    def ended(self, key: str, record: TrialRecord) -> None:
        """See `Watcher`."""
        row = self.progress.rows[key]
        with self._lock:
            row.take(record, self.progress.metric)
        value = "" if row.objective is None else f", {self.progress.metric} {row.objective:.4g}"
        self._say(row, f"failed: {row.reason}" if record.failed else f"{record.status} at step {row.step}{value}")

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
        left = self.progress.seconds_left()
        line = Text(f"{self.progress.counts()}; time left: {duration(left)}")
        rows = list(self.progress.rows.values())
        shown = rows if len(rows) <= TALLEST else _selection(rows)
        return Group(
            trial_table(shown, self.progress.metric),
            ProgressBar(total=1.0, completed=self.progress.fraction(), width=60),
            line,
        )


def trial_table(rows: list[Row], metric: str) -> Table:
    """The trials, one a line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", overflow="fold")
    table.add_column("seed", justify="right")
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("train loss", justify="right", no_wrap=True)
    table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    for row in rows:
        status = f"{row.status.replace('_', ' ')}: {row.reason}" if row.reason else row.status
        table.add_row(
            escape(row.variant),
            str(row.seed),
            f"{row.step}/{row.steps}",
            "" if row.loss is None else f"{row.loss:.4g}",
            "" if row.objective is None else f"{row.objective:.4g}",
            Text(status, style=STYLES.get(row.status, "red")),
        )
    return table


def _selection(rows: list[Row]) -> list[Row]:
    """What a person wants to see of many: the running and the failed trials, and the last complete ones."""
    running = [row for row in rows if row.status == RUNNING]
    failed = [row for row in rows if row.reason][-5:]
    room = max(0, TALLEST - len(running) - len(failed))
    complete = [row for row in rows if row.status == COMPLETE][-room:] if room else []
    keep = {row.key for row in [*running[:TALLEST], *failed, *complete]}
    return [row for row in rows if row.key in keep]
