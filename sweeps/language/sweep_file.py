"""The language of a sweep: one complete run, what is varied in it, and how the outcomes are compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from titanlab.platform.config import Config, digest, problems_of, shown_value, validation_error
from titanlab.platform.errors import ConfigError, unknown_name
from titanlab.platform.extends import resolve_extends
from titanlab.platform.files import slug, yaml_text
from titanlab.platform.keys import key_path
from titanlab.platform.overrides import apply_overrides
from titanlab.platform.printable import a_line
from titanlab.platform.yaml_source import Document, parse_yaml, read_text
from titanlab.sweeps.language.conditions import MAX_LENGTH
from titanlab.sweeps.language.field_checks import ablation_of, pair_errors, seeds_of
from titanlab.sweeps.language.match_terms import MatchConfig
from titanlab.sweeps.language.references import Reference
from titanlab.sweeps.language.search_space import TuneConfig

LONGEST_ID = 80
"""Characters of a name that its folder's keeps."""
SCHEMA_VERSION: Literal[1] = 1
"""Raised when a sweep file of before would be read as something else."""


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
    """How often a trial that lost its process (or Ray its own) starts again from its checkpoint."""
    failure_retries: int = Field(0, ge=0, le=100)
    """How often a trial that failed starts again, after all others had their turn; out of memory and a full disk
    count, a diverged loss and errors of settings, shapes and code never do."""

    @model_validator(mode="after")
    def _whole_above_one(self) -> Self:
        for name in ("cpu", "gpu"):
            amount = getattr(self, name)
            if amount > 1 and amount != int(amount):
                message = f"expected a fraction up to 1 or a whole number, got {amount}"
                raise validation_error("Resources", [((name,), message, amount)])
        return self


Values = Annotated[list[Any], Field(min_length=1)]
"""What a key takes, one after another."""

Condition = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)]
"""See `titanlab.sweeps.language.conditions`."""


class SweepConfig(Config):
    """A sweep as its file writes it; only `name`, `base` and `axes` (or `paired`, `ablate`, `cells`) are required."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """The version of this language that the file is written in."""
    name: Annotated[str, AfterValidator(a_line)] = Field(min_length=1, max_length=200)
    """What the sweep is called; its folder in the store is this name in small letters, digits and dashes."""
    base: dict[str, Any]
    """One complete run - model, task and train - that every cell starts from."""
    axes: dict[str, Values] = Field(default_factory=dict)
    """Dotted key of a run to the list of values it takes; the grid is their product. A mapping replaces its block."""
    paired: list[Annotated[dict[str, Values], Field(min_length=1)]] = Field(default_factory=list)
    """Mappings whose keys vary together: first values, second values, ... Each is one more factor of the grid."""
    when: dict[str, Condition] = Field(default_factory=dict)
    """Key of an axis to a condition: the axis varies where it holds; elsewhere the setting is as in `base`."""
    exclude: list[Condition] = Field(default_factory=list)
    """Conditions (`model.memory.depth == 1 and model.memory.momentum != none`); a cell that fulfils one is not run."""
    ablate: Annotated[dict[str, Any] | None, BeforeValidator(ablation_of)] = None
    """Dotted key to the values that stand in for the baseline's: the baseline and its variations beside the grid.
    `mode` says which: `one_at_a_time` (the default) changes each factor alone, `leave_one_out` changes all factors but
    one (and all), `both` is both."""
    cells: list[dict[str, Any]] = Field(default_factory=list)
    """Explicit cells beside the grid, each a mapping from dotted keys to values; what it leaves out is as in `base`."""
    seeds: Annotated[tuple[int, ...], BeforeValidator(seeds_of)] = ()
    """How many seeds each cell runs with, or which; by default the one of `base.train.seed`."""
    tune: TuneConfig | None = None
    """Settings of training that are chosen for every cell before the comparison: dotted key to a range or choices."""
    match: MatchConfig | None = None
    """Brings every cell to equal parameters, state or operations by varying one width."""
    baseline: dict[str, Any] | None = None
    """Settings that name exactly one cell; the report says how far every other cell is from it."""
    objective: Objective = Field(default_factory=Objective)
    """What the cells are ranked by."""
    resources: Resources = Field(default_factory=Resources)
    """What one trial occupies."""
    reference: list[Reference] = Field(default_factory=list, max_length=100)
    """Published values that the report draws beside the sweep's own."""

    @model_validator(mode="after")
    def _varies_something(self) -> Self:
        if not (self.axes or self.paired or self.ablate or self.cells):
            message = (
                "a sweep varies something: give `axes` (dotted key: list of values) or `cells` (a list of mappings), "
                "`paired` or `ablate`"
            )
            raise validation_error("SweepConfig", [(("axes",), message, self.axes)])
        return self

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        errors = pair_errors(self.axes, self.paired)
        if errors:
            raise validation_error("SweepConfig", errors)
        return self

    @model_validator(mode="after")
    def _conditions_are_on_axes(self) -> Self:
        stray = [key for key in self.when if key not in self.axes]
        if stray:
            errors = [(("when", key), unknown_name("axis", key, self.axes), self.when[key]) for key in stray]
            raise validation_error("SweepConfig", errors)
        return self

    @property
    def id(self) -> str:
        """The name as a folder: small letters, digits and dashes."""
        # What a path leaves out may be all that tells two names apart: their folders shall not be one.
        has_latin = re.search(r"[a-z0-9]", self.name.lower()) is not None
        loses = len(self.name) > LONGEST_ID or any(letter.isalnum() and not letter.isascii() for letter in self.name)
        if has_latin and not loses:
            return slug(self.name)
        return f"{slug(self.name)[:60] if has_latin else 'sweep'}-{digest(self.name)[:8]}"


