"""The comparison as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from titanlab.sweeps.conclusions.conclusion import conclusion, method, unfinished_lines
from titanlab.sweeps.conclusions.factors import Effects
from titanlab.sweeps.conclusions.fronts import front_lines
from titanlab.sweeps.conclusions.report_table import aim_words, columns, leading_rows, left_out
from titanlab.sweeps.conclusions.summary import Summary
from titanlab.sweeps.inference.effects import Effect
from titanlab.sweeps.planning.tuning_lines import tuning_lines
from titanlab.sweeps.readable import readable_interval, readable_p, readable_signed

EFFECT_HEADINGS = ("effect", "difference", "95 % interval", "p (Holm)", "verdict")
MOST_EFFECTS = 40
MOST_TRIALS = 100


def markdown(summary: Summary, pictures: Sequence[tuple[str, str]]) -> str:
    """The whole report.

    Args:
        pictures: file name and title of each.
    """
    chosen, rows = columns(summary), leading_rows(summary)
    parts = [
        [f"# {_inline(summary.plan.name)}", "", f"{_inline(aim_words(summary))}; {summary.plan.summary}."],
        ["## Conclusion", "", *_items(conclusion(summary))],
        ["## Cells", "", *_table([c.heading for c in chosen], ([c.text(row) for c in chosen] for row in rows))],
    ]
    if hidden := left_out(summary, rows):
        parts.append([hidden])
    if isinstance(summary.effects, Effects):
        parts.append(["## Effects of the axes", "", *_table(EFFECT_HEADINGS, effect_texts(summary.effects))])
    if lines := front_lines(summary):
        parts.append(["## Fronts", "", *_items(lines)])
    if lines := tuning_lines(summary.plan):
        parts.append(["## Tuning", "", *_items(lines)])
    for file, title in pictures:
        parts.append([f"## {title}", "", f"![{title}]({file})"])
    if summary.unfinished:
        parts.append(["## Trials without a result", "", *_items(first(unfinished_lines(summary), MOST_TRIALS))])
    parts.append(["## How to read this", "", *_items(method(summary))])
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def effect_texts(found: Effects) -> list[tuple[str, ...]]:
    """The effects in the order of `EFFECT_HEADINGS`, mains before interactions."""
    lines = [(found.label(effect), *_effect_numbers(effect)) for effect in found.effects[:MOST_EFFECTS]]
    hidden = len(found.effects) - len(lines)
    return [*lines, (f"and {hidden} more in effects.csv", "", "", "", "")] if hidden else lines


def interaction_words(effect: Effect) -> str:
    """A verdict in words that fit what it is of."""
    words = {"better": "more than the sum", "worse": "less than the sum", "no clear difference": "no clear interaction"}
    return words.get(effect.verdict, effect.verdict) if effect.is_interaction else effect.verdict


def first(lines: list[str], count: int) -> list[str]:
    """The first lines, and how many more there are."""
    return [*lines[:count], f"and {len(lines) - count} more, in trials.csv"] if len(lines) > count else lines


def _effect_numbers(effect: Effect) -> tuple[str, ...]:
    found = effect.comparison
    p = "" if found.p_holm is None else readable_p(found.p_holm).removeprefix("= ")
    interval = readable_interval(*found.difference[1:])
    return readable_signed(found.difference.mean), interval, p, interaction_words(effect)


def _table(headings: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    headings = list(headings)
    drawn = [f"| {' | '.join(headings)} |", f"|{'|'.join('---' for _ in headings)}|"]
    return drawn + [f"| {' | '.join(_inline(text) for text in line)} |" for line in lines]


def _items(lines: Iterable[str]) -> list[str]:
    return [f"- {_inline(line)}" for line in lines]


def _inline(text: str) -> str:
    """Text that stays inside its line and its cell of a table, and is no markup."""
    escaped = "".join(f"\\{character}" if character in "\\`*_|<>[]#!&" else character for character in text)
    return " ".join(escaped.split())
