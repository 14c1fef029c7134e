"""Training: the same seed gives the same numbers, whatever interrupts it."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from titanlab.platform.errors import CheckpointError, ConfigError, NonFiniteLossError, TitanlabError
from titanlab.platform.plugins import load_plugin
from titanlab.platform.run_config import RunConfig, TrainConfig, load_config
from titanlab.platform.task import TASKS
from titanlab.platform.tracking.journal import read_journal
from titanlab.platform.training.checkpoint import load_model
from titanlab.platform.training.loop import Outcome, Progress, train
from titanlab.platform.training.optimizer import AdamW
from titanlab.platform.training.run_directory import claimed
from titanlab.platform.training.schedule import learning_rate


@pytest.fixture(scope="module", autouse=True)
def tiny_kinds() -> None:
    """Registered when the tests run: tests of every registered kind are collected before."""
    load_plugin(str(Path(__file__).with_name("tiny_kinds.py")))


def tiny(**settings: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {
                "dim": 16,
                "layers": 1,
                "architecture": {"type": "tiny_block"},
                "memory": {"type": "tiny_average"},
            },
            "task": {"type": "tiny_count"},
            "train": {
                "steps": 25,
                "batch_size": 4,
                "log_every": 10,
                "learning_rate": 0.01,
                "device": "cpu",
                **settings,
            },
        }
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are too small to be shared by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stop_after(steps: int) -> Any:
    answers = iter([False] * (steps - 1) + [True])
    return lambda: next(answers)


def deterministic(directory: Path) -> list[tuple[int, dict[str, float]]]:
    """The journal without what a clock decides."""
    return [
        (point.step, {name: value for name, value in point.metrics.items() if name not in CLOCKED})
        for point in read_journal(directory / "metrics.jsonl")
    ]


CLOCKED = {"cost/tokens_per_second", "cost/seconds"}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "checkpoint" / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    assert deterministic(one) == deterministic(other)
    assert weights(one).keys() == weights(other).keys()
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """An uninterrupted run that evaluates on its way."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return directory, train(tiny(evaluate_every=15), directory)


def test_a_run_leaves_its_configuration_metrics_and_model(finished: tuple[Path, Outcome]) -> None:
    directory, outcome = finished
    assert load_config(directory / "config.yaml") == tiny(evaluate_every=15)
    lines = dict(deterministic(directory))
    assert list(lines) == [10, 15, 20, 25]
    assert lines[10].keys() == {"train/loss", "train/learning_rate", "train/gradient_norm", "cost/flops"}
    assert lines[15].keys() == {"val/loss", "val/accuracy"}
    assert outcome.status == "complete"
    assert outcome.step == 25
    assert outcome.data_digest == "d1e5" * 16
    assert outcome.metrics.keys() == {
        *("train/loss", "train/learning_rate", "train/gradient_norm"),
        *("val/loss", "val/accuracy", "final/loss", "final/accuracy"),
        *("cost/tokens_per_second", "cost/seconds", "cost/parameters", "cost/flops", "cost/flops_per_token"),
        *("cost/state_bytes", "memory/state_bytes", "cost/tokens", "cost/steps"),
    }
    assert outcome.metrics == read_journal(directory / "metrics.jsonl")[-1].metrics
    assert outcome.metrics["memory/state_bytes"] == 16 * 4


def test_the_loss_of_a_line_is_the_mean_over_its_steps(tmp_path: Path) -> None:
    train(tiny(log_every=1, steps=4), tmp_path / "each")
    train(tiny(log_every=4, steps=4), tmp_path / "all")
    task = TASKS.resolve({"type": "tiny_count"}).build()
    counts = [float(batch.mask.sum()) for batch, _ in zip(task.train_batches(0, 4), range(4), strict=False)]
    losses = [point.metrics["train/loss"] for point in read_journal(tmp_path / "each" / "metrics.jsonl")]
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert read_journal(tmp_path / "all" / "metrics.jsonl")[0].metrics["train/loss"] == pytest.approx(
        expected, rel=1e-12
    )


