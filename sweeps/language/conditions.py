"""Conditions on a run, as `when`, `exclude` and `--only` write them: `model.memory.depth > 1 and train.clip != 0`.

    condition  = all {"or" all}
    all        = one {"and" one}
    one        = "not" one | "(" condition ")" | value [comparator value]
    comparator = "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in"
    value      = number | word | text in quotes | "[" value {"," value} "]" | dotted key

A word with a dot in it is a key of the run, any other word is text (`none`, `titans`), `true`, `false` or `null`. A
key that a run does not have (`model.memory.momentum` of a rule without momentum) equals nothing and is in no order.
Nothing is evaluated but this grammar; length and nesting are bounded.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from titanlab.platform.config import shown_value
from titanlab.platform.yaml_source import plain_scalar
from titanlab.sweeps.language.condition_tokens import MisfitError, Token, tokens

MAX_LENGTH = 1000
MAX_NESTING = 20

ABSENT = object()
"""What a look-up gives for a key that the run does not have."""

Lookup: TypeAlias = Callable[[str], Any]
"""The value of a dotted key, or `ABSENT`."""


class ConditionError(ValueError):
    """A condition that cannot be read or does not apply; says the column, counted from 1."""


@dataclass(frozen=True)
class Condition:
    """A parsed condition."""

    text: str
    keys: tuple[str, ...]
    """The dotted keys it looks at."""
    _test: _Test

    def holds(self, look: Lookup) -> bool:
        """Whether it is true of the run behind `look`.

        Raises:
            ConditionError: it compares what cannot be compared, such as `model.memory < 2`.
        """
        try:
            return self._test(look)
        except MisfitError as error:
            raise ConditionError(_placed(self.text, error.column, str(error))) from None


def parse_condition(text: str) -> Condition:
    """Reads a condition.

    Raises:
        ConditionError: naming the column and what was expected there.
    """
    if len(text) > MAX_LENGTH:
        raise ConditionError(f"a condition of {len(text)} characters; expected at most {MAX_LENGTH}")
    try:
        parser = _Parser(list(tokens(text)))
        test = parser.condition(0)
        parser.expect("end")
    except MisfitError as error:
        raise ConditionError(_placed(text, error.column, str(error))) from None
    return Condition(text, tuple(dict.fromkeys(parser.keys)), test)


def _placed(text: str, column: int, message: str) -> str:
    start = max(0, column - 40)
    shown = ("..." if start else "") + text[start : column + 39] + ("..." if column + 39 < len(text) else "")
    return f"{message}, at column {column} of {shown!r}"


_Test: TypeAlias = Callable[[Lookup], bool]
_Value: TypeAlias = Callable[[Lookup], Any]


class _Operand(NamedTuple):
    value: _Value
    column: int


class _Parser:
    """Recursive descent; each method reads one rule of the grammar and gives a function of a run's look-up."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.next = tokens, 0
        self.keys: list[str] = []

    @property
    def token(self) -> Token:
        return self.tokens[self.next]

    def take(self, *kinds: str) -> Token | None:
        """The next token if it is one of these."""
        token = self.token
        if token.kind not in kinds:
            return None
        self.next += 1
        return token

    def expect(self, kind: str) -> None:
        if self.take(kind) is None:
            wanted = "'and', 'or' or the end" if kind == "end" else f"'{kind}'"
            raise MisfitError(f"expected {wanted}, got {self.token}", self.token.column)

    def condition(self, depth: int) -> _Test:
        parts = [self._all(depth)]
        while self.take("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else lambda look: any(part(look) for part in parts)

    def _all(self, depth: int) -> _Test:
        parts = [self._one(depth)]
        while self.take("and"):
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else lambda look: all(part(look) for part in parts)

    def _bound(self, depth: int) -> None:
        if depth > MAX_NESTING:
            raise MisfitError(f"nested deeper than {MAX_NESTING} levels", self.token.column)

    def _one(self, depth: int) -> _Test:
        self._bound(depth)
        if self.take("not"):
            inner = self._one(depth + 1)
            return lambda look: not inner(look)
        if self.take("("):
            inner = self.condition(depth + 1)
            self.expect(")")
            return inner
        return self._comparison(depth)

    def _comparison(self, depth: int) -> _Test:
        left = self._operand(depth)
        sign = self.take(*_COMPARATORS, "in", "not")
        if sign is None:
            return lambda look: _truth(left, look)
        if sign.kind == "not":
            self.expect("in")
        right = self._operand(depth)
        if self.token.kind in _COMPARATORS:
            raise MisfitError("one comparison at a time: write 'a < b and b < c'", self.token.column)
        if sign.kind in ("in", "not"):
            wanted = sign.kind == "in"
            return lambda look: _contains(right, left, look) == wanted
        compare = _COMPARATORS[sign.kind]
        return lambda look: compare(left, right, look)

    def _operand(self, depth: int) -> _Operand:
        self._bound(depth)
        column = self.token.column
        if self.take("["):
            items = [self._operand(depth + 1)]
            while self.take(","):
                items.append(self._operand(depth + 1))
            self.expect("]")
            return _Operand(lambda look: [item.value(look) for item in items], column)
        token = self.take("number", "text", "word", "key")
        if token is None:
            raise MisfitError(f"expected a key, a number or a word, got {self.token}", column)
        if token.kind == "key":
            self.keys.append(token.text)
            return _Operand(lambda look: _setting(token, look), column)
        value = token.text[1:-1] if token.kind == "text" else plain_scalar(token.text)
        return _Operand(lambda look: value, column)


def _setting(token: Token, look: Lookup) -> Any:
    value = look(token.text)
    if isinstance(value, Mapping):
        message = f"'{token.text}' is a block of settings; compare one of them, as in {token.text}.type"
        raise MisfitError(message, token.column)
    return list(value) if isinstance(value, tuple) else value


def _truth(operand: _Operand, look: Lookup) -> bool:
    value = operand.value(look)
    if value is ABSENT:
        return False
    if not isinstance(value, bool):
        message = f"{shown_value(value)} is neither true nor false; expected a comparison, as in a.b == 1"
        raise MisfitError(message, operand.column)
    return value


def _same(left: Any, right: Any) -> bool:
    """Equality by value; true is not 1, and an absent setting equals nothing."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return left is not ABSENT and isinstance(left, bool) == isinstance(right, bool) and left == right


def _contains(where: _Operand, what: _Operand, look: Lookup) -> bool:
    held = where.value(look)
    if held is ABSENT:
        return False
    if not isinstance(held, list):
        raise MisfitError(f"expected a list after 'in', as in [1, 2], got {shown_value(held)}", where.column)
    return any(_same(what.value(look), item) for item in held)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[_Operand, _Operand, Lookup], bool]:
    def test(left: _Operand, right: _Operand, look: Lookup) -> bool:
        values = [left.value(look), right.value(look)]
        for value, operand in zip(values, (left, right), strict=True):
            if value is not ABSENT and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise MisfitError(f"only numbers have an order, got {shown_value(value)}", operand.column)
        return ABSENT not in values and compare(*values)

    return test


_COMPARATORS: dict[str, Callable[[_Operand, _Operand, Lookup], bool]] = {
    "==": lambda left, right, look: _same(left.value(look), right.value(look)),
    "!=": lambda left, right, look: not _same(left.value(look), right.value(look)),
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
}
