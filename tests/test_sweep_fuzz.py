"""Whatever text a sweep file holds: it ends in a plan or in a `ConfigError` that says where, and it ends soon."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from titanlab.platform.errors import ConfigError, PluginError
from titanlab.platform.extends import resolve_extends
from titanlab.platform.overrides import apply_overrides
from titanlab.platform.yaml_source import Document, parse_yaml
from titanlab.sweeps.language.conditions import ABSENT, ConditionError, parse_condition
from titanlab.sweeps.language.sweep_file import SweepConfig, load_sweep
from titanlab.sweeps.planning.plan import survey

LONGEST = 5.0
"""Seconds of CPU time that one input may take."""

GOOD = """\
schema_version: 1
name: good
base:
  model: {dim: 16, layers: 1, architecture: {type: lmm}, memory: {type: titans, depth: 1, heads: 1, chunk_size: 4}}
  task: {type: mqar, vocab: 32, pairs: 2, length: 12}
  train: {steps: 2, batch_size: 2}
axes:
  model.memory.depth: [1, 2]
paired:
  - {model.memory.momentum: [none, token], train.clip: [0.5, 1.0]}
when: {model.memory.depth: train.clip > 0.7}
exclude: ['model.memory.depth == 2 and not train.steps in [1, 2]']
ablate: {mode: both, model.memory.keep: [none], model.memory.step: [constant]}
cells: [{model.architecture: {type: transformer, heads: 2}}]
seeds: [0, 1]
baseline: {model.memory.depth: 1}
objective: {metric: final/accuracy, direction: max}
resources: {cpu: 1, gpu: 0}
"""

PIECES = sorted(
    {*re.findall(r"[\w.]+|[^\w\s]| +|\n", GOOD)}
    | {
        "extends: sweep.yaml\n",
        "&a ",
        "*a",
        "!!int ",
        "? ",
        "|\n",
        ">\n",
        "---\n",
        "...\n",
        "\t",
        "\ufeff",
        "\u2028",
        "\0",
    }
    | {
        "1e999",
        ".nan",
        "-.inf",
        "0x",
        "9" * 400,
        "''",
        '"\\ud800"',
        "<<",
        "null",
        "true",
        "off",
        "é",
        "記",
        "🙂",
        "%",
        "@",
        "`",
    }
)
"""What a sweep is written with, and what makes YAML awkward."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def ends_well(act: Callable[[], Any]) -> None:
    """Runs it: it may refuse in words, with every problem readable and short; nothing else, and not for long."""
    before = time.process_time()
    try:
        act()
    except ConfigError as error:
        assert error.problems and all(problem.message for problem in error.problems)
        assert len(str(error).encode()) < 50_000
    except PluginError:
        raise AssertionError("no plug-in is named here") from None
    assert time.process_time() - before < LONGEST


def plan(folder: Path, text: str, overrides: tuple[str, ...] = ()) -> None:
    file = folder / "sweep.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    ends_well(lambda: survey(load_sweep(file, overrides)))


FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """The good sweep with some pieces cut out, put in or exchanged."""
    text = GOOD
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 5, 20])))
        text = text[:start] + draw(st.sampled_from(PIECES)) + text[end:]
    return text


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["none", "titans"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def test_the_sweep_that_is_damaged_is_good_as_it_stands(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(GOOD)
    assert len(survey(load_sweep(folder / "sweep.yaml")).cells) == 7


@FUZZ
@given(text=damaged())
@example(text="")
@example(text="a: &a [*a]")
@example(text="extends: sweep.yaml\n" + GOOD)
def test_a_damaged_sweep_is_planned_or_refused_in_words(folder: Path, text: str) -> None:
    plan(folder, text)


@FUZZ
@given(text=st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=60))
def test_any_text_is_planned_or_refused_in_words(folder: Path, text: str) -> None:
    plan(folder, text)


@FUZZ
@given(key=st.sampled_from(["extends", *SweepConfig.model_fields]), value=VALUES)
def test_any_value_of_any_key_is_planned_or_refused_in_words(folder: Path, key: str, value: Any) -> None:
    plan(folder, yaml.safe_dump({**yaml.safe_load(GOOD), key: value}, allow_unicode=True))


@FUZZ
@given(
    block=st.sampled_from(["axes", "when", "ablate", "baseline", "paired", "cells", "exclude"]),
    key=st.sampled_from(
        ["model.memory", "model.memory.depth", "model", "train.seed", "", ".", "a..b", "base.task", "mode"]
    )
    | st.text(max_size=6),
    value=VALUES | VALUES.map(lambda value: [value]),
)
def test_any_design_is_planned_or_refused_in_words(folder: Path, block: str, key: str, value: Any) -> None:
    held: Any = {key: value}
    held = [held] if block in ("paired", "cells") else [key] if block == "exclude" else held
    plan(folder, yaml.safe_dump({**yaml.safe_load(GOOD), block: held}, allow_unicode=True))


@FUZZ
@given(override=st.lists(st.sampled_from([*PIECES, "="]), max_size=8).map("".join))
def test_any_override_is_applied_or_refused_in_words(folder: Path, override: str) -> None:
    plan(folder, GOOD, (override,))


WORDS = [
    "a.b",
    "model.memory",
    "none",
    "1",
    "-2.5",
    "'x'",
    "and",
    "or",
    "not",
    "in",
    "(",
    ")",
    "[",
    "]",
    ",",
    "==",
    "<",
    " ",
]


@settings(FUZZ, max_examples=300)
@given(text=st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join) | st.text(max_size=40))
def test_any_condition_is_read_or_refused_with_a_column(text: str) -> None:
    held = {"a.b": 1, "model.memory": {"type": "titans"}}
    try:
        assert parse_condition(text).holds(lambda key: held.get(key, ABSENT)) in (True, False)
    except ConditionError as error:
        assert "at column " in str(error) and "\n" not in str(error)


@FUZZ
@given(value=st.dictionaries(st.sampled_from(["a", "type", "base", "extends"]), VALUES, max_size=4))
def test_any_run_that_extends_is_read_or_refused_in_words(folder: Path, value: dict[str, Any]) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)

    def read() -> Document:
        return apply_overrides(resolve_extends(parse_yaml(text, str(folder / "run.yaml"))), ["a.b=1"])

    ends_well(read)
