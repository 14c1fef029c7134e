"""YAML is read as people mean it, bounded, with every value's place."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titanlab.platform.errors import ConfigError
from titanlab.platform.yaml_source import Document, parse_yaml, plain_scalar, read_yaml


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001), ("1E3", 1000.0), ("3.", 3.0), (".5", 0.5), ("-1.5e+2", -150.0), ("+7", 7), ("010", 10),
        ("0o10", 8),
        ("0xff", 255), ("true", True), ("False", False), ("null", None), ("~", None), ("", None), (".inf", math.inf),
        ("-.INF", -math.inf), ("off", "off"), ("no", "no"), ("yes", "yes"), ("on", "on"), ("y", "y"),
        ("1_000", "1_000"),
        ("12:30", "12:30"), ("2020-01-01", "2020-01-01"), ("tRUE", "tRUE"), ("1e", "1e"), ("e3", "e3"), (".", "."),
    ],
)  # fmt: skip
def test_a_plain_word_means_what_yaml_1_2_says(text: str, value: Any) -> None:
    read = plain_scalar(text)
    assert read == value and type(read) is type(value)
    assert parse_yaml(f"key: {text}", "f").value == {"key": value}


def test_nan_is_read_as_nan() -> None:
    assert math.isnan(plain_scalar(".nan"))


def test_quoted_words_are_text() -> None:
    assert parse_yaml("a: '1'\nb: \"true\"\nc: |\n  2\n", "f").value == {"a": "1", "b": "true", "c": "2\n"}


def test_keys_are_text_always() -> None:
    assert parse_yaml("1: a\ntrue: b\n", "f").value == {"1": "a", "true": "b"}


def test_every_value_knows_its_place() -> None:
    document = parse_yaml("a:\n  b: [1,\n      2]\nc: {d: 3}\n", "f.yaml")
    assert str(document.location(("a", "b", 1))) == "f.yaml:3:7"
    assert str(document.location(("c", "d"))) == "f.yaml:4:5"
    assert str(document.location(("c", "missing", "deeper"))) == "f.yaml:4:1", "the innermost block that is there"
    assert document.locate(("a", "b", 1))[0] == "a.b.1"
    assert str(document.part("a").location(("b", 0))) == "f.yaml:2:7"


def test_an_alias_is_the_value_of_its_anchor() -> None:
    assert parse_yaml("a: &x {k: [1]}\nb: *x\n", "f").value["b"] == {"k": [1]}


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2", "a: {b: 1, b: 2}", "? [x]\n: 1", "a: !!int '3'", "a: !!binary aGk=", "a: !x y",
        "!!python/name:a b",
        "<<: {a: 1}",
        "a: &x [*x]", "a: *missing", "--- {a: 1}\n--- {b: 2}", "a: '\\", 'a: "\\U99999999"', 'a: "\\ud800"',
        "%YAML 9999999999999999999999.1\n---\na: 1",
        "a: \x00", "a: \ud800", "a: [", "'", "@a", "- a", "just text", "",
    ],
)  # fmt: skip
def test_what_is_no_mapping_of_plain_data_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_yaml(text, "f.yaml")
    assert str(refused.value).startswith("f.yaml")
    assert "\n" not in str(refused.value)


def test_the_limits_of_nesting_and_size_hold(tmp_path: Path) -> None:
    assert parse_yaml("a: " + "[" * 31 + "]" * 31, "f").value
    with pytest.raises(ConfigError, match="nested deeper"):
        parse_yaml("a: " + "[" * 32 + "]" * 32, "f")
    (tmp_path / "large.yaml").write_text("a: " + "x" * (1 << 20))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_yaml(tmp_path / "large.yaml")


ALPHABET = st.sampled_from("ab01:,-?#&*!|>'\"%@`[]{}<~.e+\\ \t\n\r\x00\x85\u2028é😀")


@settings(max_examples=400, deadline=None)
@given(st.text(ALPHABET, max_size=60) | st.text(max_size=40))
def test_any_text_is_a_document_or_a_message(text: str) -> None:
    try:
        document = parse_yaml(text, "f.yaml")
    except ConfigError as error:
        assert str(error).startswith("f.yaml")
    else:
        assert isinstance(document, Document) and isinstance(document.value, dict)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_a_message(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "f.yaml"
    path.write_bytes(data)
    try:
        read_yaml(path)
    except ConfigError as error:
        assert str(path) in str(error)
