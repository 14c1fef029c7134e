"""Numbers as people read them."""

from __future__ import annotations

import math


def readable_bytes(size: int) -> str:
    """`0 B`, `37 kB`, `1.2 MB`: powers of 1000, two or three digits."""
    amount, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if amount >= 10 or units[0] == "B" else f"{amount:.1f} {units[0]}"


def readable_count(number: float | None) -> str:
    """`640`, `37 k`, `1.2 M`, `45 G` (then T, P, E): two or three digits; nothing for one that is not known."""
    if number is None:
        return ""
    units = ["", " k", " M", " G", " T", " P", " E"]
    while number >= 999.5 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.0f}{units[0]}" if number >= 10 or not units[0] else f"{number:.1f}{units[0]}"


def readable(value: float | None, digits: int = 4) -> str:
    """A measured number with `digits` significant digits, and nothing for one that is not there."""
    if value is None or math.isnan(value):
        return ""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
        return f"{value:,.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def readable_interval(low: float | None, high: float | None) -> str:
    """`[0.81, 0.93]`, or nothing."""
    return "" if low is None or high is None else f"[{readable(low, 3)}, {readable(high, 3)}]"


def readable_signed(value: float, digits: int = 4) -> str:
    """A difference with its sign."""
    return f"{'+' if value > 0 else ''}{readable(value, digits)}"


def readable_p(p: float) -> str:
    """`= 0.031`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def duration(seconds: float | None) -> str:
    """`about 3 min` for people."""
    if seconds is None:
        return "unknown"
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
