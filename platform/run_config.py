"""The configuration of one run: a model, a task and how to train it - what `titanlab train` takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from titanlab.platform.config import SCHEMA_VERSION, Config, digest, no_result, problems_of, validation_error
from titanlab.platform.errors import ConfigError
from titanlab.platform.extends import resolve_extends
from titanlab.platform.model import ModelConfig
from titanlab.platform.printable import a_line
from titanlab.platform.task import TASKS, TaskConfig
from titanlab.platform.yaml_source import Document, read_yaml

LARGEST_SEED = 2**32 - 1

BudgetUnit: TypeAlias = Literal["steps", "tokens", "flops", "seconds"]
BUDGET_UNITS: tuple[BudgetUnit, ...] = get_args(BudgetUnit)


def _whole(value: Any) -> Any:
    """1e9 as the whole number it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _yaml(value: bool | str) -> str:
    return str(value).lower()


class TrainConfig(Config):
    """AdamW with warm-up and cosine decay."""

    steps: int | None = Field(1000, ge=1, exclude_if=lambda value: value is None)
    """Optimizer steps: the budget of a run, unless another one of `tokens`, `flops` and `seconds` is given instead."""
    tokens: Annotated[int | None, BeforeValidator(_whole)] = Field(None, ge=1, exclude_if=lambda value: value is None)
    """Budget in tokens seen, padding included: as many steps as fit, a step being `batch_size` rows of the task."""
    flops: float | None = Field(None, gt=0, exclude_if=lambda value: value is None)
    """Budget in floating-point operations of training (three forward passes a token): as many steps as fit."""
    seconds: float | None = Field(None, gt=0, exclude_if=lambda value: value is None)
    """Budget in seconds of training steps, evaluation and checkpoints apart; the learning rate follows the clock. The
    only budget whose runs cannot be repeated exactly."""
    batch_size: int = Field(32, ge=1)
    """Rows an optimizer step sees, over all ranks and accumulated parts together."""
    accumulate: int = Field(1, ge=1)
    """Parts a batch is computed in, one after another, to save memory."""
    learning_rate: float = Field(3.0e-3, gt=0)
    """Peak learning rate."""
    final_learning_rate: float = Field(0.1, ge=0, le=1)
    """Learning rate at the last step, as a fraction of the peak."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Fraction of the run over which the learning rate rises linearly."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the mean gradient."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's decay of the mean squared gradient."""
    clip: float = Field(1.0, ge=0)
    """Largest norm of the gradient over all parameters; 0 clips nothing."""
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    """Fixes the initial weights and the order of the data."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 autocast or float32; auto: bfloat16 on a GPU, float32 on a CPU."""
    loss: Literal["auto", "whole", "chunked", "liger"] = no_result("auto")
    """How the loss is computed: from all logits of a part at once; from those of some tokens at a time, which takes
    less memory and gives the same up to rounding; by Liger-Kernel's fused kernel (a GPU; `pip install liger-kernel`).
    auto: chunked where the logits would take more than 256 MB."""
    compile: bool = no_result(False)
    """Whether torch.compile fuses norms, activations and gates into single kernels; the first step then takes longer,
    by up to a minute."""
    cuda_graph: bool = no_result(False)
    """Whether forward and backward pass are recorded once and replayed, so that a GPU is not kept waiting for Python:
    for models of many small kernels. Takes one GPU, and batches of one shape."""
    checkpoint_blocks: bool = no_result(False)
    """Whether the gradient computes each block again rather than keep what it needs: much less memory, and a third
    more arithmetic."""
    wavefront: int = no_result(0, ge=0)
    """Tokens of the pieces that rows are trained in, several at once, each a layer behind the one before; 0: whole
    rows. For few long rows on a GPU, with `cuda_graph` and an architecture whose state is small; best a multiple of its
    segment and the memory's chunk."""
    keep_states: bool = no_result(False)
    """Whether the gradient finds a memory's state before every chunk where the forward pass left it, rather than walk
    through the chunks again: faster, for 2 bytes a number of the state and chunk. For memories of two matrices in
    bfloat16 on a GPU of compute capability 9.0; elsewhere it does nothing."""
    evaluate_every: int = Field(0, ge=0)
    """Steps between evaluations on the validation split; 0: only after the last step."""
    evaluate_test: bool = True
    """Whether the test split is read after the last step; a tuning trial of a sweep never reads it."""
    checkpoint_every: int = no_result(0, ge=0)
    """Steps between checkpoints; 0: ten over the run. The last step always writes one."""
    keep_weights: Literal["last", "best", "none"] = no_result("last")
    """What a complete run keeps beside its metrics: the last weights, those of the evaluation that was best by the
    task's first metric (needs `evaluate_every`), or none. AdamW's state, twice as large, goes in any case."""
    log_every: int = no_result(10, ge=1, le=1000)
    """Steps between lines of metrics."""
    device: Literal["auto", "cpu", "cuda"] = no_result("auto")
    """Where to train; auto: a GPU if there is one."""
    debug: bool = no_result(False)
    """Looks for NaN and infinity in what every memory and block takes and gives and in every gradient, and stops at the
    first, naming the layer; a GPU is waited for each time, so training is slow."""

    @model_validator(mode="after")
    def _best_is_looked_for(self) -> Self:
        if self.keep_weights == "best" and not self.evaluate_every:
            message = "'best' needs evaluations to choose from: set `evaluate_every`, or keep the last"
            raise validation_error("TrainConfig", [(("keep_weights",), message, self.keep_weights)])
        return self

    @model_validator(mode="after")
    def _graph_can_be_recorded(self) -> Self:
        hindering = {
            "debug": "it looks at numbers on the way" if self.debug else "",
            "checkpoint_blocks": "it looks up the random state" if self.checkpoint_blocks else "",
            "loss": "liger counts targets on the way" if self.loss == "liger" else "",
        }
        for setting, reason in hindering.items():
            if self.cuda_graph and reason:
                message = f"cannot be used with `{setting}: {_yaml(getattr(self, setting))}`: {reason}; leave one out"
                raise validation_error("TrainConfig", [(("cuda_graph",), message, True)])
        return self

    @model_validator(mode="after")
    def _pieces_are_kept(self) -> Self:
        if self.wavefront and self.checkpoint_blocks:
            message = "cannot be used with `checkpoint_blocks`: pieces share what is made of weights; leave one out"
            raise validation_error("TrainConfig", [(("wavefront",), message, self.wavefront)])
        return self

    @model_validator(mode="before")
    @classmethod
    def _another_budget_stands_for_steps(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and any(value.get(unit) is not None for unit in BUDGET_UNITS):
            return {"steps": None, **value}
        return value

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        given = [unit for unit in BUDGET_UNITS if getattr(self, unit) is not None]
        if not given:
            message = f"a run has a budget; give one of {', '.join(BUDGET_UNITS)}"
            raise validation_error("TrainConfig", [(("steps",), message, None)])
        if len(given) > 1:
            last = given[-1]
            message = f"a run has one budget, but {' and '.join(given)} are given; leave one out, or set it to null"
            raise validation_error("TrainConfig", [((last,), message, getattr(self, last))])
        return self

    @property
    def budget(self) -> tuple[BudgetUnit, float]:
        """The one budget that is given, and how much of it."""
        return next((unit, value) for unit in BUDGET_UNITS if (value := getattr(self, unit)) is not None)

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch_size % self.accumulate:
            message = f"must be a multiple of accumulate ({self.accumulate}), got {self.batch_size}"
            raise validation_error("TrainConfig", [(("batch_size",), message, self.batch_size)])
        return self


class RunConfig(Config):
    """One complete run."""

    name: Annotated[str, AfterValidator(a_line)] = no_result("run", min_length=1, max_length=200)
    """What the run is called where people read."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    """The model."""
    task: Annotated[SerializeAsAny[TaskConfig], BeforeValidator(TASKS.resolve)] = Field(
        default_factory=lambda: TASKS.resolve({"type": "mqar"})
    )
    """What it learns."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """How it is trained."""

    @property
    def key(self) -> str:
        """The identity of the run: sha256 of what decides its result, 16 hexadecimal digits."""
        return identity_key(self.identity())

    @property
    def cell_key(self) -> str:
        """The identity of the run without its seed: runs of one cell are repetitions of one experiment."""
        return identity_key(self.model_copy(update={"train": self.train.model_copy(update={"seed": 0})}).identity())


def identity_key(identity: dict[str, Any]) -> str:
    """sha256 over the schema version and an identity, shortened to 16 hexadecimal digits."""
    return digest({"schema_version": SCHEMA_VERSION, **identity})[:16]


def load_config(path: str | Path) -> RunConfig:
    """The run that a YAML file describes.

    Raises:
        ConfigError: with file, line, column, dotted path and what was expected.
    """
    return run_config(resolve_extends(read_yaml(path)))


def run_config(document: Document) -> RunConfig:
    """A validated run from a parsed file; see `load_config`."""
    if "base" in document.value:
        raise ConfigError(
            document.problem(
                ("base",), "this file is a sweep: run it with `titanlab sweep run`, or give its `base` alone"
            )
        )
    try:
        return RunConfig.model_validate(document.value)
    except ValidationError as error:
        raise ConfigError(problems_of(error, document.locate)) from None
