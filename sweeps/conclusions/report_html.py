"""The comparison as one page that needs nothing else: no script, no network, the pictures within.

Everything that comes from names, settings or errors is escaped; the page's own policy forbids scripts and any request.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from titanlab.sweeps.conclusions.conclusion import conclusion, method, unfinished_lines
from titanlab.sweeps.conclusions.factors import Effects
from titanlab.sweeps.conclusions.fronts import front_lines
from titanlab.sweeps.conclusions.report_markdown import EFFECT_HEADINGS, MOST_TRIALS, effect_texts, first
from titanlab.sweeps.conclusions.report_table import aim_words, columns, leading_rows, left_out
from titanlab.sweeps.conclusions.summary import Row, Summary
from titanlab.sweeps.planning.tuning_lines import tuning_lines

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #ffffff; --soft: #6b6b70; --line: #dcdce0; --card: #f5f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececee; --paper: #17171a; --soft: #a0a0a8; --line: #3a3a40; --card: #222226; }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.aim, .note { color: var(--soft); }
.conclusion { background: var(--card); border-radius: .5rem; padding: .75rem 1rem .75rem 2rem; margin: 1rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
td.words, th.words { text-align: left; } td.words { white-space: normal; min-width: 12rem; overflow-wrap: normal; }
tr.best td, tr.baseline td { font-weight: 600; } tr.none td { color: var(--soft); }
img { display: block; width: 100%; min-width: 34rem; height: auto; background: #fff; border-radius: .5rem; }
pre { overflow-x: auto; background: var(--card); border-radius: .5rem; padding: 1rem; font-size: .8rem; }
summary { cursor: pointer; color: var(--soft); }
"""


def html_page(summary: Summary, pictures: Sequence[tuple[Path, str]]) -> str:
    """The whole page.

    Args:
        pictures: SVG file and title of each.
    """
    plan = summary.plan
    rows = leading_rows(summary)
    parts = [
        f"<h1>{escape(plan.name)}</h1>",
        f'<p class="aim">{escape(aim_words(summary))}; {escape(plan.summary)}.</p>',
        _list(conclusion(summary), "conclusion"),
        *(_picture(path, title) for path, title in pictures[:1]),
        "<h2>Cells</h2>",
        _cells(summary, rows),
        f'<p class="note">{escape(left_out(summary, rows))}</p>',
        *(_picture(path, title) for path, title in pictures[1:]),
    ]
    if isinstance(summary.effects, Effects):
        words = {0, len(EFFECT_HEADINGS) - 1}
        parts += ["<h2>Effects of the axes</h2>", _table(EFFECT_HEADINGS, effect_texts(summary.effects), words)]
    if lines := front_lines(summary):
        parts += ["<h2>Fronts</h2>", _list(lines)]
    if lines := tuning_lines(plan):
        parts += ["<h2>Tuning</h2>", _list(lines)]
    if summary.unfinished:
        parts += ["<h2>Trials without a result</h2>", _list(first(unfinished_lines(summary), MOST_TRIALS))]
    parts += [
        "<h2>How to read this</h2>",
        _list(method(summary)),
        f"<details><summary>The sweep's file</summary><pre>{escape(plan.text)}</pre></details>",
    ]
    return _document(plan.name, "\n".join(parts))


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _cells(summary: Summary, rows: Sequence[Row]) -> str:
    chosen = columns(summary)
    words = {index for index, column in enumerate(chosen) if column.is_words}
    return _table(
        [column.heading for column in chosen],
        [[column.text(row) for column in chosen] for row in rows],
        words,
        [_row_class(row) for row in rows],
    )


def _row_class(row: Row) -> str:
    return "best" if row.rank == 1 else "baseline" if row.cell.is_baseline else "none" if row.rank is None else ""


def _table(
    headings: Sequence[str], lines: Iterable[Sequence[str]], words: set[int], classes: Sequence[str] = ()
) -> str:
    def cells(tag: str, texts: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=' + chr(34) + 'words' + chr(34) if index in words else ''}>{escape(text)}</{tag}>"
            for index, text in enumerate(texts)
        )

    body = "\n".join(
        f'<tr class="{classes[number] if classes else ""}">{cells("td", line)}</tr>'
        for number, line in enumerate(lines)
    )
    head = f"<thead><tr>{cells('th', headings)}</tr></thead>"
    return f'<div class="scroll"><table>\n{head}\n<tbody>\n{body}\n</tbody></table></div>'


def _list(lines: Iterable[str], name: str = "") -> str:
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{name}">\n{items}\n</ul>'


def _picture(path: Path, title: str) -> str:
    """An image, not inline markup: what is inside an image can neither run nor clash with the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{content}">'
    return f'<h2>{escape(title)}</h2>\n<div class="scroll">{image}</div>'
