"""Files: replaced as wholes, and YAML that means what it says when it is read again."""

import os
from pathlib import Path

import pytest

from titanlab.platform.files import slug, write_atomically, yaml_text
from titanlab.platform.yaml_source import parse_yaml


@pytest.mark.parametrize(
    "text",
    [
        "1e-3",
        "off",
        "no",
        "010",
        "0x1f",
        "0o7",
        "1.5",
        "null",
        "~",
        "true",
        ".nan",
        "",
        " a",
        "a: b",
        "é\n",
        "- x",
        "2024-01-01",
    ],
)
def test_text_is_text_when_it_is_read_again(text: str) -> None:
    data = {"value": text, "list": [text, {"inner": text}]}
    assert parse_yaml(yaml_text(data), "f.yaml").value == data


@pytest.mark.parametrize("value", [1e-20, 1e20, 0.1 + 0.2, 3, -1, True, False, None, [], {}, [[1], [2]]])
def test_plain_values_keep_value_and_type(value: object) -> None:
    read = parse_yaml(yaml_text({"value": value}), "f.yaml").value["value"]
    assert (read, type(read)) == (value, type(value))


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "one")
    write_atomically(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "two"
    write_atomically(tmp_path / "a", b"\x89\n\r")
    assert (tmp_path / "a").read_bytes() == b"\x89\n\r"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_or_is_interrupted_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    def fails(*arguments: object) -> None:
        raise error

    write_atomically(tmp_path / "a", "one")
    monkeypatch.setattr(os, step, fails)
    with pytest.raises(type(error)):
        write_atomically(tmp_path / "a", "two")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "one")]


def test_a_folder_that_does_not_exist_is_what_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        write_atomically(tmp_path / "file" / "a", "one")
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("My run.yaml", "my-run-yaml"), ("../../etc", "etc"), ("--", "run"), ("ä", "run"), ("x" * 99, "x" * 80)],
)
def test_a_name_in_a_path_holds_no_surprise(name: str, expected: str) -> None:
    assert slug(name) == expected
