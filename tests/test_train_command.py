"""`titanlab train`: one command to begin, to go on, and to be told what is wrong."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from titanlab.__main__ import main
from titanlab.platform.plugins import load_plugin
from titanlab.platform.run_config import load_config
from titanlab.platform.tracking.journal import read_journal
from titanlab.platform.training.checkpoint import load_model
from titanlab.platform.training.loop import train

PLUGIN = str(Path(__file__).with_name("tiny_kinds.py"))
load_plugin(PLUGIN)

RUN = """
model: {dim: 16, layers: 1, architecture: {type: tiny_block}, memory: {type: tiny_average}}
task: {type: tiny_count}
train: {steps: 20, batch_size: 4, learning_rate: 1e-2, evaluate_every: 10, device: cpu}
"""

Command = Callable[..., int]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are too small to be shared by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls `titanlab train "My run.yaml" ...` in a folder that holds such a file; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My run.yaml").write_text(RUN)

    def call(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["titanlab", "train", "My run.yaml", *options])
        try:
            main()
        except SystemExit as exit:
            return int(exit.code or 0)
        return 0

    return call


def test_a_run_is_trained_and_its_figures_are_shown(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    shown = capsys.readouterr().out
    directory = tmp_path / "titanlab-store" / "runs" / f"my-run-{load_config(tmp_path / 'My run.yaml').key}"
    assert "step 10/20  loss " in shown
    assert "tokens/s" in shown
    assert "val/accuracy" in shown
    assert "final/accuracy" in shown
    assert f"checkpoint: {directory / 'checkpoint'}" in shown
    assert load_model(directory).config.dim == 16


def test_the_same_command_again_says_that_the_run_is_complete(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--store", "s") == 0
    (journal,) = tmp_path.glob("s/runs/*/metrics.jsonl")
    before = journal.read_bytes()
    capsys.readouterr()
    assert command("--store", "s") == 0
    shown = capsys.readouterr().out
    assert "was complete after 20 steps" in shown and "nothing was left to do; --fresh" in shown
    assert "step 10/20" not in shown
    assert journal.read_bytes() == before
    assert command("--store", "s", "--fresh") == 0
    shown = capsys.readouterr().out
    assert "step 10/20" in shown and "nothing was left to do" not in shown
    assert [point.step for point in read_journal(journal)] == [10, 20]
    assert journal.read_bytes() != before


def test_settings_are_changed_on_the_command_line(command: Command, tmp_path: Path) -> None:
    options = (
        "--set",
        "train.steps=3",
        "--set",
        "model.memory={type: tiny_average, keep: 5e-1}",
        "--set",
        "name=other",
    )
    assert command(*options) == 0
    (written,) = tmp_path.glob("titanlab-store/runs/other-*/config.yaml")
    config = load_config(written)
    assert config.train.steps == 3
    assert config.model.memory.settings() == {"type": "tiny_average", "keep": 0.5}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.step=3", "--set train.step=3: train.step: unknown key 'step'; did you mean 'steps'?"),
        ("train.steps=many", "--set train.steps=many: train.steps: "),
        ("train.steps.x=3", "--set train.steps.x=3: train.steps: is no block of settings, so 'x' cannot be set in it"),
        ("train.steps", "--set train.steps: expected KEY=VALUE"),
        ("train..steps=3", "--set train..steps=3: expected KEY=VALUE"),
        ("train.steps=[1", "--set train.steps=[1: train.steps: is not valid YAML"),
        ("model={}\ntask: 3", "the value must be on one line"),
        ("train.learning_rate=.nan", "--set train.learning_rate=.nan: train.learning_rate: "),
        ("train={batch_size: 5, accumulate: 2}", "train.batch_size: must be a multiple of accumulate (2), got 5"),
    ],
)
def test_a_bad_setting_is_one_message_and_nothing_is_written(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert command("--set", override) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["My run.yaml"]


def test_a_diverged_run_ends_with_exit_code_1(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--set", "train.learning_rate=1e30", "--set", "train.clip=0") == 1
    assert "failed: the loss became" in capsys.readouterr().err


def test_signals_stop_a_run_that_the_same_command_takes_up(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes, really killed: SIGTERM, then SIGKILL, then to the end; equal to a run that nobody touched."""
    options = ["--plugin", PLUGIN, "--set", "train.steps=600", "--set", "train.checkpoint_every=7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for sent, awaited, code in ((signal.SIGTERM, 20, 130), (signal.SIGKILL, 150, -9)):
        arguments = [sys.executable, "-m", "titanlab", "train", "My run.yaml", *options]
        process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while last_step(tmp_path) < awaited and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(sent)
        shown, _ = process.communicate(timeout=60)
        assert process.returncode == code
        assert ("the same command goes on from there" in shown) == (sent == signal.SIGTERM)
        assert last_step(tmp_path) < 600
    assert command(*options) == 0
    assert "complete after 600 steps" in capsys.readouterr().out

    (directory,) = tmp_path.glob("titanlab-store/runs/*")
    train(load_config(directory / "config.yaml"), tmp_path / "untouched")
    one, other = (read_journal(each / "metrics.jsonl") for each in (directory, tmp_path / "untouched"))
    assert [point.step for point in one] == [point.step for point in other]
    assert [figures(point.metrics) for point in one] == [figures(point.metrics) for point in other]


def last_step(folder: Path) -> int:
    points = [point for path in folder.glob("titanlab-store/runs/*/metrics.jsonl") for point in read_journal(path)]
    return points[-1].step if points else 0


def figures(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that no clock decides."""
    return {name: value for name, value in metrics.items() if not name.startswith("cost/")}


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--store", "My run.yaml"], "My run.yaml is a file; name a folder with --store"),
        (["--store", "/dev/null/inner"], "lies within /dev/null, which is a file; name a folder with --store"),
        (["--set", f"train.seed={2**64}"], "train.seed: expected a number of at most 4294967295"),
        (
            ["--set", "model.memory={type: titans, heads: 3}"],
            "heads: 3}: model.memory.heads: the model cannot be built: 3 heads do not divide",
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert command(*options) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and expected in shown.err and len(shown.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["My run.yaml"]


def test_a_feed_forward_layer_is_never_empty(command: Command) -> None:
    assert command("--set", "model.expansion=0.001", "--set", "train.steps=2") == 0