@dataclass(frozen=True)
class Sweep:
    """A validated sweep file, with where each of its settings stands."""

    config: SweepConfig
    document: Document
    text: str
    """The whole sweep as one file, whatever it extends and `--set` changes: what MLflow keeps."""

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
    document = resolve_extends(parse_yaml(text, str(path)))
    _refuse_run(document)
    _refuse_other_version(document)
    in_sweep = [override for override in overrides if _first_key(override) in SweepConfig.model_fields]
    in_run = [override for override in overrides if override not in in_sweep]
    document = apply_overrides(document, in_sweep, dotted_blocks=("axes", "when", "ablate", "tune", "baseline"))
    document = apply_overrides(document, in_run, root=("base",))
    try:
        config = SweepConfig.model_validate(document.value)
    except ValidationError as error:
        raise ConfigError(problems_of(error, document.locate)) from None
    _refuse_hidden_overrides(config, in_run, document)
    return Sweep(config, document, _resolved(document, text))


def _refuse_run(document: Document) -> None:
    stray = [key for key in document.value if key in ("model", "task", "train")]
    if stray and "base" in document.value:
        message = "belongs into `base`; to take a run from its file, write base: {extends: FILE}"
        raise ConfigError(document.problem((stray[0],), message))
    if stray:
        message = "this file is a single run: run it with `titanlab train`, or put it under `base` and add `axes`"
        raise ConfigError(document.problem((), message))


def _refuse_other_version(document: Document) -> None:
    """Before anything else: a file of another version has keys that this one cannot judge."""
    version = document.value.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, bool) or version != SCHEMA_VERSION:
        advice = "; update titanlab to read it" if isinstance(version, int) and version > SCHEMA_VERSION else ""
        message = f"expected {SCHEMA_VERSION}, the version this titanlab reads, got {shown_value(version)}{advice}"
        raise ConfigError(document.problem(("schema_version",), message))


def _resolved(document: Document, text: str) -> str:
    """The file's own text, comments and all, where it says everything; else what it comes to."""
    sources = document.sources()
    if sources <= {document.file}:
        return text
    listed = ", ".join(source if source.isprintable() else repr(source) for source in sorted(sources))
    return f"# resolved from {listed}\n{yaml_text(document.value)}"


def _first_key(override: str) -> str:
    return re.split(r"[.=]", override, maxsplit=1)[0].strip()


def _refuse_hidden_overrides(config: SweepConfig, overrides: Sequence[str], document: Document) -> None:
    """An override of what an axis varies would change nothing; silence would mislead."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in config.axes:
            message = f"'{key}' is varied by an axis: change the list itself, as in --set 'axes.{key}=[...]'"
        elif any(key in group for group in config.paired):
            message = f"'{key}' is varied by `paired`: change the lists in the file"
        elif config.tune is not None and key in config.tune.space:
            message = (
                f"'{key}' is chosen by `tune`: change what it tries, as in --set 'tune.{key}={{low: ..., high: ...}}'"
            )
        else:
            continue
        raise ConfigError(document.problem(("base", *key_path(key)), message))