def test_a_run_learns(tmp_path: Path) -> None:
    outcome = train(tiny(steps=150, batch_size=16), tmp_path / "run")
    assert outcome.metrics["final/accuracy"] > 0.95
    assert outcome.metrics["final/loss"] < 0.3


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    finished: tuple[Path, Outcome], tmp_path: Path
) -> None:
    torch.rand(7)  # whatever the program did before
    train(tiny(evaluate_every=15), tmp_path / "again")
    assert_same_run(finished[0], tmp_path / "again")
    train(tiny(evaluate_every=15, seed=1), tmp_path / "other")
    assert deterministic(finished[0]) != deterministic(tmp_path / "other")


def test_training_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(tiny(steps=2), tmp_path / "run")
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("step", [1, 4, 10, 13, 24])
def test_a_run_interrupted_anywhere_ends_as_the_uninterrupted_one(
    finished: tuple[Path, Outcome], tmp_path: Path, step: int
) -> None:
    directory = tmp_path / "run"
    stopped = train(tiny(evaluate_every=15), directory, should_stop=stop_after(step))
    assert (stopped.status, stopped.step) == ("stopped", step)
    outcome = train(tiny(evaluate_every=15), directory)
    assert outcome.status == "complete"
    assert_same_run(finished[0], directory)


class Killed(BaseException):
    """Nothing that code would catch."""


