"""Stacks of different blocks through the whole pipeline: identity, the model, training, sweeps and tracking."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import titanlab.sweeps
from titanlab.platform.costs import memory_size
from titanlab.platform.errors import ConfigError
from titanlab.platform.model import ModelConfig, build_model
from titanlab.platform.run_config import RunConfig, run_config
from titanlab.platform.tracking.naming import clean_key, dotted_settings
from titanlab.platform.training.checkpoint import load_model
from titanlab.platform.training.loop import train
from titanlab.platform.yaml_source import parse_yaml
from titanlab.sweeps.language.labels import variants
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import Plan, make_plan

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


def test_a_stack_without_pattern_and_overrides_keeps_its_key() -> None:
    assert ModelConfig().identity() == {} and model(pattern=[], overrides={}).identity() == model().identity()
    settings = {"model": {"memory": {"type": "titans", "depth": 1}}, "train": {"steps": 5}}
    assert RunConfig.model_validate(settings).key == "26e144b6fd51183d", "the key of a trial that was run before"


def test_a_stack_has_one_identity_however_it_is_written() -> None:
    spellings = [
        model(pattern=SEVEN_TO_ONE),
        model(overrides={"layers.0-6.memory": {"type": "lightning"}, "layers.7.architecture": TRANSFORMER}),
        model(
            pattern=[{"memory": {"type": "lightning"}}],
            overrides={"layers.-1.architecture": TRANSFORMER, "layers.-1.memory": MODEL["memory"]},
        ),
    ]
    first = spellings[0].identity()
    assert all(spelling.identity() == first for spelling in spellings) and len(first["stack"]) == 8
    assert (
        model(overrides={"layers.*.memory.depth": 2}).identity()
        == model(memory={**MODEL["memory"], "depth": 2}).identity()
    )
    assert (
        model(overrides={"layers.1.memory.depth": 2}).identity()
        != model(overrides={"layers.2.memory.depth": 2}).identity()
    )


def test_settings_read_back_are_the_same_mixed_stack() -> None:
    config = model(pattern=SEVEN_TO_ONE, overrides={"layers.0,3-4.memory.heads": 4, "layers.7.architecture.heads": 1})
    again = ModelConfig.model_validate(config.settings())
    written = {**TRANSFORMER, "attention": "auto"}
    assert config.settings()["pattern"][1] == {"repeat": 1, "architecture": written}, "nothing is written as null"
    assert again == config and again.stack() == config.stack() and again.identity() == config.identity()


@torch.no_grad()
def test_seven_lightning_layers_and_one_of_attention_are_exact_in_pieces_and_causal() -> None:
    torch.manual_seed(0)
    made = build_model({**MODEL, "pattern": SEVEN_TO_ONE}, 13).double()
    ids = torch.randint(13, (2, 23), generator=torch.Generator().manual_seed(0))
    logits, _ = made(ids)
    for cuts in ([1] * 23, [5, 1, 17], [22, 1]):
        state, pieces = None, []
        for piece in ids.split(cuts, 1):
            piece_logits, state = made(piece, state)
            pieces.append(piece_logits)
        torch.testing.assert_close(torch.cat(pieces, 1), logits, rtol=0, atol=1e-10)
    for edit in (0, 9, 22):
        edited_ids = ids.clone()
        edited_ids[0, edit] = (ids[0, edit] + 1) % 13
        edited, _ = made(edited_ids)
        assert torch.equal(edited[0, :edit], logits[0, :edit]) and torch.equal(edited[1], logits[1])
        assert not torch.equal(edited[0, edit], logits[0, edit])


def test_memory_state_is_that_of_the_layers_that_have_a_memory() -> None:
    config = model(pattern=SEVEN_TO_ONE, overrides={"layers.0.memory": {"type": "delta"}, "layers.1.memory.heads": 4})
    sizes = [block.memory.state_size(config.dim) for block in config.stack()]
    assert memory_size(config) == sum(sizes[:7]) > 7 * min(sizes)


def test_gradients_reach_every_parameter_of_a_mixed_stack() -> None:
    made = build_model({**MODEL, "layers": 4, "pattern": [{"memory": {"type": "lightning"}}, *SEVEN_TO_ONE[1:]]}, 13)
    made(torch.randint(13, (2, 9)))[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_a_mixed_stack_trains_and_is_loaded_again(tmp_path: Path) -> None:
    settings = {
        "model": {
            **MODEL,
            "layers": 4,
            "pattern": [{"memory": {"type": "lightning", "chunk_size": 4}}, {"architecture": TRANSFORMER}],
            "overrides": {"layers.2.memory": MODEL["memory"], "layers.3.architecture.heads": 1},
        },
        "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12, "eval_examples": 16},
        "train": {"steps": 3, "batch_size": 4},
    }
    config = RunConfig.model_validate(settings)
    assert train(config, tmp_path).status == "complete"
    assert run_config(parse_yaml((tmp_path / "config.yaml").read_text(), "config.yaml")).key == config.key
    loaded = load_model(tmp_path)
    assert kinds(loaded.config) == ["lightning", "transformer", "titans", "transformer"]
    assert loaded(torch.zeros(1, 3, dtype=torch.long))[0].isfinite().all()


def plan(folder: Path, *overrides: str, **sweep: Any) -> Plan:
    base = {
        "model": {**MODEL, "layers": 4},
        "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12},
        "train": {"steps": 2, "batch_size": 2},
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"name": "tiny", "base": base, **sweep}, sort_keys=False))
    return make_plan(load_sweep(file, overrides))


def test_overrides_and_patterns_are_axes_with_readable_labels(tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        axes={
            "model.overrides.layers.1-2.memory.depth": [1, 2],
            "model.pattern": [[{"repeat": 2}, {"architecture": TRANSFORMER}, {}], [{"memory": {"type": "titans"}}]],
        },
        baseline={"model.overrides.layers.1-2.memory.depth": 2, "model.pattern": [{"memory": {"type": "titans"}}]},
    )
    assert [cell.variant for cell in made.cells] == [
        "layers.1-2.depth=1 pattern=2(base)+transformer+base",
        "layers.1-2.depth=1 pattern=titans",
        "layers.1-2.depth=2 pattern=2(base)+transformer+base",
        "layers.1-2.depth=2 pattern=titans",
    ]
    assert memories(made.cells[2].trials[0].config.model, "depth") == [1, 2, 2, 1]
    assert made.baseline is made.cells[3]


def test_labels_tell_patterns_and_layers_apart() -> None:
    delta = {"type": "delta"}
    points: list[dict[str, Any]] = [
        {"model.pattern": [{"repeat": 3, "architecture": {"type": "lmm"}, "memory": {**delta, "heads": heads}}, {}]}
        for heads in (1, 2)
    ]
    points += [
        {"model.overrides.layers.0.memory.depth": 2, "model.memory.depth": 1},
        {"model.overrides.layers.0.architecture": TRANSFORMER, "model.overrides.layers.-1.memory.heads": 2},
        {"model.overrides": {"layers.0.memory.depth": 3}},
    ]
    assert variants(points) == [
        "pattern=3(lmm/delta(heads=1))+base",
        "pattern=3(lmm/delta(heads=2))+base",
        "layers.0.depth=2 depth=1",
        "layers.0.architecture=transformer layers.-1.heads=2",
        'overrides={"layers.0.memory.depth": 3}',
    ]


def test_the_command_line_sets_overrides_though_their_keys_have_dots(tmp_path: Path) -> None:
    axes = {"train.steps": [1]}
    for key in ("model", "base.model"):
        made = plan(tmp_path, f"{key}.overrides.layers.1-2.memory.depth=3", f"{key}.pattern=[{{}}, {{}}]", axes=axes)
        assert memories(made.cells[0].trials[0].config.model, "depth") == [1, 3, 3, 1]
    made = plan(tmp_path, "axes.model.overrides.layers.0.memory.depth=[2, 3]", axes=axes)
    assert [memories(cell.trials[0].config.model, "depth")[0] for cell in made.cells] == [2, 3]
    with pytest.raises(ConfigError, match="^--set model.overrides.layers.9.memory.depth=3: .* there is no layer 9"):
        plan(tmp_path, "model.overrides.layers.9.memory.depth=3", axes=axes)


def test_the_same_stack_written_twice_is_planned_once_and_said(tmp_path: Path) -> None:
    made = plan(tmp_path, cells=[{"model.memory.depth": 2}, {"model.overrides.layers.*.memory.depth": 2}])
    assert len(made.cells) == 1
    assert "'layers.*.depth=2' is the same run as 'depth=2': planned once" in made.notes


def problems(folder: Path, *overrides: str, **sweep: Any) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        plan(folder, *overrides, **sweep)
    return [f"{problem.path}: {problem.message}" for problem in refused.value.problems]


def test_what_an_axis_makes_wrong_is_told_at_the_axis(tmp_path: Path) -> None:
    key = "model.overrides.layers.1-2.memory.depth"
    (value,) = problems(tmp_path, axes={key: [1, 9]})
    assert value.startswith(f"axes.{key}.1: expected a number of at most 4, got 9")
    (outside,) = problems(tmp_path, axes={"model.overrides.layers.4.memory.depth": [1, 2]})
    assert outside.startswith("axes.model.overrides.layers.4.memory.depth: there is no layer 4")
    (built,) = problems(tmp_path, axes={"model.overrides.layers.0.memory.heads": [2, 3]})
    assert built.startswith("axes.model.overrides.layers.0.memory.heads.1: the model cannot be built: layer 0: 3 heads")
    (conflict,) = problems(tmp_path, "model.overrides.layers.2.memory.depth=3", axes={key: [3, 4]})
    assert conflict.startswith(f"axes.{key}.1: 'layers.2.memory.depth' sets memory.depth of layer 2 too: 3 there, 4")


def test_what_the_base_makes_wrong_is_told_in_the_base(tmp_path: Path) -> None:
    (built,) = problems(tmp_path, "model.overrides.layers.0.memory.heads=3", axes={"train.steps": [1, 2]})
    assert built.startswith("base.model.overrides.layers.0.memory.heads: the model cannot be built: layer 0: 3 heads")


@pytest.mark.parametrize("key", ["model.layers.1-2.memory.depth", "layers.1-2.memory.depth"])
def test_the_spelling_one_would_try_first_is_answered_with_the_right_one(tmp_path: Path, key: str) -> None:
    right = "model.overrides.layers.1-2.memory.depth"
    assert problems(tmp_path, axes={key: [1, 2]}) == [
        f"axes.{key}: settings of single layers are overrides: write '{right}'"
    ]
    assert problems(tmp_path, f"{key}=2", axes={"train.steps": [1]}) == [
        f"{key}: settings of single layers are overrides: --set '{right}=...'"
    ]


def test_params_of_mixed_stacks_have_names_that_mlflow_takes_and_that_stay_apart() -> None:
    from mlflow.utils.validation import _validate_param_name

    longest = ",".join(map(str, range(200)))
    overrides = dict.fromkeys(
        ["layers.*.memory.depth", "layers.0,2,5.memory.depth", "layers.-1.memory.depth", "layers.0_2_5.memory.depth"], 1
    ) | {f"layers.{longest}.memory.{name}": 1 for name in ("depth", "heads")}
    params = dotted_settings({"model": {"pattern": SEVEN_TO_ONE, "overrides": overrides}})
    for name in params:
        _validate_param_name(name)
        assert len(name) <= 250
    assert sum(name.startswith("model.overrides.") for name in params) == len(overrides)
    assert {"model.overrides.layers.all.memory.depth", "model.pattern.0.repeat"} <= params.keys()
    assert clean_key("model.overrides.layers.0,2.memory.depth") == "model.overrides.layers.0_2.memory.depth"


def test_the_shipped_sweep_compares_lightning_attention_a_hybrid_and_attention() -> None:
    made = make_plan(load_sweep(Path(titanlab.sweeps.__path__[0]) / "hybrid_stack.yaml"))
    stacks = [kinds(cell.trials[0].config.model) for cell in made.cells]
    assert stacks == [["lightning"] * 4, [*["lightning"] * 3, "transformer"], ["transformer"] * 4]
    assert [cell.variant for cell in made.cells] == [
        "pattern=4(lmm)", "pattern=3(lmm)+transformer", "pattern=4(transformer)"
    ]  # fmt: skip
    assert made.baseline is made.cells[2] and made.baseline.memory_bytes == 0
    assert made.cells[0].memory_bytes == 4 * made.cells[1].memory_bytes // 3
