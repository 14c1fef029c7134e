"""The `model` block: a repeated pattern of blocks, overrides of single layers, and what is refused where it stands."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from titanlab.platform.errors import ConfigError
from titanlab.platform.layer_overrides import Block
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.model import ModelConfig, build_model
from titanlab.platform.run_config import run_config
from titanlab.platform.yaml_source import parse_yaml

ROOT = Path(__file__).parent.parent
TRANSFORMER = {"type": "transformer", "heads": 2}
SEVEN_TO_ONE = [{"repeat": 7, "memory": {"type": "lightning"}}, {"architecture": TRANSFORMER}]
MODEL: dict[str, Any] = {
    "dim": 16,
    "layers": 8,
    "architecture": {"type": "lmm", "persistent": 0},
    "memory": {"type": "titans", "depth": 1, "heads": 2, "chunk_size": 4},
}


def model(**settings: Any) -> ModelConfig:
    return ModelConfig.model_validate({**MODEL, **settings})


def kinds(config: ModelConfig) -> list[str]:
    """Each layer as `memory` or, where it has none, as its architecture."""
    stack = config.stack()
    return [b.memory.type_name if b.architecture.type_name == "lmm" else b.architecture.type_name for b in stack]


def memories(config: ModelConfig, setting: str) -> list[Any]:
    return [getattr(block.memory, setting, None) for block in config.stack()]


def refusal(text: str) -> str:
    """What is said of a run whose `model` block is MODEL and this."""
    written = yaml.safe_dump({"model": MODEL}, sort_keys=False) + text
    with pytest.raises(ConfigError) as refused:
        run_config(parse_yaml(written, "run.yaml"))
    return str(refused.value)


def test_a_pattern_repeats_until_the_layers_are_filled() -> None:
    assert kinds(model(pattern=SEVEN_TO_ONE, layers=16)) == (["lightning"] * 7 + ["transformer"]) * 2
    assert kinds(model(pattern=[{"repeat": 3}, {"memory": {"type": "delta"}}])) == (["titans"] * 3 + ["delta"]) * 2


def test_what_a_pattern_leaves_out_is_the_models_own() -> None:
    first, *_, last = model(pattern=SEVEN_TO_ONE).stack()
    assert first.architecture == model().architecture
    assert last == Block(last.architecture, model().memory)
    assert last.architecture.settings() == {**TRANSFORMER, "attention": "auto"}


def test_minimax_01_is_ten_times_seven_and_one() -> None:
    config = model(layers=80, pattern=SEVEN_TO_ONE)
    assert [index for index, kind in enumerate(kinds(config)) if kind == "transformer"] == list(range(7, 80, 8))
    places = memories(config, "place")
    assert places[0] == 0 and places[40] == 40 / 79 and places[78] == 78 / 79, "by the depth in the whole stack"


def test_a_stack_that_ends_within_a_pattern_is_refused() -> None:
    said = refusal("  pattern: [{repeat: 2}, {architecture: {type: transformer}}]\n")
    assert said.startswith("run.yaml:3:3: model.layers: 8 layers are no multiple of the 3 blocks of `pattern`; 6 or 9")


WHICH = {
    "3": [3],
    "-1": [7],
    "3-6": [3, 4, 5, 6],
    "6--1": [6, 7],
    "-2--1": [6, 7],
    "5-5": [5],
    "0,2,5": [0, 2, 5],
    "0,0-1,-1": [0, 1, 7],
    "*": list(range(8)),
}


@pytest.mark.parametrize("which", WHICH)
def test_an_override_holds_for_the_layers_it_names(which: str) -> None:
    depths = memories(model(overrides={f"layers.{which}.memory.depth": 3}), "depth")
    assert [index for index, depth in enumerate(depths) if depth == 3] == WHICH[which]
    assert set(depths) <= {1, 3}


def test_overrides_lie_over_the_pattern_and_the_base() -> None:
    config = model(
        pattern=SEVEN_TO_ONE,
        overrides={
            "layers.0.architecture": TRANSFORMER,
            "layers.1,2.memory.heads": 4,
            "layers.3.memory": {"type": "delta"},
            "layers.-1.architecture.heads": 1,
        },
    )
    assert kinds(config) == ["transformer", "lightning", "lightning", "delta", *["lightning"] * 3, "transformer"]
    assert memories(config, "heads")[:3] == [2, 4, 4]
    assert [getattr(block.architecture, "heads", None) for block in config.stack()] == [2, *[None] * 6, 1]


def test_an_override_of_one_setting_keeps_the_others() -> None:
    changed, kept = model(overrides={"layers.0.memory.depth": 2}).stack()[:2]
    assert changed.memory == kept.memory.replace(depth=2) and kept.memory == model().memory


KEYS = {
    "layers.8.memory.depth": "there is no layer 8: the model has 8 layers, 0 to 7",
    "layers.-9.memory.depth": "there is no layer -9: the model has 8 layers, 0 to 7",
    "layers.6-3.memory.depth": "the range 6-3 runs backwards, from layer 6 to layer 3",
    "layers.-1-0.memory.depth": "the range -1-0 runs backwards, from layer 7 to layer 0",
    "layers.last.memory.depth": "expected a layer (3), the last (-1), a range (3-6), a list (0,2,5) or all (*), got",
    "layers.0,.memory.depth": "expected a layer (3), the last (-1), a range (3-6), a list (0,2,5) or all (*), got",
    "layers.0.memori.depth": "unknown block of a layer 'memori'; did you mean 'memory'? Known: architecture, memory",
    "layers.0.expansion": "unknown block of a layer 'expansion'. Known: architecture, memory",
    "layers.0": "expected what to set there: layers.0.memory or layers.0.architecture",
    "layers..memory.depth": "expected layers.WHICH.SETTING, as in layers.3-6.memory.depth",
    "memory.depth": "expected layers.WHICH.SETTING, as in layers.3-6.memory.depth",
    "layers.0.memory.type": "a type comes with its settings: write layers.0.memory: {type: 3}",
    "layers.0.memory.dept": "unknown key 'dept'; did you mean 'depth'?",
    "layers.0.memory.depth.x": "is 1, no block of settings with a 'x' in it",
    "layers.0.architecture.heads": "unknown key 'heads'. Known: persistent (the architecture of layer 0 is 'lmm')",
    "layers.0.memory": "expected a mapping with a `type`",
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_means_nothing_is_refused_where_it_stands(key: str) -> None:
    said = refusal(f"  overrides:\n    layers.0.memory.heads: 1\n    {key}: 3\n")
    line, column, path, message = said.removeprefix("run.yaml:").split(":", 3)
    assert (line, column, path) == ("14", "5", f" model.overrides.{key}")
    assert message.strip().startswith(KEYS[key]) and "\n" not in said


def test_a_value_that_a_layer_does_not_take_is_refused_where_it_stands() -> None:
    said = refusal("  overrides:\n    layers.*.memory.depth: 9\n")
    assert said == (
        "run.yaml:13:5: model.overrides.layers.*.memory.depth: expected a number of at most 4, got 9 "
        "(the memory of layer 0 is 'titans')"
    )
    said = refusal("  overrides:\n    layers.0.memory:\n      type: delta\n      heads: 0\n")
    assert said == "run.yaml:15:7: model.overrides.layers.0.memory.heads: expected a number of at least 1, got 0"
    said = refusal("  overrides:\n    layers.0.memory: {depth: 3}\n")
    assert said.endswith("; a single setting is written layers.0.memory.depth")


def test_a_setting_of_another_memory_is_refused_with_the_memory_of_that_layer() -> None:
    said = refusal(
        "  pattern: [{}, {memory: {type: lightning}}]\n  overrides:\n    layers.0-1.memory.depth: 2\n",
    )
    assert said.startswith("run.yaml:14:5: model.overrides.layers.0-1.memory.depth: unknown key 'depth'")
    assert said.endswith("(the memory of layer 1 is 'lightning')")


def test_a_comma_that_a_flow_mapping_splits_is_explained() -> None:
    said = refusal("  overrides: {layers.0,1.memory.depth: 3}\n")
    assert all("quote a key with a comma within {...}" in line for line in said.splitlines())


CONFLICTS = {
    "the same setting": (
        ("layers.0-3.memory.depth: 2", "layers.2-5.memory.depth: 3"),
        "'layers.0-3.memory.depth' sets memory.depth of layers 2 and 3 too: 2 there, 3 here; narrow one of the two",
    ),
    "a block and a setting inside it": (
        ("layers.1.memory: {type: titans}", "layers.*.memory.depth: 3"),
        "'layers.1.memory' sets memory of layer 1 too: {'type': 'titans'} there, 3 here; "
        "write the setting into that block",
    ),
    "a setting and a block around it": (
        ("layers.*.memory.depth: 3", "layers.0-5.memory: {type: delta}"),
        "'layers.*.memory.depth' sets memory.depth of layers 0, 1, 2 and 3 more too: 3 there, {'type': 'delta'} here; "
        "write the setting into that block",
    ),
    "two blocks": (
        ("layers.0.memory: {type: delta}", "layers.-8.memory: {type: delta, heads: 1}"),
        "'layers.0.memory' sets memory of layer 0 too: {'type': 'delta'} there, {'type': 'delta', 'heads': 1} here; "
        "narrow one of the two",
    ),
    "a number and a truth": (
        ("layers.0.memory.depth: 1", "layers.0-1.memory.depth: true"),
        "'layers.0.memory.depth' sets memory.depth of layer 0 too: 1 there, the boolean true here; "
        "narrow one of the two",
    ),
}


@pytest.mark.parametrize("entries, expected", CONFLICTS.values(), ids=CONFLICTS)
def test_overrides_that_disagree_are_refused_with_both_keys_and_the_layer(
    entries: tuple[str, str], expected: str
) -> None:
    said = refusal("  overrides:\n" + "".join(f"    {entry}\n" for entry in entries))
    assert said == f"run.yaml:14:5: model.overrides.{entries[1].partition(':')[0]}: {expected}"


def test_the_documented_conflict_is_the_real_one() -> None:
    fenced = (ROOT / "docs/models.md").read_text().split("```")[1::2]
    entries, error = (block.removeprefix("\n") for block in fenced if block.startswith("\n"))
    written = "model:\n  dim: 16\n  layers: 8\n  architecture: {type: lmm}\n  memory: {type: titans}\n"
    with pytest.raises(ConfigError) as refused:
        run_config(parse_yaml(written + textwrap.indent(entries, "  "), "run.yaml"))
    assert f"error: {refused.value}\n" == error


def test_overrides_that_agree_are_none_the_worse_for_it() -> None:
    titans = {"type": "titans", "heads": 1}
    overrides = {
        "layers.0-1.memory": titans,
        "layers.1.memory": {**titans, "depth": MEMORY_MODULES.resolve(titans).settings()["depth"]},
        "layers.*.memory.heads": 1,
        "layers.0,3.memory.heads": 1,
    }
    for order in (overrides, dict(reversed(overrides.items()))):
        config = model(overrides=order)
        assert memories(config, "heads") == [1] * 8
        assert memories(config, "depth")[:3] == [MEMORY_MODULES.resolve(titans).settings()["depth"]] * 2 + [1]


def test_what_only_building_refuses_is_told_at_the_setting_of_that_layer() -> None:
    def said(**settings: Any) -> str:
        with pytest.raises(ConfigError) as refused:
            build_model({**MODEL, **settings}, 16)
        return str(refused.value)

    assert said(overrides={"layers.5.memory.heads": 3}).startswith(
        "model.overrides.layers.5.memory.heads: layer 5: 3 heads do not divide dim 16"
    )
    pattern = [{"repeat": 3}, {"memory": {"type": "delta", "heads": 5}}]
    assert said(pattern=pattern).startswith("model.pattern.1.memory.heads: layer 3: 5 heads do not divide")
    own = said(pattern=[{"architecture": TRANSFORMER}, {}], memory={"type": "delta", "heads": 5})
    assert own.startswith("model.memory.heads: layer 1: 5 heads do not divide")


def test_settings_of_layers_outside_overrides_are_refused_with_the_right_spelling() -> None:
    said = refusal("  layers.3.memory.depth: 2\n")
    assert said.startswith("run.yaml:12:3: model.layers.3.memory.depth: settings of single layers stand under")
    assert said.endswith("write overrides: {layers.3.memory.depth: ...}")
