"""`titanlab export`: a trial as an MLflow model that a fresh process loads, with the same logits as the trained one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from titanlab.platform.errors import ConfigError
from titanlab.platform.run_config import RunConfig
from titanlab.platform.tracking.mlflow_model import Export, save_mlflow_model
from titanlab.platform.training.run_directory import write_outcome
from titanlab.sweeps.execution.export import choose
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan

PREDICT = """
import json, sys
import mlflow, numpy as np, torch
from titanlab import load_model

tracking_uri, address, run = sys.argv[1:]
mlflow.set_tracking_uri(tracking_uri)
model = mlflow.pyfunc.load_model(address)
ids = np.arange(24).reshape(2, 12) % 32
logits = model.predict(ids)
with torch.no_grad():
    expected, _ = load_model(run)(torch.as_tensor(ids))
example = model.input_example
print(json.dumps({
    "shape": logits.shape,
    "difference": float(np.abs(logits - expected.numpy()).max()),
    "signature": [model.metadata.signature.inputs.to_dict(), model.metadata.signature.outputs.to_dict()],
    "example": model.predict(example).shape,
    "metadata": model.metadata.metadata,
}))
"""


@pytest.fixture(scope="module")
def trained(shared_lab):
    """A sweep of a plug-in's memory, two cells of two seeds, of which one ran with a loss that is better."""
    file = shared_lab.write("Winner", {"model.memory.keep": [0.5, 0.9]}, steps=6, seeds=2)
    done = shared_lab.run(file, "--executor", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    return shared_lab


def export(lab, *options):
    return subprocess.run(
        [sys.executable, "-m", "titanlab", "export", str(lab.folder / "Winner.yaml"), "--store", str(lab.store)]
        + ["--plugin", str(lab.folder / "fragile.py"), *options],
        capture_output=True,
        text=True,
        cwd=lab.folder,
    )


def predict(lab, address, key):
    """In a process of its own, which knows no plug-in but the model's."""
    run = lab.store / "sweeps/winner/trials" / key
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, lab.mlflow, address, str(run)],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def words(text, start):
    return next(line for line in text.splitlines() if line.startswith(start)).removeprefix(start).strip()


def test_a_folder_loads_in_a_fresh_process_and_predicts_what_the_trained_model_does(trained, tmp_path):
    target = tmp_path / "deep" / "winner"
    done = export(trained, "--to", str(target))
    assert done.returncode == 0, done.stderr
    assert words(done.stdout, "saved:") == str(target)
    key = done.stdout.split("(trial ")[1].split(")")[0]
    said = predict(trained, str(target), key)
    assert said["shape"] == [2, 12, 32] and said["example"] == [1, 16, 32]
    assert said["difference"] == 0.0
    inputs, outputs = said["signature"]
    assert inputs[0]["tensor-spec"] == {"dtype": "int64", "shape": [-1, -1]}
    assert outputs[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, -1, 32]}
    assert said["metadata"]["trial.key"] == key and said["metadata"]["sweep.id"] == "winner"

    files = [path for path in target.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".yaml", ".json", ".txt", ".py", ""}  # nothing pickled
    assert "loader_module: titanlab." in (target / "MLmodel").read_text()
    config = next(path for path in files if path.name == "config.yaml")
    assert yaml.safe_load(config.read_text())["model"]["memory"]["type"] == "fragile"

    with pytest.raises(ConfigError, match="exists already; name a folder"):
        save_mlflow_model(Export(tmp_path, RunConfig()), target)


@pytest.mark.slow
def test_a_model_logged_in_mlflow_belongs_to_its_trials_run(trained):
    run = trained.runs("winner")[0]
    key = run.data.tags["trial.key"]
    done = export(trained, "--to", "mlflow", "--trial", key[:9])
    assert done.returncode == 0, done.stderr
    address = done.stdout.split(" as ")[1].splitlines()[0]
    (output,) = trained.client().get_run(run.info.run_id).outputs.model_outputs
    assert address == f"models:/{output.model_id}"
    assert trained.client().get_run(run.info.run_id).info.status == "FINISHED"
    assert predict(trained, address, key)["difference"] == 0.0


@pytest.fixture
def planned(tmp_path: Path):
    """A plan of two cells with three seeds, and a folder of its trials with outcomes that are written by hand."""
    sweep = {
        "name": "planned",
        "base": {"model": {"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": {"type": "linear"}}}
        | {"task": {"type": "mqar", "vocab": 32, "length": 12, "pairs": 2}, "train": {"steps": 2}},
        "axes": {"model.expansion": [1, 2]},
        "seeds": 3,
        "objective": {"metric": "final/accuracy", "direction": "max"},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    plan = make_plan(load_sweep(str(tmp_path / "sweep.yaml")))

    def outcome(cell, seed, accuracy):
        trial = plan.cells[cell].trials[seed]
        (tmp_path / trial.key).mkdir()
        write_outcome(tmp_path / trial.key, 2, {"final/accuracy": accuracy}, "digest")
        return trial

    return plan, tmp_path, outcome


def test_the_winner_is_the_best_seed_of_the_cell_with_the_best_mean(planned):
    plan, folder, outcome = planned
    for seed, accuracy in enumerate((0.1, 0.9, 0.1)):  # one lucky seed does not make a cell the winner
        outcome(0, seed, accuracy)
    outcome(1, 0, 0.5)
    best = outcome(1, 1, 0.7)
    outcome(1, 2, float("nan"))
    choice = choose(plan, folder)
    assert choice.trial == best and choice.metrics["final/accuracy"] == 0.7
    assert "0.6000 over its seeds, this seed 0.7000" in choice.reason


def test_what_cannot_be_exported_is_said_with_what_to_do(planned):
    plan, folder, outcome = planned
    with pytest.raises(ConfigError, match=r"no trial of 'planned' is complete with a finite final/accuracy; `titanlab"):
        choose(plan, folder)
    trial = outcome(0, 0, 0.5)
    assert choose(plan, folder, trial.key[:8]).trial == trial
    other = plan.cells[1].trials[0]
    with pytest.raises(ConfigError, match=f"--trial: {other.key} .* is not complete"):
        choose(plan, folder, other.key)
    with pytest.raises(ConfigError, match="no trial of 'planned' has the key 'zzz'"):
        choose(plan, folder, "zzz")
    with pytest.raises(ConfigError, match="6 trials of 'planned' begin with ''"):
        choose(plan, folder, "")
