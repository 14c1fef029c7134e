"""Whatever is wrong with a sweep file: one message with its place, exit code 2, no traceback, an untouched store."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from titanlab.__main__ import main
from titanlab.sweeps.language.sweep_file import load_sweep

GOOD = """\
name: good
base:
  model: {dim: 16, layers: 1, architecture: {type: lmm}, memory: {type: titans, depth: 1, heads: 1, chunk_size: 4}}
  task: {type: mqar, vocab: 32, pairs: 2, length: 12}
  train: {steps: 2, batch_size: 2}
axes:
  model.memory.depth: [1, 2]
  model.memory.momentum: [none, token]
seeds: [0, 1]
baseline: {model.memory.depth: 1, model.memory.momentum: none}
objective: {metric: final/accuracy, direction: max}
"""


LONG_AXES = "".join(f"  train.{key}: {list(range(1, 99))}\n" for key in ("steps", "clip", "accumulate"))


class Answer(NamedTuple):
    """What the command line said."""

    code: int | str | None
    out: str
    err: str


Titanlab = Callable[..., Answer]


@pytest.fixture
def titanlab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Titanlab:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["titanlab", *arguments])
        with pytest.raises(SystemExit) as leaving:
            main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return Answer(leaving.value.code or 0, captured.out, captured.err)

    return call


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


CASES = {
    "unknown key": (
        changed("seeds: [0, 1]", "sedes: [0, 1]"),
        ("sweep.yaml:9:1: sedes:", "unknown key 'sedes'", "did you mean 'seeds'?"),
    ),
    "unknown key deep in the base": (
        changed("chunk_size: 4", "chunksize: 4"),
        ("sweep.yaml:3:", "base.model.memory.chunksize:", "did you mean 'chunk_size'?"),
    ),
    "unknown memory": (
        changed("type: titans", "type: titan"),
        ("sweep.yaml:3:", "base.model.memory.type:", "did you mean 'titans'?"),
    ),
    "memory as a word": (
        changed("memory: {type: titans, depth: 1, heads: 1, chunk_size: 4}", "memory: titans"),
        ("base.model.memory:", "expected a mapping", "{type: titans}"),
    ),
    "type that is a list": (
        changed("type: titans", "type: [titans]"),
        ("base.model.memory.type:", "unknown name in memory_modules"),
    ),
    "wrong type": (
        changed("steps: 2", "steps: many"),
        ("sweep.yaml:5:", "base.train.steps:", "expected a whole number, got the text 'many'"),
    ),
    "fraction for a whole number": (
        changed("steps: 2", "steps: 2.5"),
        ("base.train.steps:", "expected a whole number, got 2.5"),
    ),
    "value out of range": (
        changed("steps: 2", "steps: 0"),
        ("base.train.steps:", "expected a number of at least 1, got 0"),
    ),
    "value out of range in an axis": (
        changed("[1, 2]", "[1, 2, 9]"),
        ("sweep.yaml:7:30: axes.model.memory.depth.2:", "at most 4, got 9"),
    ),
    "empty axis": (
        changed("[1, 2]", "[]"),
        ("sweep.yaml:7:", "axes.model.memory.depth:", "at least 1"),
    ),
    "axis that is no list": (
        changed("[1, 2]", "2"),
        ("sweep.yaml:7:", "axes.model.memory.depth:", "expected a list, got 2"),
    ),
    "axis of a key that does not exist": (
        changed("model.memory.momentum: [none", "model.memory.momentun: [none").replace(
            "model.memory.momentum: none}", "model.memory.depth: 1}"
        ).replace("baseline: {model.memory.depth: 1, model", "baseline: {model"),
        ("sweep.yaml:8:3: axes.model.memory.momentun:", "unknown key 'momentun'", "did you mean 'momentum'?"),
    ),
    "axis through a block that does not exist": (
        changed("model.memory.momentum: [none", "model.memori.momentum: [none"),
        ("sweep.yaml:8:3: axes.model.memori.momentum:", "unknown key 'memori'", "did you mean 'memory'?"),
    ),
    "axis through a value": (
        changed("model.memory.momentum: [none", "model.dim.momentum: [none"),
        ("sweep.yaml:8:3: axes.model.dim.momentum:", "'dim' is 16, no block"),
    ),
    "axis of seeds": (
        changed("model.memory.momentum: [none, token]", "train.seed: [1, 2]"),
        ("sweep.yaml:8:3: axes.train.seed:", "`seeds`"),
    ),
    "duplicate key": (
        changed("seeds: [0, 1]", "seeds: [0, 1]\nseeds: 3"),
        ("sweep.yaml:10:1: seeds:", "stands here twice", "line 9"),
    ),
    "off": (
        changed("[none, token]", "[off, token]"),
        (
            "sweep.yaml:8:27: axes.model.memory.momentum.0:",
            "expected 'token', 'chunk', 'constant' or 'none', got the text 'off'",
            "did you mean 'none'?",
        ),
    ),
    "false": (
        changed("[none, token]", "[false, token]"),
        ("axes.model.memory.momentum.0:", "got the boolean false", "did you mean 'none'?"),
    ),
    "nothing": (
        changed("[none, token]", "[null, token]"),
        ("axes.model.memory.momentum.0:", "got nothing (null)", "did you mean 'none'?"),
    ),
    "boolean for a number": (
        changed("steps: 2", "steps: true"),
        ("base.train.steps:", "expected a whole number, got the boolean true"),
    ),
    "boolean for a fraction": (
        changed("steps: 2", "learning_rate: true"),
        ("base.train.learning_rate:", "expected a number, got the boolean true"),
    ),
    "NaN for a number": (
        changed("steps: 2", "learning_rate: .nan"),
        ("base.train.learning_rate:", "expected a finite number, got nan"),
    ),
    "infinity for a number": (
        changed("steps: 2", "learning_rate: 1e999"),
        ("base.train.learning_rate:", "expected a finite number, got inf"),
    ),
    "number in quotes": (
        changed("steps: 2", "learning_rate: '1e-3'"),
        ("base.train.learning_rate:", "expected a number, got the text '1e-3'"),
    ),
    "metric the task does not declare": (
        changed("final/accuracy", "final/acuracy"),
        ("sweep.yaml:11:", "objective.metric:", "unknown metric of the task 'mqar'", "did you mean 'final/accuracy'?"),
    ),
    "metric without its stage": (
        changed("final/accuracy", "accuracy"),
        ("objective.metric:", "did you mean 'final/accuracy'?"),
    ),
    "direction that is none": (
        changed("direction: max", "direction: up"),
        ("sweep.yaml:11:", "objective.direction:", "expected 'max' or 'min', got the text 'up'"),
    ),
    "baseline that is no planned cell": (
        changed("{model.memory.depth: 1,", "{model.memory.depth: 3,"),
        ("sweep.yaml:10:1: baseline:", "names no planned cell", "'depth=1 momentum=none'", "is 1, not 3"),
    ),
    "baseline that is several cells": (
        changed("{model.memory.depth: 1, model.memory.momentum: none}", "{model.memory.depth: 1}"),
        ("baseline:", "names 2 planned cells", "'depth=1 momentum=token'"),
    ),
    "baseline of a misspelt key": (
        changed("{model.memory.depth: 1,", "{model.memory.dept: 1,"),
        ("baseline:", "it has no model.memory.dept (did you mean 'depth'?)"),
    ),
    "model that cannot be built": (
        changed("depth: [1, 2]", "heads: [1, 3]").replace("{model.memory.depth: 1,", "{model.memory.heads: 1,"),
        ("sweep.yaml:7:27: axes.model.memory.heads.1:", "the model cannot be built", "16"),
    ),
    "seeds twice": (changed("seeds: [0, 1]", "seeds: [0, 0]"), ("seeds.1:", "the seed 0 stands here twice")),
    "no seed": (changed("seeds: [0, 1]", "seeds: 0"), ("sweep.yaml:9:", "seeds:", "a count from 1")),
    "negative seed": (changed("seeds: [0, 1]", "seeds: [-1]"), ("seeds.0:", "from 0 to", "got -1")),
    "name of the base": (changed("  train: {", "  name: x\n  train: {"), ("base.name:", "leave this one out")),
    "more than one and a half GPUs": (
        GOOD + "resources: {gpu: 1.5}\n",
        ("resources.gpu:", "a fraction up to 1 or a whole number"),
    ),
    "nothing varied": (
        "name: x\nbase: {}\n",
        ("axes:", "`axes` (dotted key: list of values) or `cells`"),
    ),
    "no base": ("name: x\naxes: {train.steps: [1]}\n", ("base:", "this key is required")),
    "a run, no sweep": ("model: {}\n", ("titanlab train", "`axes`")),
    "empty file": ("", ("is empty",)),
    "a list at the top": ("- a\n", ("sweep.yaml:1:1:", "expected a mapping")),
    "no YAML": ("name: [a, b\nbase: }", ("sweep.yaml:2:", "is not valid YAML")),
    "tab": ("name: x\n\tbase: y", ("sweep.yaml:2:1", "is not valid YAML")),
    "alias bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(9))}]\n" for a, b in pairwise("abcdefghi")),
        ("more than 100000 values",),
    ),
    "alias of itself": ("a: &a [*a]\n", ("an alias refers to the block it stands in",)),
    "deep nesting": ("a: " + "[" * 20_000, ("is nested deeper than 32 levels",)),
    "python object": (
        changed("steps: 2", "steps: !!python/object/apply:os.system ['true']"),
        ("sweep.yaml:5:", "base.train.steps:", "is not allowed"),
    ),
    "merge key": (changed("train: {", "train: {<<: {steps: 1}, "), ("merge keys",)),
    "endless number": (changed("steps: 2", "steps: " + "9" * 5000), ("base.train.steps:", "digits")),
    "too many cells": (
        changed("axes:\n", f"axes:\n{LONG_AXES}"),
        ("sweep.yaml:6:1: axes:", "expected at most 100,000"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("text, expected", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_bad_sweep_is_one_message_with_its_place(
    titanlab: Titanlab, verb: str, text: str, expected: tuple[str, ...]
) -> None:
    Path("sweep.yaml").write_text(text)
    answer = titanlab("sweep", verb, "sweep.yaml")
    assert answer.code == 2
    for words in expected:
        assert words in answer.err
    assert answer.err.startswith("error: sweep.yaml")
    assert len(answer.err.splitlines()) == 1
    assert "Traceback" not in answer.err + answer.out
    assert [path.name for path in Path().iterdir()] == ["sweep.yaml"], "nothing may be written"


def test_every_verb_of_a_good_sweep_passes_the_reading(titanlab: Titanlab) -> None:
    Path("sweep.yaml").write_text(GOOD)
    answer = titanlab("sweep", "plan", "sweep.yaml")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[-1] == "8 trials (4 cells x 2 seeds)"
    assert [path.name for path in Path().iterdir()] == ["sweep.yaml"]


def test_a_small_number_may_be_written_with_an_exponent(titanlab: Titanlab) -> None:
    Path("sweep.yaml").write_text(changed("steps: 2", "learning_rate: 1e-3"))
    assert titanlab("sweep", "plan", "sweep.yaml").code == 0


def write_binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def write_control_characters(path: Path) -> None:
    path.write_bytes(b"name: \x00\x01\n")


def write_huge(path: Path) -> None:
    path.write_bytes(b"# " + b"x" * (1 << 21))


@pytest.mark.parametrize(
    "prepare, expected",
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (write_binary, "is not a text file"),
        (write_control_characters, "is not a text file"),
        (write_huge, "is larger than 1 MiB"),
    ],
    ids=["missing", "folder", "binary", "control characters", "huge"],
)
@pytest.mark.parametrize("verb", [("sweep", "plan"), ("sweep", "run"), ("sweep", "report"), ("train",)], ids=" ".join)
def test_a_file_that_is_no_text_is_one_message(
    titanlab: Titanlab, verb: tuple[str, ...], prepare: Callable[[Path], None], expected: str
) -> None:
    prepare(Path("sweep.yaml"))
    before = list(Path().iterdir())
    answer = titanlab(*verb, "sweep.yaml")
    assert answer.code == 2
    assert answer.err.startswith("error: sweep.yaml") and expected in answer.err
    assert len(answer.err.splitlines()) == 1
    assert list(Path().iterdir()) == before


@pytest.mark.parametrize(
    "option, expected",
    [
        ("base.train.steps=none", "--set base.train.steps=none: base.train.steps: expected a whole number"),
        ("train.steps=none", "--set train.steps=none: base.train.steps: expected a whole number"),
        ("axes.model.memory.depth=[7]", "axes.model.memory.depth.0: expected a number of at most 4, got 7"),
        ("model.memory.depth=2", "varied by an axis"),
        ("sedes=2", "unknown key 'sedes'"),
        ("train.steps", "expected KEY=VALUE"),
        ("baseline.model.memory.depth=4", "names no planned cell"),
    ],
)
def test_a_wrong_override_is_located_at_its_option(titanlab: Titanlab, option: str, expected: str) -> None:
    Path("sweep.yaml").write_text(GOOD)
    answer = titanlab("sweep", "plan", "sweep.yaml", "--set", option)
    assert answer.code == 2
    assert expected in answer.err
    assert len(answer.err.splitlines()) == 1


def test_several_problems_are_told_at_once_and_each_once(titanlab: Titanlab) -> None:
    Path("sweep.yaml").write_text(changed("[1, 2]", "[0, 2, 9]").replace("[none, token]", "[off, token]"))
    answer = titanlab("sweep", "plan", "sweep.yaml")
    places = [line.removeprefix("error: ").split(" ")[1].rstrip(":") for line in answer.err.splitlines()]
    assert sorted(places) == ["axes.model.memory.depth.0", "axes.model.memory.depth.2", "axes.model.memory.momentum.0"]


def test_a_report_before_the_run_says_what_to_do(titanlab: Titanlab) -> None:
    Path("sweep.yaml").write_text(GOOD)
    answer = titanlab("sweep", "report", "sweep.yaml")
    assert answer.code == 2
    assert "titanlab sweep run sweep.yaml" in answer.err
    assert [path.name for path in Path().iterdir()] == ["sweep.yaml"]


def test_a_plugin_that_is_missing_is_one_message(titanlab: Titanlab) -> None:
    Path("sweep.yaml").write_text(GOOD)
    answer = titanlab("sweep", "plan", "sweep.yaml", "--plugin", "mine.py")
    assert answer.code == 2
    assert answer.err == "error: plugin mine.py: cannot be read: No such file or directory\n"


def test_the_installed_command_exits_with_two_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(changed("steps: 2", "steps: true"))
    done = subprocess.run(
        [sys.executable, "-m", "titanlab", "sweep", "run", "sweep.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: sweep.yaml:5:11: base.train.steps: expected a whole number")
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


@pytest.mark.parametrize(
    "key, expected",
    [
        ("base.model.memory.depth", "a key starts within the base: write 'model.memory.depth'"),
        ("chunk_size", "unknown key 'chunk_size'; did you mean 'model.memory.chunk_size'?"),
    ],
)
def test_an_axis_that_is_written_from_the_wrong_place_is_told_its_full_key(
    titanlab: Titanlab, key: str, expected: str
) -> None:
    Path("sweep.yaml").write_text(changed("  model.memory.depth:", f"  {key}:"))
    answer = titanlab("sweep", "plan", "sweep.yaml")
    assert answer.code == 2 and f"axes.{key}: {expected}" in answer.err


def test_resources_that_are_not_there_are_located_in_the_file(titanlab: Titanlab) -> None:
    Path("sweep.yaml").write_text(GOOD)
    answer = titanlab("sweep", "run", "sweep.yaml", "--set", "resources.cpu=4096")
    assert answer.code == 2
    assert answer.err.startswith("error: --set resources.cpu=4096: resources.cpu: a trial wants 4096 CPU cores")
    assert [path.name for path in Path().iterdir()] == ["sweep.yaml"]


def test_a_name_that_no_file_can_have_is_refused(titanlab: Titanlab) -> None:
    assert titanlab("sweep", "plan", "a\x00b").err == "error: 'a\\x00b': is no name of a file\n"


def test_a_report_of_other_settings_than_were_run_keeps_the_one_that_is_there(titanlab: Titanlab) -> None:
    Path("sweep.yaml").write_text(GOOD)
    Path("titanlab-store/sweeps").mkdir(parents=True)
    folder = Path("titanlab-store/sweeps") / load_sweep("sweep.yaml").config.id
    (folder / "report").mkdir(parents=True)
    (folder / "report/report.md").write_text("kept")
    answer = titanlab("sweep", "report", "sweep.yaml", "--set", "train.steps=3")
    assert answer.code == 2 and "repeat the --set options that the sweep was run with" in answer.err
    assert (folder / "report/report.md").read_text() == "kept"
