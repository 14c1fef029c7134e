"""What a benchmark found: its table, and its JSON file, which is whole at any time and never hides an error."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from titanlab.benchmarks.result import Result, Row, read_result, readable
from titanlab.commands.bench_options import kept, present
from titanlab.platform import files
from titanlab.platform.errors import ConfigError, DataError


def test_a_row_that_cannot_be_written_yet_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, drawn = tmp_path / "later" / "r.json", []
    result = Result("t", ["what"], [{"what": "a"}], finished=False)
    with kept(path, drawn.append) as keep:
        keep(result)
        assert "not written for now: --json" in capsys.readouterr().err and drawn == [result]
        path.parent.mkdir()
        keep(result)
    assert read_result(path).rows == result.rows and drawn == [result] * 2 and not capsys.readouterr().err


@pytest.mark.parametrize("room", [False, True])
def test_what_could_not_be_written_is_tried_again_when_the_keyboard_interrupts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], room: bool
) -> None:
    path = tmp_path / "later" / "r.json"
    with pytest.raises(KeyboardInterrupt), kept(path) as keep:
        keep(Result("t", ["what"], [{"what": "a"}], finished=False))
        if room:
            path.parent.mkdir()
        raise KeyboardInterrupt
    out, err = capsys.readouterr()
    assert out.startswith("UNFINISH") and path.exists() == room
    assert (f"unfinished, in {path}" in err) == room and ("not written: --json" in err) == (not room)


def test_a_drawing_that_fails_in_any_way_is_said_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drawn(result: Result) -> None:
        raise ValueError("no such colour")

    result = Result("t", ["what"], [{"what": "a"}], finished=False)
    with kept(tmp_path / "r.json", drawn) as keep:
        keep(result)
    assert "not drawn for now: ValueError: no such colour" in capsys.readouterr().err
    assert read_result(tmp_path / "r.json").rows == result.rows


def test_the_file_is_whole_before_the_table_is_shown_and_the_table_is_shown_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Result("t", ["what"], [{"what": "a"}])
    with pytest.raises(ConfigError, match="cannot be written"):
        present(result, tmp_path / "none" / "r.json")
    assert "what" in capsys.readouterr().out

    def closed(result: Result, console: Console) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Result, "show", closed)
    with pytest.raises(BrokenPipeError):
        present(result, tmp_path / "r.json")
    assert read_result(tmp_path / "r.json") == result


def test_what_was_there_comes_back_as_it_was_and_never_hides_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, empty = tmp_path / "r.json", Result("t", ["what"], finished=False)
    path.write_text("mine")
    path.chmod(0o600)

    def cut() -> None:
        with kept(path) as keep:
            keep(empty)
            assert "mine" not in path.read_text()
            raise DataError("the package of the filler is missing")

    with pytest.raises(DataError):
        cut()
    assert path.read_text() == "mine" and path.stat().st_mode & 0o777 == 0o600 and not capsys.readouterr().out

    def refuse(*given: object, **more: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(files, "write_atomically", refuse)  # what `kept` puts back with; a result has its own
    with pytest.raises(DataError):
        cut()
    assert "what was there before is lost (read-only)" in capsys.readouterr().err


def test_a_table_that_is_too_wide_goes_on_below() -> None:
    keys = ["architecture", "context", *(f"figure_number_{number}" for number in range(12))]
    rows: list[Row] = [{"architecture": "transformer", "context": 4096} | dict.fromkeys(keys[2:], 1234.5)] * 2
    console = Console(width=80, record=True, file=io.StringIO())
    Result("t", keys, rows).show(console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    shown = [line.split() for line in lines if line.strip().startswith("transformer")]
    assert len(shown) >= 4 and all(words[:2] == ["transformer", "4,096"] for words in shown)
    assert sum(len(words) - 2 for words in shown) == 24 and {word for words in shown for word in words[2:]} == {"1,234"}


def test_a_table_says_what_it_was_not_given(tmp_path: Path) -> None:
    result = Result("t", ["what", "time_ms", "unused", "remark"], [{"what": "a", "time_ms": 1234.5}])
    result.rows.append({"what": "b", "time_ms": float("nan"), "remark": "failed: " + "a long reason " * 9})
    console = Console(width=100, record=True, file=io.StringIO())
    result.show(console)
    text = console.export_text()
    assert "1,234" in text and "unused" not in text and "failed [1]" in text and "[1] failed: a long reason" in text
    result.write_json(tmp_path / "r.json")
    assert read_result(tmp_path / "r.json").rows[1]["time_ms"] == "nan"
    assert [readable(value) for value in (None, True, 0.0, 1e-7, 3, 1234567)] == [
        "-",
        "yes",
        "0",
        "1.0e-07",
        "3",
        "1,234,567",
    ]
