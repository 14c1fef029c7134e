"""The words, numbers and signs that a condition is made of; see `titanlab.sweeps.language.conditions`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn


class MisfitError(Exception):
    """Something wrong at a column of a condition, counted from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.column = column


class Token(NamedTuple):
    """A word, number or sign of a condition."""

    kind: str
    """`number`, `text`, `word`, `key`, `end`, or the sign or the reserved word itself."""
    text: str
    column: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else f"'{self.text}'"


_PATTERN = re.compile(
    r"""(?P<space>\s+)
    | (?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(?![\w.]))
    | (?P<quoted>'[^']*'|"[^"]*")
    | (?P<word>[A-Za-z_][\w-]*(\.[\w*-]+)*)
    | (?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)""",
    re.VERBOSE | re.ASCII,
)
_RESERVED = ("and", "or", "not", "in")
_ADVICE = {"=": "write '=='", "&": "write 'and'", "|": "write 'or'", "!": "write 'not' or '!='"}


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a condition, `end` last.

    Raises:
        MisfitError: a character that no condition holds.
    """
    position = 0
    while position < len(text):
        found = _PATTERN.match(text, position)
        if found is None:
            _refuse_character(text, position)
        word, column = found[0], position + 1
        position = found.end()
        if found["number"] or found["quoted"]:
            yield Token("number" if found["number"] else "text", word, column)
        elif found["word"]:
            yield Token(word if word in _RESERVED else "key" if "." in word else "word", word, column)
        elif found["sign"]:
            yield Token(word, word, column)
    yield Token("end", "", len(text) + 1)


def _refuse_character(text: str, position: int) -> NoReturn:
    character = text[position]
    if character in "'\"":
        raise MisfitError("a quote that does not end", position + 1)
    advice = f"; {_ADVICE[character]}" if character in _ADVICE else ""
    raise MisfitError(f"{character!r} is no part of a condition{advice}", position + 1)
