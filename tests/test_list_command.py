"""`titanlab list`, and plug-ins by file, by module and by an installed package's entry point, as a user meets them."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from titanlab.__main__ import main
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.task import TASKS

ROOT = Path(__file__).parent.parent
EMA = (ROOT / "examples/ema_memory.py").read_text()


@dataclass(frozen=True)
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line of a refusal."""
        assert self.code == 2 and self.out == ""
        assert self.err.startswith("error: ") and len(self.err.splitlines()) == 1
        return self.err


Titanlab = Callable[..., Answer]


@pytest.fixture
def titanlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Titanlab:
    """The command, called in this process in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["titanlab", *arguments])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture
def installed(tmp_path: Path) -> Titanlab:
    """The command in a process of its own, which sees the packages installed in `site`."""

    def call(*arguments: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "titanlab", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        )  # fmt: skip
        return Answer(done.returncode, done.stdout, done.stderr)

    return call


def install(folder: Path, modules: dict[str, str], *entries: str) -> None:
    """A package `another` as pip leaves it."""
    package, facts = folder / "site/another", folder / "site/another-1.0.dist-info"
    package.mkdir(parents=True)
    facts.mkdir()
    for name, source in {"__init__": "", **modules}.items():
        (package / f"{name}.py").write_text(source)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("\n".join(["[titanlab.memory_modules]", *entries]) + "\n")


def test_everything_registered_is_listed_with_one_line_each(titanlab: Titanlab) -> None:
    answer = titanlab("list")
    assert answer.code == 0 and answer.err == ""
    names = [line.split()[0] for line in answer.out.splitlines()]
    expected = [("memory_modules", MEMORY_MODULES), ("architectures", ARCHITECTURES), ("tasks", TASKS)]
    for kind, registry in expected:
        start = names.index(kind)
        found = [name for name in names[start + 1 : start + 1 + len(registry)] if name in registry]
        assert found == sorted(found) and found


def test_an_entry_shows_each_setting_with_type_default_and_meaning(titanlab: Titanlab) -> None:
    lines = titanlab("list", "memory_modules", "titans").out.splitlines()
    at = lines.index("  depth: int, >= 1, <= 4, default 2")
    assert lines[at + 1] == "      Matrices of the memory's MLP; 1 is a linear memory."
    assert "  momentum: token | chunk | constant | none, default token" in lines
    assert "  keep_start: float | null, > 0, < 1, default null" in lines  # as YAML writes it
    assert "  residual: bool, default false" in lines


def test_the_settings_of_a_block_within_are_shown_too(titanlab: Titanlab) -> None:
    lines = titanlab("list", "tasks", "mqar").out.splitlines()
    at = lines.index("  train_sizes: list of mappings, default []")
    assert lines[at + 2].startswith("      length: int")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["memory"], "unknown kind 'memory'; did you mean 'memory_modules'?"),
        (["memory_modules", "titan"], "unknown name in memory_modules 'titan'; did you mean 'titans'?"),
        (["--plugin", ""], "--plugin is empty; expected FILE.py or package.module"),
        (["--plugin", ".mine"], "plugin .mine: expected FILE.py or package.module"),
        (["--plugin", "sys"], "plugin sys: it is built in or a folder, and so holds no Python source"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_one_line(titanlab: Titanlab, arguments: list[str], expected: str) -> None:
    assert expected in titanlab("list", *arguments).refusal


def test_a_file_is_named_once_in_its_refusal(titanlab: Titanlab, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(EMA.replace('"ema"', '"titans"'))
    line = titanlab("list", "--plugin", "mine.py").refusal
    assert line.startswith("error: plugin mine.py: cannot register 'titans' in memory_modules: the name is taken by ")


def test_an_installed_package_brings_its_memories_and_a_broken_one_hides_no_other(
    installed: Titanlab, tmp_path: Path
) -> None:
    modules = {
        "good": EMA,
        "leaves": "import sys\nsys.exit(3)\n",
        "lacks": "import nothing_like_it\n",
        "unfinished": EMA.replace('"ema"', '"unfinished"').replace("def read(", "def reed("),
    }
    install(
        tmp_path, modules, "ema = another.good:EmaConfig", "leaves = another.leaves:Mine", "lacks = another.lacks:Mine",
        "absent = another.good:Mine", "wrong = another.good:EmaMemory", "unfinished = another.unfinished:EmaConfig",
    )  # fmt: skip
    listed = installed("list", "memory_modules")
    assert listed.code == 0 and listed.err == ""
    lines = {line.split()[0]: line for line in listed.out.splitlines()}
    assert lines["ema"].endswith("A vector that follows what it is shown: state = keep state + (1 - keep) x.")
    assert "titans" in lines
    for name, cause in {
        "leaves": "(another.leaves:Mine) failed to import: SystemExit: 3",
        "lacks": "(another.lacks:Mine) failed to import: ModuleNotFoundError: No module named 'nothing_like_it'",
        "absent": "(another.good:Mine) failed to import: AttributeError",
        "wrong": "EmaMemory must be a subclass of MemoryConfig",
    }.items():
        assert "cannot be used: " in lines[name] and cause in lines[name]
    assert "failed to import: SystemExit: 3" in installed("list", "memory_modules", "leaves").refusal

    (tmp_path / "run.yaml").write_text("model: {memory: {type: unfinished}}\n")
    line = installed("train", "run.yaml").refusal
    assert line.startswith("error: run.yaml:1:1: model: the model cannot be built: TypeError: ")
    assert "EmaMemory" in line and "read" in line
    assert not (tmp_path / "titanlab-store").exists()


def test_an_installed_package_that_takes_a_name_of_titanlab_is_blamed(installed: Titanlab, tmp_path: Path) -> None:
    install(tmp_path, {"good": EMA}, "titans = another.good:EmaConfig")
    line = installed("list").refusal
    assert "the installed package 'another' registers 'titans'" in line
    assert "taken by TitansConfig in " in line and "titans.py" in line