@pytest.mark.parametrize("step", [2, 12, 24, 25])
def test_a_run_killed_anywhere_repeats_no_line_and_ends_as_the_uninterrupted_one(
    finished: tuple[Path, Outcome], tmp_path: Path, step: int
) -> None:
    directory = tmp_path / "run"

    def kill(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    with pytest.raises(Killed):
        train(tiny(evaluate_every=15, checkpoint_every=5), directory, observe=kill)
    train(tiny(evaluate_every=15), directory)
    assert_same_run(finished[0], directory)


def test_a_kill_during_the_last_evaluation_costs_only_the_evaluation(
    finished: tuple[Path, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    task = type(TASKS.resolve({"type": "tiny_count"}).build())
    evaluate = task.evaluate

    def kill(self: Any, model: Any, split: str) -> dict[str, float]:
        if split == "test":
            raise Killed
        return evaluate(self, model, split)

    with monkeypatch.context() as patch:
        patch.setattr(task, "evaluate", kill)
        with pytest.raises(Killed):
            train(tiny(evaluate_every=15), directory)
    monkeypatch.setattr(task, "train_batches", lambda *arguments, **keywords: pytest.fail("it trained again"))
    train(tiny(evaluate_every=15), directory)
    assert_same_run(finished[0], directory)


def test_a_complete_run_is_returned_without_training(
    finished: tuple[Path, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, outcome = finished
    monkeypatch.setattr(type(tiny().task), "build", lambda self: pytest.fail("it read the data"))
    assert train(tiny(evaluate_every=15), directory) == outcome


def test_another_configuration_is_refused_and_what_does_not_change_the_result_is_not(tmp_path: Path) -> None:
    train(tiny(), tmp_path, should_stop=stop_after(3))
    with pytest.raises(CheckpointError, match="another configuration"):
        train(tiny(learning_rate=0.02), tmp_path)
    assert train(tiny(checkpoint_every=7), tmp_path).status == "complete"


def test_a_directory_is_trained_by_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titanlab.platform.training.run_directory.PATIENCE", 0.05)
    with claimed(tmp_path), pytest.raises(TitanlabError, match="another process"):
        train(tiny(), tmp_path)


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    model = {"model": {**tiny().settings()["model"], "architecture": {"type": "tiny_block", "dropout": 0.0}}}
    for parts in (1, 2, 4):
        config = RunConfig.model_validate({**tiny(steps=5, log_every=1, accumulate=parts).settings(), **model})
        train(config, tmp_path / str(parts))
    whole = read_journal(tmp_path / "1" / "metrics.jsonl")
    for parts in (2, 4):
        for one, other in zip(whole, read_journal(tmp_path / str(parts) / "metrics.jsonl"), strict=True):
            assert other.metrics["train/loss"] == pytest.approx(one.metrics["train/loss"], rel=1e-6)
            assert other.metrics["train/gradient_norm"] == pytest.approx(one.metrics["train/gradient_norm"], rel=1e-5)


def test_a_batch_that_parts_cannot_share_is_refused_when_it_is_read() -> None:
    with pytest.raises(ValueError, match=r"multiple of accumulate \(3\), got 4"):
        tiny(accumulate=3)


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"train\.device"):
        train(tiny(device="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_diverged_run_says_where_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    config = tiny(learning_rate=1e30, clip=0.0, checkpoint_every=1, final_learning_rate=1.0, warmup=0.0)
    with pytest.raises(
        NonFiniteLossError, match=r"at step \d of 25; the last finite loss was 2\.\d+, the learning rate"
    ):
        train(config, tmp_path)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    assert all(math.isfinite(value) for _, metrics in deterministic(tmp_path) for value in metrics.values())
    with pytest.raises(NonFiniteLossError):
        train(config, tmp_path)


def test_weights_that_became_non_finite_are_never_written(tmp_path: Path) -> None:
    def poison(progress: Progress) -> None:
        if progress.step == 8:
            for parameter in models[0].parameters():
                parameter.data.fill_(math.nan)

    models: list[torch.nn.Module] = []
    build = type(tiny().model).build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tiny().model), "build", lambda self, size: models.append(build(self, size)) or models[-1])
        with pytest.raises(NonFiniteLossError):
            train(tiny(checkpoint_every=4), tmp_path, observe=poison)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


def test_progress_is_reported_at_every_step(tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(tiny(), tmp_path, observe=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 26))
    assert all(progress.steps == 25 and math.isfinite(progress.loss) for progress in seen)
    assert [progress.step for progress in seen if progress.metrics] == [10, 20, 25]
    assert seen[5].tokens_per_second > 0
    assert seen[-1].seconds_left == 0


def test_bfloat16_trains_and_keeps_float32_weights(tmp_path: Path) -> None:
    outcome = train(tiny(steps=3, precision="bfloat16"), tmp_path)
    assert math.isfinite(outcome.metrics["final/loss"])
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_last_value() -> None:
    config = TrainConfig(steps=100, warmup=0.1, learning_rate=2.0, final_learning_rate=0.25)
    rates = [learning_rate(step, 100, config) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == 2.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[54] == pytest.approx(2.0 * (0.25 + 0.75 / 2))
    assert rates[99] == pytest.approx(0.5)
    assert learning_rate(1, 1, TrainConfig(steps=1)) > 0


def test_only_matrices_that_are_no_embeddings_decay() -> None:
    assert AdamW(tiny().model.build(16), tiny().train).decayed == {
        "blocks.0.memory.write.weight",
        "feed_forwards.0.up.weight",
        "feed_forwards.0.down.weight",
        "head.weight",
    }


def test_an_update_is_the_one_of_torch_bit_for_bit() -> None:
    config = tiny(weight_decay=0.3, clip=0.5).train
    models = [nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    matrices, biases = ([p for p in models[1].parameters() if (p.ndim == 2) == wanted] for wanted in (True, False))
    ours = AdamW(models[0], config)
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": biases, "weight_decay": 0.0}]
    torchs = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), fused=True)
    for step in range(1, 6):
        for model in models:
            model(torch.full((2, 5), float(step))).square().sum().backward()
        norm = nn.utils.clip_grad_norm_(models[1].parameters(), config.clip)
        for group in torchs.param_groups:
            group["lr"] = 0.1 * step
        torchs.step()
        torchs.zero_grad()
        assert torch.equal(ours.update(0.1 * step), norm)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_trained_model_is_loaded_from_its_directory(finished: tuple[Path, Outcome]) -> None:
    directory, outcome = finished
    model = load_model(directory)
    assert not model.training
    with torch.no_grad():
        metrics = tiny().task.build().evaluate(model, "test")
    assert metrics["loss"] == outcome.metrics["final/loss"]
