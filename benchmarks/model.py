"""`titanlab bench model`: training steps of whole models on random tokens, each beside the transformer of its size."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from pydantic import ValidationError

from titanlab.architectures.attention.backend import AttentionName
from titanlab.benchmarks.chip import TERA, Ceilings, chip_of, facts_of, measure_ceilings
from titanlab.benchmarks.followed import Followed
from titanlab.benchmarks.layer import reason, states_note
from titanlab.benchmarks.model_sizes import SIZES, Parts, Size, model_of, option_of
from titanlab.benchmarks.result import Result, Row
from titanlab.benchmarks.timing import begin_peak, free_memory, peak_of
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.config import problems_of
from titanlab.platform.costs import TRAINING, forward_flops, parameters_of
from titanlab.platform.errors import ConfigError, Problem, unknown_name
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.model import ModelConfig
from titanlab.platform.precision import used_precision
from titanlab.platform.run_config import TrainConfig
from titanlab.platform.task import Batch
from titanlab.platform.training.device import (
    check_recordable,
    check_wavefront,
    fuses_kernels,
    own_random_state,
    seed_step,
)
from titanlab.platform.training.losses import check_way, used_way
from titanlab.platform.training.step import TrainingStep

COLUMNS = [
    "architecture", "context", "rows", "parameters", "tokens_per_second", "ratio", "step_ms", "tflops",
    "ceiling_share", "peak_gb", "first_step_s", "loss", "remark",
]  # fmt: skip

BASELINE = "transformer"
SETTINGS = (
    "precision", "accumulate", "loss", "compile", "cuda_graph", "checkpoint_blocks", "wavefront", "keep_states"
)  # fmt: skip
"""Of `train`, that are options here."""
FEWEST, MOST = 3, 200
"""Timed steps."""
RATE = 1e-4
TOLERATED = 0.03
"""Of the transformer's parameters, by which a model may differ without a word."""


@dataclass(frozen=True)
class ModelBenchmark(Followed):
    """What to measure."""

    size: str = "340M"
    architectures: Sequence[str] = ("transformer", "mac", "mag", "mal", "lmm")
    contexts: Sequence[int] = (4096, 16384)
    """Tokens of a row."""
    batch_tokens: int = 16384
    """Tokens of a step: as many rows as fit, one at least."""
    parts: Parts = Parts()
    training: dict[str, Any] = field(default_factory=dict)
    """Settings of `train` other than its defaults: precision, loss, compile, accumulate; `wavefront` not for the
    transformer."""
    seconds: float = 5.0
    """Of timed steps, each model."""

    def settings(self) -> dict[str, Any]:
        """As the JSON file has them."""
        return {**self.plain_settings("parts"), **self.parts.__dict__, **SIZES[self.size]._asdict()}


def bench_model(benchmark: ModelBenchmark, device: torch.device) -> Result:
    """Trains every architecture for some steps at every context, the transformer first.

    Raises:
        ConfigError: an unknown architecture, memory, size or attention, or models that cannot be built.
    """
    _refuse_unknown(benchmark)
    size = SIZES[benchmark.size]
    names = sorted(dict.fromkeys(benchmark.architectures), key=lambda name: name != BASELINE)
    for context in benchmark.contexts:
        _refuse_unusable(training_of(benchmark, context), device)
    models = {name: model_of(name, size, benchmark.parts) for name in names}
    benchmark.tell("ceilings of this device")
    ceilings = measure_ceilings(device, seconds=min(0.5, benchmark.seconds))
    precision = used_precision(benchmark.training.get("precision", "auto"), device)
    facts = facts_of(device, {**benchmark.settings(), "used_precision": precision}, ceilings)
    rows: list[Row] = []
    notes = [*_legend(ceilings, benchmark, device), *_differences(models, size)]
    tokens = sorted({rows_of(benchmark, context) * context for context in benchmark.contexts})
    step = f"{' or '.join(f'{count:,}' for count in tokens)} tokens a step"
    title = f"Training {benchmark.size} models on {chip_of(device)}: {step}, {precision}, {benchmark.parts}"

    def result(*, finished: bool) -> Result:
        return Result(title, COLUMNS, rows, facts, notes, finished)

    benchmark.keep(result(finished=False))
    for context in benchmark.contexts:
        for name, model in models.items():
            benchmark.tell(f"{name} of {benchmark.size}, {context} tokens a row")
            rows.append(measured(name, model, size, context, benchmark, ceilings, device))
            _compare(rows)
            benchmark.keep(result(finished=False))
    return result(finished=True)


