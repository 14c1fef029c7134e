"""The language of a sweep: one complete run, what is varied in it, and how the outcomes are compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from titanlab.platform.config import Config, digest, problems_of, shown_value, validation_error
from titanlab.platform.errors import ConfigError
from titanlab.platform.files import slug
from titanlab.platform.overrides import apply_overrides
from titanlab.platform.run_config import LARGEST_SEED
from titanlab.platform.yaml_source import Document, parse_yaml, read_text

MAX_SEEDS = 1000


class Objective(Config):
    """What the cells are ranked by."""

    metric: str | None = None
    """A metric of the task after the last step (`final/accuracy`), at the last evaluation (`val/accuracy`) or a cost
    (`cost/seconds`); by default the first metric the task declares, as `final/...`."""
    direction: Literal["max", "min"] | None = None
    """Whether more or less of it is better; by default `min` for losses, bits, perplexities and costs, else `max`."""


class Resources(Config):
    """What one trial occupies while it runs."""

    cpu: float = Field(1.0, gt=0, le=4096)
    """CPU cores of a trial; a fraction lets several trials share a core."""
    gpu: float = Field(0.0, ge=0, le=4096)
    """GPUs of a trial; a fraction lets several trials share a GPU (its memory is shared without isolation)."""
    retries: int = Field(2, ge=0, le=100)
    """How often a trial that lost its process starts again from its checkpoint; wrong settings are never retried."""

    @model_validator(mode="after")
    def _whole_above_one(self) -> Self:
        for name in ("cpu", "gpu"):
            amount = getattr(self, name)
            if amount > 1 and amount != int(amount):
                message = f"expected a fraction up to 1 or a whole number, got {amount}"
                raise validation_error("Resources", [((name,), message, amount)])
        return self


def _seeds(value: Any) -> Any:
    """A count or a list as the tuple of seeds it stands for."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(f"expected a count from 1 to {MAX_SEEDS} or a list of seeds, got {value}")
        return tuple(range(value))
    if not isinstance(value, list):
        raise ValueError(f"expected a count or a list of seeds, as in `2` or `[0, 1]`, got {shown_value(value)}")
    if not 1 <= len(value) <= MAX_SEEDS:
        raise ValueError(f"expected 1 to {MAX_SEEDS} seeds, got {len(value)}")
    for index, seed in enumerate(value):
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
            message = f"expected a whole number from 0 to {LARGEST_SEED}, got {shown_value(seed)}"
            raise validation_error("seeds", [((index,), message, seed)])
        if seed in value[:index]:
            raise validation_error("seeds", [((index,), f"the seed {seed} stands here twice", seed)])
    return tuple(value)


class SweepConfig(Config):
    """A sweep as its file writes it; only `name`, `base` and `axes` (or `cells`) are required."""

    name: str = Field(min_length=1, max_length=200)
    """What the sweep is called; its folder in the store is this name in small letters, digits and dashes."""
    base: dict[str, Any]
    """One complete run - model, task and train - that every cell starts from."""
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Dotted key of a run to the list of values it takes; the grid is their product. A mapping replaces its block."""
    cells: list[dict[str, Any]] = Field(default_factory=list)
    """Explicit cells beside the grid, each a mapping from dotted keys to values; what it leaves out is as in `base`."""
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = ()
    """How many seeds each cell runs with, or which; by default the one of `base.train.seed`."""
    baseline: dict[str, Any] | None = None
    """Settings that name exactly one cell; the report says how far every other cell is from it."""
    objective: Objective = Field(default_factory=Objective)
    """What the cells are ranked by."""
    resources: Resources = Field(default_factory=Resources)
    """What one trial occupies."""

    @model_validator(mode="after")
    def _varies_something(self) -> Self:
        if not self.axes and not self.cells:
            message = (
                "a sweep varies something: give `axes` (dotted key: list of values) or `cells` (a list of mappings)"
            )
            raise validation_error("SweepConfig", [(("axes",), message, self.axes)])
        return self

    @property
    def id(self) -> str:
        """The name as a folder: small letters, digits and dashes."""
        # A name without one Latin letter or digit would share its folder with every other such name.
        has_latin = re.search(r"[a-z0-9]", self.name.lower()) is not None
        return slug(self.name) if has_latin else f"sweep-{digest(self.name)[:8]}"


@dataclass(frozen=True)
class Sweep:
    """A validated sweep file, with where each of its settings stands."""

    config: SweepConfig
    document: Document
    text: str
    """The file as it was written, before `--set`."""

    @property
    def file(self) -> str:
        """The path it was read from."""
        return self.document.file


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Reads a sweep file.

    Args:
        path: the YAML file.
        overrides: `a.b=c` texts of `--set`; a key of the run (`train.steps=100`) means the same as `base.train.steps`.

    Raises:
        ConfigError: with file, line, column, dotted path and what was expected.
    """
    text = read_text(path)
    document = parse_yaml(text, str(path))
    if "base" not in document.value and {"model", "task", "train"} & set(document.value):
        message = "this file is a single run: run it with `titanlab train`, or put it under `base` and add `axes`"
        raise ConfigError(document.problem((), message))
    in_sweep = [override for override in overrides if _first_key(override) in SweepConfig.model_fields]
    in_run = [override for override in overrides if override not in in_sweep]
    document = apply_overrides(document, in_sweep, dotted_blocks=("axes", "baseline"))
    document = apply_overrides(document, in_run, root=("base",))
    try:
        config = SweepConfig.model_validate(document.value)
    except ValidationError as error:
        raise ConfigError(problems_of(error, document.locate)) from None
    _refuse_hidden_overrides(config, in_run, document)
    return Sweep(config, document, text)


def _first_key(override: str) -> str:
    return re.split(r"[.=]", override, maxsplit=1)[0].strip()


def _refuse_hidden_overrides(config: SweepConfig, overrides: Sequence[str], document: Document) -> None:
    """An override of what an axis varies would change nothing; silence would mislead."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in config.axes:
            message = f"'{key}' is varied by an axis: change the list itself, as in --set 'axes.{key}=[...]'"
            raise ConfigError(document.problem(("base", *key.split(".")), message))
