"""`titanlab new` writes plug-ins that keep their promises at once, and never writes over anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from titanlab.__main__ import main
from titanlab.commands.new import KINDS
from titanlab.platform.plugins import load_plugin
from titanlab.platform.registry import withdraw_everywhere
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan

ROOT = Path(__file__).parent.parent


def titanlab(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["titanlab", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of each kind: begun_memory, begun_architecture, begun_task."""
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        assert titanlab(monkeypatch, "new", kind, f"begun_{kind}") == 0
    return tmp_path


def test_it_writes_three_files_and_says_what_to_type_next(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert titanlab(monkeypatch, "new", "memory", "other", "--folder", "deep er/folder") == 0
    assert {path.name for path in (begun / "deep er/folder").iterdir()} == {"other.py", "test_other.py", "other.yaml"}
    assert capsys.readouterr().out.splitlines()[2:] == [
        "  titanlab check 'deep er/folder/other.py'",
        "  python -m pytest 'deep er/folder/test_other.py'",
        "  titanlab sweep run 'deep er/folder/other.yaml' --plugin 'deep er/folder/other.py'",
        "  titanlab sweep report 'deep er/folder/other.yaml' --plugin 'deep er/folder/other.py'",
    ]
    assert len(list(begun.glob("*.*"))) == 9
    for path in begun.rglob("*.*"):
        assert "template" not in path.read_text().lower(), f"{path} still speaks of the template"


def test_the_tests_it_writes_pass(begun: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(begun)],
        cwd=begun, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"\b12 passed", done.stdout), done.stdout


@pytest.mark.slow
def test_the_tests_it_writes_can_fail(begun: Path) -> None:
    for kind, right, wrong in (
        ("memory", "TemplateState(matrix, before[:, -1])", "TemplateState(matrix, before[:, 0])"),
        ("task", "whole[:, 1:]", "whole[:, :-1]"),
    ):
        plugin = begun / f"begun_{kind}.py"
        right, wrong = (text.replace("Template", f"Begun{kind.title()}") for text in (right, wrong))
        assert right in plugin.read_text()
        plugin.write_text(plugin.read_text().replace(right, wrong))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_begun_memory.py", "test_begun_task.py"],
        cwd=begun, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cut anywhere, same outputs: failed" in done.stdout and "test_an_oracle_scores_one" in done.stdout


@pytest.mark.parametrize("kind", ["memory", "architecture"])
def test_its_check_passes(
    begun: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert titanlab(monkeypatch, "check", f"begun_{kind}.py") == 0
    assert f"begun_{kind}: {18 if kind == 'memory' else 16} passed, 0 failed" in capsys.readouterr().out
    forget(begun / f"begun_{kind}.py")


def forget(file: Path) -> None:
    plugin = load_plugin(str(file))
    module = f"titanlab_plugin_{plugin.name}_{plugin.digest[:12]}"
    withdraw_everywhere(module)
    del sys.modules[module]


@pytest.mark.parametrize("kind", KINDS)
def test_its_sweep_plans_two_trials(begun: Path, kind: str) -> None:
    load_plugin(str(begun / f"begun_{kind}.py"))
    plan = make_plan(load_sweep(begun / f"begun_{kind}.yaml"))
    assert len(plan.trials) == 2 and plan.baseline is not None
    assert any(f"begun_{kind}" in str(trial.config.settings()) for trial in plan.trials)
    forget(begun / f"begun_{kind}.py")


@pytest.mark.slow
def test_its_sweep_runs_at_once_and_the_memory_learns(begun: Path) -> None:
    command = [sys.executable, "-m", "titanlab", "sweep", "run", "begun_memory.yaml", "--plugin", "begun_memory.py"]
    done = subprocess.run(
        [*command, "--executor", "local"],
        cwd=begun, capture_output=True, text=True, timeout=240, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 trials complete" in done.stdout + done.stderr
    accuracy = re.search(r"memory=begun_memory.*accuracy ([\d.]+)", done.stdout + done.stderr)
    assert accuracy and float(accuracy[1]) > 0.5, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("memory", "titans"), "the name 'titans' is taken in memory_modules; taken are "),
        (("task", "mqar"), "the name 'mqar' is taken in tasks"),
        (("task", "torch"), "torch.py would hide the Python module 'torch'"),
        (("memory", "my-memory"), "'my-memory' names no Python file: expected letters, digits and '_'"),
        (("memory", "3x"), "'3x' names no Python file"),
        (("memory", "class"), "'class' names no Python file"),
        (("memory", "../away"), "'../away' names no Python file"),
        (("memory", "memory"), "its class would be called MemoryConfig"),
        (("task", "f"), "its class would be called F,"),
        (("task", "none"), "its class would be called None,"),
        (("memroy", "x"), "unknown kind 'memroy'; did you mean 'memory'?"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_name_that_would_not_do_is_refused_and_nothing_is_written(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert titanlab(monkeypatch, "new", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_mine.py").write_text("precious")
    assert titanlab(monkeypatch, "new", "memory", "mine") == 2
    assert "test_mine.py: already there; nothing was written" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("test_mine.py", "precious")]


PYTHON = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/extending.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", PYTHON, ids=range(len(PYTHON)))
def test_the_python_of_the_document_runs(text: str) -> None:
    exec(compile(text, "extending.md", "exec"), {"__name__": "extending"})
    withdraw_everywhere("extending")