def _refuse_unknown(benchmark: ModelBenchmark) -> None:
    if benchmark.size not in SIZES:
        raise ConfigError(Problem(f"--size: {unknown_name('size', benchmark.size, SIZES)}"))
    for name in benchmark.architectures:
        if name not in ARCHITECTURES:
            raise ConfigError(Problem(f"--architectures: {unknown_name('architecture', name, ARCHITECTURES)}"))
    if benchmark.parts.memory not in MEMORY_MODULES:
        raise ConfigError(Problem(f"--memory: {unknown_name('memory', benchmark.parts.memory, MEMORY_MODULES)}"))
    backends = get_args(AttentionName)
    if benchmark.parts.attention not in backends:
        raise ConfigError(Problem(f"--attention: {unknown_name('backend', benchmark.parts.attention, backends)}"))


def _refuse_unusable(train: TrainConfig, device: torch.device) -> None:
    """Refuses before anything is measured what `TrainingStep` would refuse on this device.

    Raises:
        ConfigError: naming the option.
    """
    try:
        check_way(train.loss, device)
        check_wavefront(device)
        fuses_kernels(train, device)
        if train.cuda_graph:
            check_recordable(device)
    except ConfigError as error:
        raise _by_options(error) from None


def _by_options(error: ConfigError) -> ConfigError:
    """The same, but settings that have an option are named as that."""
    settings = {f"train.{name}": option_of((name,)) for name in SETTINGS}
    settings["model.architecture.attention"] = "--attention"
    return ConfigError([replace(problem, path=settings.get(problem.path, problem.path)) for problem in error.problems])


