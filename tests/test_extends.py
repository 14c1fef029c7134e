"""`extends`: a file as its differences to others, merged by one rule, every value with the place it came from."""

import os
from pathlib import Path

import pytest

from titanlab.platform.errors import ConfigError
from titanlab.platform.extends import MAX_DEPTH, resolve_extends
from titanlab.platform.run_config import load_config
from titanlab.platform.yaml_source import Document, read_yaml
from titanlab.sweeps.language.sources import sources
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan

RUN = """\
model: {dim: 16, layers: 1, architecture: {type: lmm}, memory: {type: titans, depth: 1, heads: 1, chunk_size: 4}}
task: {type: mqar, vocab: 32, pairs: 2, length: 12}
train: {steps: 2, batch_size: 2}
"""
COMMON = """\
base:
  extends: run.yaml
  train: {clip: 0.5}
axes:
  model.memory.depth: [1, 2]
seeds: 2
"""
CHILD = """\
extends: parts/common.yaml
name: child
base:
  train: {steps: 3}
axes:
  train.warmup: [0.1, 0.2, 0.3]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("parts").mkdir()
    Path("parts/run.yaml").write_text(RUN)
    Path("parts/common.yaml").write_text(COMMON)
    Path("child.yaml").write_text(CHILD)
    os.mkfifo("pipe")
    return tmp_path


def resolved(text: str) -> Document:
    Path("top.yaml").write_text(text)
    return resolve_extends(read_yaml("top.yaml"))


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        resolved(text)
    return str(error.value)


def test_mappings_merge_and_everything_else_replaces(folder: Path) -> None:
    Path("below.yaml").write_text("a: {x: 1, y: [1, 2], z: {k: 1}}\nb: 1\nc: {type: one, x: 1}\nd: {type: one, x: 1}\n")
    top = resolved("extends: below.yaml\na: {y: [3], z: {l: 2}}\nb: {m: 1}\nc: {type: two, y: 2}\nd: {type: one, y: 2}")
    assert top.value == {
        "a": {"x": 1, "y": [3], "z": {"k": 1, "l": 2}},
        "b": {"m": 1},
        "c": {"type": "two", "y": 2},
        "d": {"type": "one", "x": 1, "y": 2},
    }


def test_later_files_of_a_list_hold_over_earlier_ones_and_the_file_itself_over_all(folder: Path) -> None:
    Path("one.yaml").write_text("a: 1\nb: 1\nc: 1\n")
    Path("two.yaml").write_text("b: 2\nc: 2\n")
    assert resolved("extends: [one.yaml, two.yaml]\nc: 3\n").value == {"a": 1, "b": 2, "c": 3}


def test_every_value_keeps_its_own_place(folder: Path) -> None:
    places = {source.key: source.place for source in sources(load_sweep("child.yaml", ["train.clip=2"]).document)}
    assert places["base.model.dim"] == "parts/run.yaml:1"
    assert places["axes.model.memory.depth"] == "parts/common.yaml:5"
    assert places["base.train.steps"] == "child.yaml:4"
    assert places["base.train.clip"] == "--set train.clip=2"
    Path("parts/run.yaml").write_text(RUN.replace("batch_size: 2", "batch_size: none"))
    with pytest.raises(ConfigError, match=r"^parts/run.yaml:3:19: base.train.batch_size: expected a whole number"):
        make_plan(load_sweep("child.yaml"))


def test_the_logged_text_repeats_the_sweep_alone(folder: Path) -> None:
    sweep = load_sweep("child.yaml", ["train.learning_rate=1e-3"])
    assert sweep.text.startswith(
        "# resolved from --set train.learning_rate=1e-3, child.yaml, parts/common.yaml, parts/run.yaml\n"
    )
    Path("alone.yaml").write_text(sweep.text)
    for part in ("parts/run.yaml", "parts/common.yaml", "child.yaml"):
        Path(part).unlink()
    assert [trial.key for trial in make_plan(load_sweep("alone.yaml")).trials] == [
        trial.key for trial in make_plan(sweep).trials
    ]


def test_a_sweep_that_extends_nothing_is_logged_as_it_is_written(folder: Path) -> None:
    text = "# why\nname: x\nbase: {}\naxes: {train.steps: [1]}\n"
    Path("top.yaml").write_text(text)
    assert load_sweep("top.yaml").text == text


def test_a_run_extends_a_run(folder: Path) -> None:
    Path("top.yaml").write_text("extends: parts/run.yaml\nmodel: {memory: {type: delta}}\n")
    config = load_config("top.yaml")
    assert config.train.steps == 2 and config.model.memory.type_name == "delta"
    assert (
        config.model.memory == load_config("parts/run.yaml").replace(model={"memory": {"type": "delta"}}).model.memory
    )


def test_a_path_is_relative_to_the_file_that_says_it(folder: Path) -> None:
    Path("parts/inner").mkdir()
    Path("parts/inner/x.yaml").write_text("extends: ../run.yaml\n")
    assert resolved("extends: parts/inner/x.yaml\n").value["train"] == {"steps": 2, "batch_size": 2}


def test_one_file_may_be_reached_on_two_ways(folder: Path) -> None:
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text(f"extends: parts/run.yaml\n{name}: 1\n")
    assert {"one", "two", "task"} <= set(resolved("extends: [one.yaml, two.yaml]\n").value)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a: 1\nextends: nowhere.yaml\n", "top.yaml:2:1: extends: nowhere.yaml: there is no such file"),
        ("extends: [parts/run.yaml, parts]\n", "top.yaml:1:27: extends.1: parts: is a folder"),
        ("base:\n  extends: x.yaml\n", "top.yaml:2:3: base.extends: x.yaml: there is no such file"),
        ("extends: 3\n", "top.yaml:1:1: extends: expected the name of a file, or a list of names, got 3"),
        ("extends: [a, {b: c}]\n", "extends.1: expected the name of a file"),
        ("extends:\n", "extends: expected the name of a file, or a list of names, got nothing (null)"),
        ("extends: top.yaml\n", "top.yaml:1:1: extends: the files extend one another: top.yaml -> top.yaml"),
        ("extends: parts/../top.yaml\n", "top.yaml -> parts/../top.yaml"),
        ('extends: "a\\0b"\n', "is no name of a file"),
        (f"extends: {'a' * 5000}\n", "cannot be read: File name too long"),
        ("extends: pipe\n", "top.yaml:1:1: extends: pipe: is no ordinary file"),
    ],
)
def test_a_bad_extends_is_located_at_its_key(folder: Path, text: str, expected: str) -> None:
    assert expected in refusal(text)


def test_a_cycle_is_told_with_its_chain(folder: Path) -> None:
    Path("a.yaml").write_text("extends: b.yaml\n")
    Path("b.yaml").write_text("x: 1\nextends: top.yaml\n")
    message = refusal("extends: a.yaml\n")
    assert message == "b.yaml:2:1: extends: the files extend one another: top.yaml -> a.yaml -> b.yaml -> top.yaml"


def test_what_is_wrong_within_an_extended_file_is_located_there(folder: Path) -> None:
    Path("parts/run.yaml").write_text("a: 1\na: 2\n")
    assert refusal("extends: parts/run.yaml\n").startswith("parts/run.yaml:2:1: a: the key 'a' stands here twice")


def test_chains_and_numbers_are_bounded(folder: Path) -> None:
    for number in range(MAX_DEPTH + 1):
        Path(f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    Path(f"{MAX_DEPTH + 1}.yaml").write_text("a: 1\n")
    assert resolved("extends: 2.yaml\n").value == {"a": 1}
    assert "more than 16 files in a chain" in refusal("extends: 1.yaml\n")
    for number in range(10):  # every file twice: 2^10 ways
        Path(f"{number}.yaml").write_text(f"extends: [{number + 1}.yaml, {number + 1}.yaml]\n")
    assert "or 64 in all" in refusal("extends: 0.yaml\n")


def test_a_sweep_that_extends_a_run_at_its_top_is_told_where_a_run_belongs(folder: Path) -> None:
    Path("top.yaml").write_text("extends: parts/run.yaml\nname: x\nbase: {}\naxes: {train.steps: [1]}\n")
    with pytest.raises(ConfigError, match=r"^parts/run.yaml:1:1: model: belongs into `base`; .*base: {extends: FILE}"):
        load_sweep("top.yaml")


@pytest.mark.parametrize(
    "version, expected",
    [
        ("2", "top.yaml:2:1: schema_version: expected 1, the version this titanlab reads, got 2; update titanlab"),
        ("0", "expected 1, the version this titanlab reads, got 0"),
        ("true", "got the boolean true"),
        ("'1'", "got the text '1'"),
    ],
)
def test_a_file_of_another_version_is_refused_before_its_keys_are_judged(
    folder: Path, version: str, expected: str
) -> None:
    Path("top.yaml").write_text(f"name: x\nschema_version: {version}\nnew_key: 1\nbase: {{}}\naxes: {{a: [1]}}\n")
    with pytest.raises(ConfigError) as error:
        load_sweep("top.yaml")
    assert expected in str(error.value) and "new_key" not in str(error.value)
    Path("top.yaml").write_text("name: x\nschema_version: 1\nbase: {}\naxes: {train.steps: [1]}\n")
    assert load_sweep("top.yaml").config.schema_version == 1
