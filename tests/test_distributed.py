"""Two ranks started by torchrun give the losses of one process."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from titanlab.platform.plugins import load_plugin
from titanlab.platform.run_config import RunConfig, load_config
from titanlab.platform.tracking.journal import read_journal
from titanlab.platform.training.loop import train

PLUGIN = str(Path(__file__).with_name("tiny_kinds.py"))
load_plugin(PLUGIN)

RUN = """
name: ranks
model: {dim: 16, layers: 2, architecture: {type: tiny_block, dropout: 0.0}, memory: {type: tiny_average}}
task: {type: tiny_count}
train: {steps: 12, batch_size: 8, accumulate: 2, log_every: 1, learning_rate: 0.01, device: cpu, precision: float32}
"""


def torchrun(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`torchrun --standalone --nproc_per_node 2 -m titanlab train run.yaml`."""
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *ranks, "-m", "titanlab", "train", "run.yaml", "--plugin", PLUGIN, *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "run.yaml").write_text(RUN)
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> RunConfig:
    return load_config(folder / "run.yaml")


def test_two_ranks_resume_and_give_the_losses_of_one_process(folder: Path, config: RunConfig) -> None:
    # One process begins; two ranks go on from its checkpoint.
    whole, shared = folder / "whole", folder / "store" / "runs" / f"ranks-{config.key}"
    answers = iter([False] * 4 + [True])
    assert train(config, shared, should_stop=lambda: next(answers)).step == 5
    result = torchrun(folder, "--store", "store")
    assert result.returncode == 0, result.stderr
    assert "unused" not in result.stderr + result.stdout
    assert "Warning" not in result.stderr
    assert result.stdout.count("complete after 12 steps") == 1

    train(config, whole)
    one, two = read_journal(whole / "metrics.jsonl"), read_journal(shared / "metrics.jsonl")
    assert [point.step for point in two] == list(range(1, 13))
    for expected, point in zip(one, two, strict=True):
        for name in ("train/loss", "train/gradient_norm"):
            assert point.metrics[name] == pytest.approx(expected.metrics[name], rel=2e-6), (point.step, name)
    assert two[-1].metrics["final/loss"] == pytest.approx(one[-1].metrics["final/loss"], rel=1e-5)
    weights = load_file(shared / "checkpoint" / "model.safetensors")
    for name, tensor in load_file(whole / "checkpoint" / "model.safetensors").items():
        assert (tensor - weights[name]).abs().max() < 1e-5, name


def test_a_batch_that_ranks_cannot_share_is_refused(folder: Path) -> None:
    result = torchrun(folder, "--store", "refused", "--set", "train.batch_size=6")
    assert result.returncode != 0
    assert "train.batch_size: 6 rows cannot be shared evenly by 2 ranks with `accumulate: 2`" in result.stderr
    assert not (folder / "refused").exists()