def rows_of(benchmark: ModelBenchmark, context: int) -> int:
    """Rows of a step."""
    return max(1, benchmark.batch_tokens // context)


def training_of(benchmark: ModelBenchmark, context: int) -> TrainConfig:
    """How rows of a context are trained on.

    Raises:
        ConfigError: naming the setting that cannot be used.
    """
    try:
        return TrainConfig.model_validate({**benchmark.training, "batch_size": rows_of(benchmark, context)})
    except ValidationError as error:
        problems = problems_of(error, lambda path: (".".join(("train", *map(str, path))), None))
        raise _by_options(ConfigError(problems)) from None


def measured(
    name: str, model: ModelConfig, size: Size, context: int, benchmark: ModelBenchmark, ceilings: Ceilings,
    device: torch.device,
) -> Row:  # fmt: skip
    """A row; what the training raises becomes its remark."""
    rows = rows_of(benchmark, context)
    row: Row = {
        "architecture": name,
        "context": context,
        "rows": rows,
        "parameters": parameters_of(model, size.vocabulary),
        "feed_forward_expansion": model.expansion,
    }
    try:
        train = training_of(benchmark, context)
        if name == BASELINE:
            train = train.replace(wavefront=0)
        row["used_loss"] = used_way(train.loss, train.batch_size // train.accumulate * context, size.vocabulary)
        row |= training_speed(model, size.vocabulary, context, train, device, benchmark.seconds)
        flops = forward_flops(model, size.vocabulary, context)
        tflops = TRAINING * flops * float(row["tokens_per_second"] or 0) / TERA
        row |= {"flops_per_token": flops, "tflops": tflops, "ceiling_share": tflops / ceilings.matrix_tflops}
    except ConfigError as error:
        raise _by_options(error) from error
    except Exception as error:  # out of memory, or a kernel that refuses: the row says so and the next one is measured
        row["remark"] = f"failed: {reason(error)}"
    free_memory(device)
    return row


def training_speed(
    model: ModelConfig, vocabulary: int, context: int, train: TrainConfig, device: torch.device, seconds: float
) -> Row:
    """Steps as `titanlab train` takes them, rows coming from the CPU; a GPU is waited for at the end alone."""
    free_memory(device)
    begin_peak(device)
    with own_random_state(device):
        torch.manual_seed(train.seed)
        take_step = TrainingStep(model.build(vocabulary).to(device).train(), train, device)
        losses: list[float] = []
        drawn, numbers = torch.Generator().manual_seed(train.seed), itertools.count()

        def steps(count: int) -> float:
            """Seconds of so many steps."""
            began = time.perf_counter()
            for number in itertools.islice(numbers, count):
                batch = random_batch(train.batch_size, context, vocabulary, drawn)
                if number == 0:
                    take_step.prepare(batch)
                seed_step(train.seed, number)
                last = take_step(batch, RATE)
            losses.append(last.nats.item() / last.counted)  # waits for the device
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return time.perf_counter() - began

        first, second = steps(1), steps(1)
        count = max(FEWEST, min(MOST, round(seconds / second)))
        took = steps(count) / count
    return {
        "tokens_per_second": train.batch_size * context / took,
        "step_ms": took * 1e3,
        "steps": count,
        "first_step_s": first,
        "peak_gb": peak_of(device),
        "loss": losses[-1],
        "remark": None if all(map(math.isfinite, losses)) else "the loss is not finite",
    }


def random_batch(rows: int, context: int, vocabulary: int, drawn: torch.Generator) -> Batch:
    """Tokens that mean nothing, each the target of the one before, drawn on the CPU."""
    ids = torch.randint(vocabulary, (rows, context + 1), generator=drawn)
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(rows, context))


def _compare(rows: Sequence[Row]) -> None:
    """Tokens a second over the transformer's of the same context."""
    speeds = {row["context"]: row.get("tokens_per_second") for row in rows if row["architecture"] == BASELINE}
    for row in rows:
        base, own = speeds.get(row["context"]), row.get("tokens_per_second")
        row["ratio"] = own / base if isinstance(base, float) and isinstance(own, float) else None


def _legend(ceilings: Ceilings, benchmark: ModelBenchmark, device: torch.device) -> list[str]:
    notes = [
        f"the most that PyTorch reached in this run: {ceilings}",
        "ratio: tokens a second over those of the transformer at the same context, in this run; above 1 is faster",
        f"tflops: {TRAINING} times the operations of the forward pass (titanlab's own formulas, docs/costs.md)",
        "loss: of the last step on random tokens, to show that it is finite",
    ]
    if BASELINE not in benchmark.architectures:
        notes.append(f"no ratio: {BASELINE} is not among the architectures")
    if benchmark.training.get("keep_states"):
        notes.append(states_note(device))
    if benchmark.training.get("wavefront"):
        pieces = f"pieces of {benchmark.training['wavefront']} tokens, on a GPU several at once where it has room"
        notes.append(f"{pieces}; the {BASELINE}, whose state grows with the row, takes whole rows")
    if device.type == "cuda" and "mac" in benchmark.architectures and not benchmark.training.get("cuda_graph"):
        notes.append("mac: many small kernels, for which the GPU may wait for Python; --cuda-graph replays them")
    return notes


def _differences(models: dict[str, ModelConfig], size: Size) -> list[str]:
    """What has to be said if models differ in size."""
    counts = {name: parameters_of(model, size.vocabulary) for name, model in models.items()}
    base = counts.get(BASELINE) or max(counts.values())
    away = [f"{name} {count / base - 1:+.0%}" for name, count in counts.items() if abs(count / base - 1) > TOLERATED]
    widths = ", ".join(f"{name} {model.expansion:.3g}" for name, model in models.items())
    notes = [f"width of the feed-forward layer over the model's: {widths}"]
    return [*notes, f"PARAMETERS DIFFER: {', '.join(away)}"] if away else notes
