"""Text that a terminal shows and does not obey: names and errors may come from anybody's file.

An escape sequence in a name could move the cursor, change the window's title or hide what is printed before it.
"""

from __future__ import annotations

import re

# Control characters but tab and line feed, what Unicode ends lines by, and what turns the direction of text.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_OBEYED_IN_A_LINE = re.compile(f"[\t\n]|{_OBEYED.pattern}")


def visible(text: str) -> str:
    r"""The text with what a terminal would obey written out, as in `\x1b`; lines stay lines."""
    return _OBEYED.sub(_written_out, text)


def visible_line(text: str) -> str:
    """As `visible`, in one line."""
    return _OBEYED_IN_A_LINE.sub(_written_out, text)


def a_line(text: str) -> str:
    """The text, as a validator of names.

    Raises:
        ValueError: it has several lines, or something that a terminal would obey.
    """
    if visible_line(text) != text:
        raise ValueError("expected a line of text without control characters")
    return text


def _written_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
