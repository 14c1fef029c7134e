"""The comparison as a table of texts, for a terminal, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from titanlab.sweeps.conclusions.summary import Row, Summary
from titanlab.sweeps.readable import (
    readable,
    readable_bytes,
    readable_interval,
    readable_p,
    readable_signed,
)

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 25
"""Rows of a table that is read, not searched; the CSV holds all."""

WIDE = 150
"""Characters from which on a terminal has room for what the cells cost."""
NARROW = 110
INTERVALS = ("its 95 % interval", "lost")
"""What a terminal narrower than that has no room for; the files have it."""
COSTS = ("parameters", "state", "tokens/s")


class Column(NamedTuple):
    """A heading with what stands under it."""

    heading: str
    text: Callable[[Row], str]
    in_terminal: bool = True
    is_words: bool = False


COLUMNS = (
    Column("rank", lambda row: _rank(row)),
    Column("variant", lambda row: row.cell.variant, is_words=True),
    Column("seeds", lambda row: f"{len(row.values)}/{len(row.cell.trials)}"),
    Column("lost", lambda row: row.lost_words, is_words=True),
    Column("mean", lambda row: readable(row.estimate.mean) if row.estimate else ""),
    Column("95 % interval", lambda row: readable_interval(*row.estimate[1:]) if row.estimate else ""),
    Column("to baseline", lambda row: readable_signed(row.comparison.difference.mean) if row.comparison else ""),
    Column(
        "its 95 % interval",
        lambda row: readable_interval(*row.comparison.difference[1:]) if row.comparison else "",
    ),
    Column("p (Holm)", lambda row: _p(row)),
    Column("d_z", lambda row: _d_z(row), in_terminal=False),
    Column("verdict", lambda row: row.verdict, is_words=True),
    Column("bootstrap", lambda row: readable_interval(*row.bootstrap) if row.bootstrap else "", in_terminal=False),
    Column("parameters", lambda row: f"{row.cell.parameters:,}"),
    Column("state", lambda row: "" if row.cell.state_bytes is None else readable_bytes(row.cell.state_bytes)),
    Column("memory state", lambda row: readable_bytes(row.cell.memory_bytes), in_terminal=False),
    Column("FLOPs/token", lambda row: "" if row.cell.flops is None else readable(row.cell.flops, 3), in_terminal=False),
    Column("seconds", lambda row: readable(row.metrics.get("cost/seconds"), 3), in_terminal=False),
    Column("tokens/s", lambda row: readable(row.metrics.get("cost/tokens_per_second"), 3)),
)


def columns(summary: Summary) -> list[Column]:
    """The columns in which anything stands."""
    return [column for column in COLUMNS if any(column.text(row) for row in summary.rows)]


def leading_rows(summary: Summary) -> list[Row]:
    """The best rows, the baseline wherever it ranks."""
    return [*summary.rows[:MOST_ROWS], *(row for row in summary.rows[MOST_ROWS:] if row.cell.is_baseline)]


def left_out(summary: Summary, shown: Sequence[Row]) -> str:
    """Says how many rows are not shown, or nothing."""
    hidden = len(summary.rows) - len(shown)
    return f"{hidden} more cells are in report.csv." if hidden else ""


def aim_words(summary: Summary) -> str:
    """`final/accuracy, higher is better`."""
    objective = summary.plan.objective
    return f"{objective.metric}, {'higher' if objective.direction == 'max' else 'lower'} is better"


def terminal_table(summary: Summary, width: int) -> Table:
    """The comparison for a terminal: its best rows, the columns one looks at first, without costs if it is narrow."""
    from rich.table import Table

    shown = Table(title=f"{summary.plan.name}: {aim_words(summary)}", title_justify="left")
    chosen = [column for column in columns(summary) if column.in_terminal]
    for narrow, headings in ((WIDE, COSTS), (NARROW, INTERVALS)):
        if width < narrow:
            chosen = [column for column in chosen if column.heading not in headings]
    for column in chosen:
        shown.add_column(column.heading, justify="left" if column.is_words else "right", overflow="fold")
    for row in leading_rows(summary):
        style = "bold" if row.rank == 1 else "dim" if row.rank is None else None
        shown.add_row(*(column.text(row) for column in chosen), style=style)
    return shown


def _rank(row: Row) -> str:
    if row.places is None or row.places.first == row.places.last:
        return str(row.rank or "")
    return f"{row.rank} ({row.places.first}-{row.places.last})"


def _p(row: Row) -> str:
    p = row.comparison.p_holm if row.comparison else None
    return "" if p is None else readable_p(p).removeprefix("= ")


def _d_z(row: Row) -> str:
    d_z = row.comparison.d_z if row.comparison else None
    return "" if d_z is None else f"{d_z:.2f}"
