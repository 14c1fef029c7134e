"""What a benchmark found: one table for people, one JSON file for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Value: TypeAlias = str | float | int | bool | None
Row: TypeAlias = dict[str, Value]

LONGEST_CELL = 24
"""Letters of a remark within the table."""


@dataclass
class Result:
    """A benchmark's table; peers stand in the same table as what is compared with them."""

    title: str
    """One line: what was measured, on what, at which sizes."""
    columns: list[str]
    """Keys of the rows in the order shown, units included: `forward_ms`, `peak_gb`."""
    rows: list[Row] = field(default_factory=list)
    """What was measured. A key that is absent or None was not; what failed has its reason under `remark`."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Command, date, chip, versions and settings: `titanlab.benchmarks.chip.facts_of`."""
    notes: list[str] = field(default_factory=list)
    """What a reader has to know to read the table right."""
    finished: bool = True
    """Whether all was measured; not so in what a run has written by the time that it is cut."""
    naming: int = 2
    """How many of the first columns say which row it is."""

    def show(self, console: Console) -> None:
        """Prints the table (its title, as long as there is no row), then the notes.

        A column that no row fills is left out. What is too wide goes on below, each part with what names its rows.
        """
        from rich.text import Text

        remarks = list(dict.fromkeys(text for row in self.rows if (text := _long_remark(row))))
        filled = [key for key in self.columns if any(row.get(key) is not None for row in self.rows)]
        names = [key for key in self.columns[: self.naming] if key in filled]
        console.print(Text(self.title if self.finished else f"UNFINISHED: {self.title}", style="italic"))
        for keys in self._side_by_side(console, names, filled[len(names) :], remarks):
            console.print(self._table([*names, *keys], remarks))
        for number, remark in enumerate(remarks, start=1):
            console.print(Text(f"[{number}] {remark}"))
        for note in self.notes:
            console.print(Text(f"- {note}"))

    def _table(self, keys: Sequence[str], remarks: list[str]) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD)
        for key in keys:
            numbers = any(isinstance(row.get(key), int | float) for row in self.rows)
            table.add_column(Text(heading(key)), justify="right" if numbers else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(_cell(row, key, remarks)) for key in keys))
        return table

    def _side_by_side(
        self, console: Console, names: Sequence[str], keys: Sequence[str], remarks: list[str]
    ) -> list[list[str]]:
        """The columns beside those that name the rows, in parts that a console has room for: one column at least."""
        from rich.measure import Measurement

        room = console.options.update(width=10_000)
        parts: list[list[str]] = [[]] if self.rows else []
        for key in keys:
            table = self._table([*names, *parts[-1], key], remarks)
            if parts[-1] and Measurement.get(console, room, table).maximum > console.width:
                parts.append([])
            parts[-1].append(key)
        return parts

    def write_json(self, path: Path) -> None:
        """Puts all of it in the file's place; numbers that are not finite become text ("nan"), for JSON has none.

        Raises:
            ConfigError: the folder does not exist or cannot be written.
        """
        try:
            write_atomically(path, json.dumps(_finite(asdict(self)), indent=2, allow_nan=False) + "\n")
        except OSError as error:
            raise ConfigError(Problem(f"--json {path}: cannot be written ({error.strerror or error})")) from error


def read_result(path: Path) -> Result:
    """What `write_json` wrote.

    Raises:
        ConfigError: it is no such file.
    """
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(Problem(f"{path}: is no result of a benchmark ({error})")) from error


def heading(key: str) -> str:
    """A column's key as it is shown."""
    return key.replace("_per_", "/").replace("_", " ")


def readable(value: Value) -> str:
    """A cell: three significant digits, thousands apart; a dash where nothing was measured."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    if value == 0 or 1e-3 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"


def _long_remark(row: Row) -> str | None:
    """A remark that is too long for a cell; it is printed below the table."""
    remark = row.get("remark")
    return remark if isinstance(remark, str) and len(remark) > LONGEST_CELL else None


def _cell(row: Row, key: str, remarks: list[str]) -> str:
    if key != "remark" or (remark := _long_remark(row)) is None:
        return readable(row.get(key))
    failed = "failed " if remark.startswith("failed") else ""
    return f"{failed}[{remarks.index(remark) + 1}]"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
