"""The journal: what was written stays, once, whatever kills the writer."""

import json
import math
from pathlib import Path

import pytest

from titanlab.platform.errors import TitanlabError
from titanlab.platform.tracking.journal import Journal, read_journal


def test_lines_are_read_back_as_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "metrics.jsonl") as journal:
        assert journal.last_step == -1
        assert journal.write(10, {"train/loss": 0.1 + 0.2})
        assert journal.write(20, {"train/loss": 2.0, "val/loss": 3})
    points = read_journal(tmp_path / "metrics.jsonl")
    assert [point.step for point in points] == [10, 20]
    assert points[0].metrics == {"train/loss": 0.1 + 0.2}
    assert points[1].metrics == {"train/loss": 2.0, "val/loss": 3.0}
    assert points[0].time <= points[1].time
    assert [point.step for point in read_journal(tmp_path / "metrics.jsonl", after=10)] == [20]


def test_a_line_is_readable_before_the_journal_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.write(1, {"loss": 1.0})
    assert len(read_journal(tmp_path / "metrics.jsonl")) == 1
    journal.close()
    journal.close()


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "metrics.jsonl") == []


def test_a_step_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "metrics.jsonl") as journal:
        journal.write(10, {"loss": 1.0})
        assert not journal.write(10, {"loss": 9.0})
    with Journal(tmp_path / "metrics.jsonl") as journal:
        assert journal.last_step == 10
        assert not journal.write(5, {"loss": 9.0})
        assert journal.write(11, {"loss": 2.0})
    assert [(p.step, p.metrics["loss"]) for p in read_journal(tmp_path / "metrics.jsonl")] == [(10, 1.0), (11, 2.0)]


def test_a_writer_killed_at_any_byte_loses_at_most_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal(path) as journal:
        journal.write(1, {"loss": 1.0})
        journal.write(2, {"loss": 2.0})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        assert [point.step for point in read_journal(path)] == [1]
        with Journal(path) as journal:
            assert journal.last_step == 1
            journal.write(2, {"loss": 2.0})
        assert [point.step for point in read_journal(path)] == [1, 2]


def test_non_finite_metrics_are_kept_in_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Journal(path) as journal:
        journal.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert record["metrics"] == {"a": None, "b": None, "c": None, "d": 1.0}
    assert record["non_finite"] == {"a": "nan", "b": "inf", "c": "-inf"}
    (point,) = read_journal(path)
    assert math.isnan(point.metrics["a"])
    assert (point.metrics["b"], point.metrics["c"], point.metrics["d"]) == (math.inf, -math.inf, 1.0)


def test_damage_before_the_last_line_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step":1,"time":0,"metrics":{}}\nnonsense\n{"step":3,"time":0,"metrics":{}}\n')
    with pytest.raises(TitanlabError, match=r"metrics\.jsonl:2"):
        read_journal(path)
