"""The language of `when`, `exclude` and `--only`: a small grammar, read strictly, with errors that show the column."""

from typing import Any

import pytest

from titanlab.sweeps.language.conditions import ABSENT, MAX_LENGTH, ConditionError, parse_condition

RUN: dict[str, Any] = {
    "model.memory": {"type": "titans"},
    "model.memory.type": "titans",
    "model.memory.depth": 2,
    "model.memory.momentum": "none",
    "model.memory.gate": True,
    "model.overrides.layers.3-6.memory.depth": 1,
    "task.lengths": (8, 16),
    "train.clip": 1.5,
    "train.limit": None,
}


def holds(text: str) -> bool:
    return parse_condition(text).holds(lambda key: RUN.get(key, ABSENT))


@pytest.mark.parametrize(
    "text",
    [
        "model.memory.depth == 2",
        "model.memory.depth == 2.0",
        "2 <= model.memory.depth",
        "train.clip > 1.5e-1 and train.clip >= 1.5",
        "train.clip<2",
        "train.clip > -1",
        "model.memory.momentum == none",
        "model.memory.momentum == 'none'",
        'model.memory.momentum != "none yet"',
        "model.memory.type in [delta, titans]",
        "model.memory.depth not in [1, 3]",
        "16 in task.lengths",
        "task.lengths == [8, 16]",
        "train.limit == null",
        "model.memory.gate",
        "model.memory.gate == true",
        "not model.memory.depth == 1",
        "not (model.memory.depth == 1 or model.memory.momentum == token)",
        "model.overrides.layers.3-6.memory.depth == 1",
        "true or false and false",
        "not false and true",
    ],
)
def test_a_condition_that_is_true(text: str) -> None:
    assert holds(text) and not holds(f"not ({text})")


@pytest.mark.parametrize(
    "text",
    [
        "model.memory.depth == '2'",
        "model.memory.gate == 1",
        "model.memory.depth == true",
        "model.memory.depth == 1 or false",
        "(true or false) and false",
        "task.lengths == [8]",
    ],
)
def test_a_condition_that_is_false(text: str) -> None:
    assert not holds(text)


def test_a_setting_that_a_run_does_not_have_equals_nothing_and_is_in_no_order() -> None:
    for text in ("a.b == 1", "a.b < 1", "a.b >= 1", "a.b in [1]", "1 in a.b", "a.b", "a.b == a.b"):
        assert not holds(text), text
    assert holds("a.b != 1") and holds("not a.b > 1") and holds("a.b not in [1]")


def test_a_condition_tells_which_keys_it_looks_at() -> None:
    assert parse_condition("a.b == 1 and (c.d in [e, f.g] or not a.b)").keys == ("a.b", "c.d", "f.g")


@pytest.mark.parametrize(
    "text, column, expected",
    [
        ("", 1, "expected a key, a number or a word, got the end"),
        ("model.memory.depth = 2", 20, "write '=='"),
        ("a.b == 1 && c.d == 2", 10, "write 'and'"),
        ("a.b == 1 | c.d == 2", 10, "write 'or'"),
        ("! a.b", 1, "write 'not' or '!='"),
        ("a.b == ", 8, "got the end"),
        ("a.b == 'x", 8, "a quote that does not end"),
        ("(a.b == 1", 10, "expected ')', got the end"),
        ("a.b == 1)", 9, "expected 'and', 'or' or the end, got ')'"),
        ("a.b 1", 5, "expected 'and', 'or' or the end, got '1'"),
        ("a.b not 1", 9, "expected 'in', got '1'"),
        ("a.b in []", 9, "expected a key, a number or a word, got ']'"),
        ("1 < a.b < 2", 9, "one comparison at a time"),
        ("a.b == 1.2.3", 8, "is no part of a condition"),
        ("__import__('os')", 11, "expected 'and', 'or' or the end, got '('"),
        ("model.memory == titans", 1, "as in model.memory.type"),
        ("1 == 1 and model.memory.momentum < 2", 12, "only numbers have an order, got the text 'none'"),
        ("model.memory.gate < 2", 1, "only numbers have an order, got the boolean true"),
        ("model.memory.momentum", 1, "is neither true nor false"),
        ("model.memory.depth in model.memory.momentum", 23, "expected a list after 'in'"),
        ("(" * 30 + "a.b" + ")" * 30, 22, "nested deeper than 20 levels"),
        ("not " * 30 + "a.b", 85, "nested deeper than 20 levels"),
        ("[" * 30, 22, "nested deeper than 20 levels"),
    ],
)
def test_what_is_wrong_is_told_with_its_column(text: str, column: int, expected: str) -> None:
    with pytest.raises(ConditionError) as error:
        holds(text)
    assert expected in str(error.value) and f"at column {column} of " in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_the_length_is_bounded() -> None:
    with pytest.raises(ConditionError, match="expected at most 1000"):
        parse_condition("a.b == 1 or " * MAX_LENGTH)
