"""Checkpoints: complete whenever the writer is killed, and honest about what they cannot give."""

import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from titanlab.platform import files
from titanlab.platform.errors import CheckpointError, DiskFullError
from titanlab.platform.plugins import load_plugin
from titanlab.platform.run_config import RunConfig
from titanlab.platform.training import checkpoint, checkpoint_files
from titanlab.platform.training.checkpoint import Position, load_checkpoint, load_model, save_checkpoint
from titanlab.platform.training.optimizer import AdamW

load_plugin(str(Path(__file__).with_name("tiny_kinds.py")))

CONFIG = RunConfig.model_validate(
    {
        "model": {"dim": 16, "layers": 1, "architecture": {"type": "tiny_block"}, "memory": {"type": "tiny_average"}},
        "task": {"type": "tiny_count"},
    }
)


class Parts:
    """A model and its optimizer whose numbers all say which step they are of."""

    def __init__(self, step: int) -> None:
        self.model = CONFIG.model.build(CONFIG.task.vocab_size)
        self.optimizer = AdamW(self.model, CONFIG.train)
        self.position = Position(step, [0.5, float(step)], [2.0, 3.0], 1.5, 60.0, 1000)
        for parameter in self.model.parameters():
            parameter.data.fill_(step)
        for moments in self.optimizer.moments.values():
            for tensor in moments:
                tensor.fill_(step)

    def save(self, directory: Path) -> None:
        save_checkpoint(directory, CONFIG, self.model, self.optimizer, self.position)

    def load(self, directory: Path) -> Position | None:
        return load_checkpoint(directory, CONFIG, self.model, self.optimizer)

    def steps(self) -> set[float]:
        tensors = [*self.model.parameters(), *(tensor for each in self.optimizer.moments.values() for tensor in each)]
        return {float(value) for tensor in tensors for value in tensor.detach().flatten()}


def test_everything_comes_back(tmp_path: Path) -> None:
    Parts(7).save(tmp_path)
    parts = Parts(0)
    assert parts.load(tmp_path) == Parts(7).position
    assert parts.steps() == {7.0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_the_former_checkpoint_stays_beside_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        Parts(step).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "checkpoint.old"]
    (tmp_path / "checkpoint").rename(tmp_path / "away")
    assert Parts(0).load(tmp_path) == Parts(2).position


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert Parts(0).load(tmp_path) is None


A_KILL_CLOSES_NO_FILE = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


class Killed(BaseException):
    """Nothing that code would catch."""


def remove_slowly(folder: Path, ignore_errors: bool) -> None:
    """`shutil.rmtree`, with a line for every file at which a kill can come."""
    if not folder.exists():
        return
    for path in sorted(folder.iterdir()):
        path.unlink()
    folder.rmdir()


@pytest.fixture
def slow_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "rmtree", remove_slowly)


@contextmanager
def killed_at_line(number: int) -> Iterator[None]:
    """Ends the process, as far as the code can tell, before the number-th line of what writes, renames and removes."""
    sources = {checkpoint.__file__, checkpoint_files.__file__, files.__file__, remove_slowly.__code__.co_filename}
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        code = frame.f_code
        if code.co_filename not in sources or (code.co_filename == __file__ and code is not remove_slowly.__code__):
            return None
        if event == "line":
            count += 1
            if count == number:
                sys.settrace(None)
                raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@A_KILL_CLOSES_NO_FILE
def test_a_kill_at_any_line_leaves_the_old_checkpoint_or_the_new_one(tmp_path: Path, slow_removal: None) -> None:
    outcomes = []
    for number in range(1, 10_000):
        directory = tmp_path / str(number)
        Parts(1).save(directory)
        try:
            with killed_at_line(number):
                Parts(2).save(directory)
        except Killed:
            parts = Parts(0)
            position = parts.load(directory)
            assert position is not None
            assert position.step in (1, 2)
            assert parts.steps() == {float(position.step)}
            assert {float(p.detach().flatten()[0]) for p in load_model(directory).parameters()} == {
                float(position.step)
            }
            outcomes.append(position.step)
            Parts(3).save(directory)  # and the next one is written over whatever was left
            assert parts.load(directory) == Parts(3).position
            assert {path.name for path in directory.iterdir()} <= {"checkpoint", "checkpoint.old"}
        else:
            break
    assert len(outcomes) > 30
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}


@A_KILL_CLOSES_NO_FILE
def test_a_kill_at_any_line_of_the_next_save_spares_what_an_earlier_kill_left(
    tmp_path: Path, slow_removal: None
) -> None:
    """The worst place of the first kill: the old one has stepped aside, the new one has not taken its place."""
    Parts(1).save(tmp_path / "between")
    (tmp_path / "between" / "checkpoint").rename(tmp_path / "between" / "checkpoint.old")
    for number in range(1, 10_000):
        directory = tmp_path / str(number)
        shutil.copytree(tmp_path / "between", directory)
        try:
            with killed_at_line(number):
                Parts(2).save(directory)
        except Killed:
            position = Parts(0).load(directory)
            assert position is not None
            assert position.step in (1, 2)
        else:
            break
    assert number > 30


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


