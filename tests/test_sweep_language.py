"""The sweep language: what a file says, and what the command line changes in it."""

from pathlib import Path

import pytest

from titanlab.platform.errors import ConfigError
from titanlab.sweeps.language.sweep_file import SweepConfig, load_sweep

MINIMAL = "name: tiny\nbase: {}\naxes: {train.steps: [1, 2]}\n"

ARCHITECTURE_DOCUMENT = """\
name: depth-momentum-keep
base:
  model: {dim: 64, layers: 2, architecture: {type: mac, segment: 32, persistent: 4, heads: 2}, \
memory: {type: titans, depth: 2, momentum: token, keep: token, step: token, heads: 2, chunk_size: 16}}
  task: {type: mqar, vocab: 128, pairs: 8, length: 64}
  train: {steps: 400, batch_size: 32, learning_rate: 3.0e-3, seed: 0}
axes:
  model.memory.depth: [1, 2]
  model.memory.momentum: [none, token]
  model.memory.keep: [none, token]
seeds: [0, 1]
baseline: {model.memory.depth: 1, model.memory.momentum: none, model.memory.keep: none}
objective: {metric: final/accuracy, direction: max}
resources: {cpu: 1, gpu: 0}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(MINIMAL)
    return path


def test_the_documented_example_is_read_as_it_stands(file: Path) -> None:
    file.write_text(ARCHITECTURE_DOCUMENT)
    sweep = load_sweep(file)
    assert sweep.config.seeds == (0, 1)
    assert sweep.config.axes["model.memory.keep"] == ["none", "token"]
    assert sweep.config.objective.metric == "final/accuracy"
    assert sweep.text == ARCHITECTURE_DOCUMENT


def test_only_name_base_and_axes_or_cells_are_required(file: Path) -> None:
    assert load_sweep(file).config.resources.cpu == 1
    file.write_text("name: tiny\nbase: {}\ncells: [{train.steps: 1}]\n")
    assert load_sweep(file).config.axes == {}


def test_a_count_of_seeds_is_that_many_from_zero(file: Path) -> None:
    file.write_text(MINIMAL + "seeds: 3\n")
    assert load_sweep(file).config.seeds == (0, 1, 2)
    file.write_text(MINIMAL + "seeds: [5, 3]\n")
    assert load_sweep(file).config.seeds == (5, 3)


@pytest.mark.parametrize("gpu", [0, 0.25, 1, 2, 8])
def test_a_gpu_may_be_shared_or_several_be_taken(file: Path, gpu: float) -> None:
    file.write_text(MINIMAL + f"resources: {{gpu: {gpu}}}\n")
    assert load_sweep(file).config.resources.gpu == gpu


def test_overrides_reach_the_sweep_the_base_and_the_axes(file: Path) -> None:
    overrides = [
        "seeds=2",
        "base.train.batch_size=4",
        "train.learning_rate=1e-3",
        "axes.train.steps=[7]",
        "axes.model.dim=[16, 32]",
        "name=other",
    ]
    config = load_sweep(file, overrides).config
    assert config.seeds == (0, 1) and config.name == "other"
    assert config.base == {"train": {"batch_size": 4, "learning_rate": 0.001}}
    assert config.axes == {"train.steps": [7], "model.dim": [16, 32]}


def test_an_override_that_an_axis_would_hide_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set train.steps=5: base.train.steps: 'train.steps' is varied by an axis"):
        load_sweep(file, ["train.steps=5"])


@pytest.mark.parametrize(
    "name, folder",
    [("Depth x Momentum!", "depth-x-momentum"), ("../../etc", "etc"), ("a" * 80, "a" * 80), ("run", "run")],
)
def test_a_name_becomes_a_folder_that_stays_inside_the_store(name: str, folder: str) -> None:
    assert SweepConfig(name=name, base={}, axes={"train.steps": [1]}).id == folder


def test_names_that_a_path_cannot_tell_apart_have_folders_of_their_own() -> None:
    names = ("x" * 199 + "1", "x" * 199 + "2", "änderung", "önderung", "nderung")
    ids = [SweepConfig(name=name, base={}, axes={"train.steps": [1]}).id for name in names]
    assert len(set(ids)) == 5 and all(len(id) <= 80 and id.isascii() for id in ids)
    assert ids[-1] == "nderung"


def test_names_without_a_latin_letter_have_folders_of_their_own() -> None:
    ids = {SweepConfig(name=name, base={}, axes={"train.steps": [1]}).id for name in ("記憶", "深さ", "...")}
    assert len(ids) == 3 and all(id.startswith("sweep-") for id in ids)
