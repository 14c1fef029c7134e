"""What stays of a complete run's weights, and what makes room while it goes on."""

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from titanlab.platform.errors import CheckpointError, ConfigError
from titanlab.platform.plugins import load_plugin
from titanlab.platform.run_config import RunConfig, TrainConfig
from titanlab.platform.task import smaller_is_better
from titanlab.platform.tracking.journal import read_journal
from titanlab.platform.training.checkpoint import load_model
from titanlab.platform.training.loop import Outcome, train


@pytest.fixture(scope="module", autouse=True)
def tiny_kinds() -> None:
    """Registered when the tests run: tests of every registered kind are collected before."""
    load_plugin(str(Path(__file__).with_name("tiny_kinds.py")))


TINY = {"type": "tiny_average"}


def tiny(**train_settings: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {
                "dim": 16,
                "layers": 1,
                "architecture": {"type": "tiny_block"},
                "memory": {"type": "tiny_average"},
            },
            "task": {"type": "tiny_count"},
            "train": {"steps": 12, "batch_size": 4, "device": "cpu", "checkpoint_every": 3, **train_settings},
        }
    )


def stopped_at(step: int, config: RunConfig, directory: Path) -> Outcome:
    steps = iter(range(1, step + 1))
    return train(config, directory, should_stop=lambda: next(steps) == step)


def weights_step(directory: Path) -> int:
    with safe_open(str(directory / "checkpoint" / "model.safetensors"), framework="pt") as stream:
        return int(stream.metadata()["step"])


def test_a_complete_run_keeps_its_last_weights_and_nothing_of_the_optimizer(tmp_path: Path) -> None:
    assert stopped_at(7, tiny(), tmp_path).status == "stopped"
    going_on = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoint", "checkpoint.old"} <= going_on and (tmp_path / "checkpoint" / "training.pt").exists()
    assert train(tiny(), tmp_path).status == "complete"
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {
        *("checkpoint", "config.yaml", "metrics.jsonl", "outcome.json"),
    }
    assert {path.name for path in (tmp_path / "checkpoint").iterdir()} == {"model.safetensors", "sha256.json"}
    assert weights_step(tmp_path) == 12
    load_model(tmp_path)


def test_a_run_that_keeps_none_has_metrics_and_settings_only(tmp_path: Path) -> None:
    outcome = train(tiny(keep_weights="none"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {"config.yaml", "metrics.jsonl", "outcome.json"}
    assert train(tiny(keep_weights="none"), tmp_path) == outcome
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_model(tmp_path)


def test_a_run_that_keeps_the_best_has_the_weights_of_its_best_evaluation_also_if_it_was_interrupted(
    tmp_path: Path,
) -> None:
    # So high a rate that the last weights are not the best ones.
    config = tiny(keep_weights="best", evaluate_every=2, learning_rate=20.0, final_learning_rate=1.0)
    assert stopped_at(7, config, tmp_path).status == "stopped"
    train(config, tmp_path)
    values = {point.step: point.metrics["val/loss"] for point in read_journal(tmp_path / "metrics.jsonl")
              if "val/loss" in point.metrics}  # fmt: skip
    assert sorted(values) == [2, 4, 6, 8, 10, 12]
    assert weights_step(tmp_path) == min(values, key=lambda step: values[step]) != 12
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint"]
    load_model(tmp_path)


def test_the_best_needs_evaluations() -> None:
    with pytest.raises((ConfigError, ValueError), match="'best' needs evaluations to choose from"):
        TrainConfig(keep_weights="best")


def test_what_is_kept_is_no_part_of_the_identity() -> None:
    assert tiny().key == tiny(keep_weights="none").key


def test_a_damaged_outcome_is_said_and_the_run_is_finished_again(tmp_path: Path) -> None:
    before = train(tiny(), tmp_path)
    (tmp_path / "outcome.json").write_text('{"status": "comp')
    said: list[str] = []
    after = train(tiny(), tmp_path, warn=said.append)
    assert "outcome.json: is damaged" in said[0]
    costs = ("cost/seconds", "cost/tokens_per_second")
    assert {k: v for k, v in after.metrics.items() if k not in costs} == {
        k: v for k, v in before.metrics.items() if k not in costs
    }
    steps = [point.step for point in read_journal(tmp_path / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_the_name_of_a_metric_says_which_way_is_better() -> None:
    assert all(map(smaller_is_better, ("val/loss", "final/bits_per_byte", "cost/seconds")))
    assert not any(map(smaller_is_better, ("val/accuracy", "cost/tokens_per_second")))