DAMAGES = [truncate, flip_a_bit, fill_with_garbage, Path.unlink]
FILES = ["model.safetensors", "training.pt"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_said_and_the_former_one_stands_in(tmp_path: Path, damage: Any, name: str) -> None:
    for step in (1, 2):
        Parts(step).save(tmp_path)
    damage(tmp_path / "checkpoint" / name)
    parts, said = Parts(0), []
    assert load_checkpoint(tmp_path, CONFIG, parts.model, parts.optimizer, said.append) == Parts(1).position
    assert parts.steps() == {1.0}
    (warning,) = said
    assert name in warning and "damaged" in warning and warning.endswith("the run goes on from step 1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.damaged", "checkpoint.old"]
    Parts(3).save(tmp_path)  # and what was good is not pushed out by what was not
    assert parts.load(tmp_path) == Parts(3).position


def test_without_any_good_checkpoint_the_run_starts_from_its_first_step(tmp_path: Path) -> None:
    for step in (1, 2):
        Parts(step).save(tmp_path)
    for folder in ("checkpoint", "checkpoint.old"):
        flip_a_bit(tmp_path / folder / "model.safetensors")
    parts, said = Parts(0), []
    assert load_checkpoint(tmp_path, CONFIG, parts.model, parts.optimizer, said.append) is None
    assert parts.steps() == {0.0}
    assert len(said) == 2 and all("from its first step" in warning for warning in said)


@pytest.mark.parametrize("damage", DAMAGES[:3])
def test_damaged_weights_are_never_loaded_as_a_model(tmp_path: Path, damage: Any) -> None:
    Parts(1).save(tmp_path)
    damage(tmp_path / "checkpoint" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the checkpoint is incomplete or damaged"):
        load_model(tmp_path)


def test_a_checkpoint_without_digests_of_an_earlier_titanlab_is_read(tmp_path: Path) -> None:
    Parts(1).save(tmp_path)
    (tmp_path / "checkpoint" / "sha256.json").unlink()
    assert Parts(0).load(tmp_path) == Parts(1).position
    truncate(tmp_path / "checkpoint" / "training.pt")
    assert Parts(0).load(tmp_path) is None


def test_files_of_two_checkpoints_are_not_taken_for_one(tmp_path: Path) -> None:
    Parts(1).save(tmp_path / "a")
    Parts(2).save(tmp_path / "b")
    for name in ("training.pt", "sha256.json"):
        shutil.copy(tmp_path / "a" / "checkpoint" / name, tmp_path / "b" / "checkpoint" / name)
    (tmp_path / "b" / "checkpoint" / "sha256.json").unlink()
    parts, said = Parts(0), []
    assert load_checkpoint(tmp_path / "b", CONFIG, parts.model, parts.optimizer, said.append) is None
    assert "weights are of step 2, its optimizer of 1" in said[0]


def test_a_model_whose_code_changed_is_an_error_and_no_restart(tmp_path: Path) -> None:
    Parts(1).save(tmp_path)
    parts = Parts(0)
    parts.model.register_parameter("newer", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(CheckpointError, match="does not fit the model .* its code is another"):
        load_checkpoint(tmp_path, CONFIG, parts.model, parts.optimizer)
    assert (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("room", [1, 20], ids=["weights", "optimizer"])
def test_a_disk_that_fills_up_half_way_leaves_the_former_checkpoint(tmp_path: Path, room: int) -> None:
    for step in (1, 2):
        Parts(step).save(tmp_path)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "checkpoint").iterdir()}
    assert sizes["training.pt"] > sizes["model.safetensors"] + 20
    limit = sizes["model.safetensors"] - 1 if room == 1 else sizes["model.safetensors"] + room
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(DiskFullError, match="cannot be written .File too large.; make room"):
            Parts(3).save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "checkpoint.old"]
    assert Parts(0).load(tmp_path) == Parts(2).position
    flip_a_bit(tmp_path / "checkpoint" / "training.pt")
    assert Parts(0).load(tmp_path) == Parts(1).position


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this code ran",))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Parts(1).save(tmp_path)
    torch.save({"key": CONFIG.key, "position": Evil(), "optimizer": {}}, tmp_path / "checkpoint" / "training.pt")
    checkpoint_files.write_digests(tmp_path / "checkpoint")
    assert Parts(0).load(tmp_path) is None
    assert "ran" not in capsys.readouterr().out


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    Parts(1).save(tmp_path)
    other = CONFIG.replace(train=CONFIG.train.replace(steps=7))
    parts = Parts(0)
    with pytest.raises(CheckpointError, match=f"another configuration .*{CONFIG.key}.*{other.key}"):
        load_checkpoint(tmp_path, other, parts.model, parts.optimizer)


def test_a_model_is_loaded_from_run_directory_checkpoint_folder_or_file(tmp_path: Path) -> None:
    Parts(4).save(tmp_path)
    for path in (tmp_path, tmp_path / "checkpoint", str(tmp_path / "checkpoint" / "model.safetensors")):
        model = load_model(path)
        assert not model.training
        assert model.config == CONFIG.model
        logits, _ = model(torch.zeros(2, 3, dtype=torch.long))
        assert logits.shape == (2, 3, 16)


def test_loading_a_model_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    Parts(4).save(tmp_path)
    before = torch.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_model(tmp_path)


def rewrite(directory: Path, **metadata: str) -> None:
    path = directory / "checkpoint" / "model.safetensors"
    known = checkpoint._metadata(path)
    save_file(load_file(path), path, {**known, **metadata})
    checkpoint_files.write_digests(path.parent)


def test_another_schema_version_is_an_error(tmp_path: Path) -> None:
    Parts(1).save(tmp_path)
    rewrite(tmp_path, schema_version="0")
    with pytest.raises(CheckpointError, match="schema version 0"):
        load_model(tmp_path)


def test_a_model_whose_plugin_is_not_loaded_is_an_error_that_names_the_kind(tmp_path: Path) -> None:
    Parts(1).save(tmp_path)
    config = CONFIG.model_dump_json().replace("tiny_average", "not_loaded_here")
    rewrite(tmp_path, config=config)
    with pytest.raises(CheckpointError, match=r"model\.memory.*not_loaded_here.*|not_loaded_here"):
        load_model(tmp_path)
