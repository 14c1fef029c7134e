"""The JSON schema that editors read: valid, complete, equal to the file in the repository, and right about files."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from titanlab.__main__ import main
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.task import TASKS
from titanlab.platform.yaml_source import parse_yaml, read_yaml
from titanlab.sweeps.language.schema import sweep_schema
from titanlab.sweeps.language.sweep_file import SweepConfig, load_sweep
from titanlab.sweeps.language.template import sweep_template
from titanlab.sweeps.planning.plan import make_plan

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "sweeps").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = sweep_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def complaints(validator: Any, text: str) -> list[str]:
    errors = validator.iter_errors(parse_yaml(text, "sweep.yaml").value)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def test_every_field_and_every_registered_kind_is_in_it_with_its_meaning(validator: Any) -> None:
    schema = validator.schema
    assert set(schema["properties"]) == {"extends", *SweepConfig.model_fields}
    told = {name for name, field in schema["properties"].items() if field.get("description") or "$ref" in field}
    assert told == set(schema["properties"])
    for registry in (MEMORY_MODULES, ARCHITECTURES, TASKS):
        for name in registry:
            kind = schema["$defs"][f"{registry.kind}.{name}"]
            assert set(kind["properties"]) == {"type", *registry[name].model_fields}
            assert kind["additionalProperties"] is False and kind["description"]
    assert schema["$defs"]["keys"]["properties"]["model.memory.depth"]["description"]
    assert "train.seed" not in schema["$defs"]["keys"]["properties"]
    text = json.dumps(schema)
    assert set(re.findall(r'"#/\$defs/([^"]+)"', text)) <= set(schema["$defs"]) and "x-kind" not in text


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_shipped_sweep_names_the_schema_and_fits_it(file: Path, validator: Any) -> None:
    first = file.read_text().partition("\n")[0]
    assert first == "# yaml-language-server: $schema=sweep.schema.json" and (file.parent / "sweep.schema.json").exists()
    assert not list(validator.iter_errors(read_yaml(file).value))


@pytest.mark.parametrize(
    "text",
    [
        "name: x\nbase: {}\naxes: {train.steps: [1]}\nseeds: [0, 1]\n",
        "extends: [a.yaml, b.yaml]\nseeds: 3\n",
        "name: x\nbase: {extends: run.yaml, model: {memory: {depth: 2}}}\ncells: [{}]\n",
        "name: x\nbase: {}\npaired: [{model.dim: [16, 32], model.layers: [1, 2]}]\nexclude: [model.dim == 16]\n",
        "name: x\nbase: {}\nablate: {mode: both, model.memory.keep: [none]}\nbaseline: {model.memory.depth: 1}\n",
        "schema_version: 1\nname: x\nbase: {}\ncells: [{model.memory: {type: delta}}]\nobjective: {direction: max}\n",
    ],
)
def test_what_titanlab_reads_fits(validator: Any, text: str) -> None:
    assert complaints(validator, text) == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("name: x\nbase: {}\nsedes: 2\n", "'sedes' was unexpected"),
        ("name: x\naxes: {train.steps: [1]}\n", "is not valid under any of the given schemas"),
        ("name: x\nbase: {model: {memory: {type: titan}}}\n", "base.model.memory.type: 'titan' is not one of"),
        ("name: x\nbase: {model: {memory: {type: titans, depht: 1}}}\n", "'depht' was unexpected"),
        ("name: x\nbase: {model: {memory: {type: titans, depth: 9}}}\n", "base.model.memory.depth: 9 is greater than"),
        ("name: x\nbase: {model: {memory: {type: titans, keep: off}}}\n", "base.model.memory.keep: 'off' is not one"),
        ("name: x\nbase: {model: {pattern: [{memory: {type: delta, x: 1}}]}}\n", "base.model.pattern.0.memory: "),
        ("name: x\nbase: {train: {seed: -1}}\n", "base.train.seed: -1 is less than the minimum of 0"),
        ("name: x\nbase: {}\naxes: {train.steps: 3}\n", "axes.train.steps: 3 is not of type 'array'"),
        ("name: x\nbase: {}\naxes: {steps: [3]}\n", "axes: 'steps' does not match"),
        ("name: x\nbase: {}\nablate: {mode: some, train.steps: [1]}\n", "ablate.mode: 'some' is not one of"),
        ("name: x\nbase: {}\nseeds: 0\n", "seeds: 0 is not valid"),
        ("schema_version: 2\nname: x\nbase: {}\n", "schema_version: 1 was expected"),
    ],
)
def test_what_titanlab_refuses_is_seen_while_it_is_written(validator: Any, text: str, expected: str) -> None:
    assert any(expected in complaint for complaint in complaints(validator, text)), complaints(validator, text)


def test_the_file_in_the_repository_is_what_the_command_prints() -> None:
    # A process of its own: other tests register kinds in this one.
    done = subprocess.run(
        [sys.executable, "-m", "titanlab", "sweep", "schema"], capture_output=True, text=True, timeout=120, check=True
    )
    kept = (ROOT / "sweeps/sweep.schema.json").read_text()
    assert kept == done.stdout, "write it anew: titanlab sweep schema > sweeps/sweep.schema.json"


def test_a_kind_of_a_plugin_is_in_the_schema_where_the_plugin_is_named(tmp_path: Path) -> None:
    plugin = ROOT / "examples/ema_memory.py"
    done = subprocess.run(
        [sys.executable, "-m", "titanlab", "sweep", "schema", "--plugin", str(plugin)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    schema = json.loads(done.stdout)
    added = set(schema["$defs"]) - set(json.loads((ROOT / "sweeps/sweep.schema.json").read_text())["$defs"])
    assert len(added) == 1 and next(iter(added)).startswith("memory_modules.")


def test_the_schema_is_of_no_interest_to_a_misspelt_plugin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["titanlab", "sweep", "schema", "--plugin", "mine.py"])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 2 and capsys.readouterr().err.startswith("error: plugin mine.py")


def test_new_sweep_writes_a_sweep_that_plans_and_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file, code in (("Depth: why?", "depth-why.yaml", 0), ("depth why", "depth-why.yaml", 2), ("", "", 2)):
        monkeypatch.setattr(sys, "argv", ["titanlab", "new", "sweep", name])
        try:
            main()
            assert code == 0
        except SystemExit as leaving:
            assert (leaving.code or 0) == code
        said = capsys.readouterr()
        assert (f"{file}: already there" in said.err or "no name of a sweep" in said.err) if code else file in said.out
    assert [path.name for path in Path().iterdir()] == ["depth-why.yaml"]
    assert make_plan(load_sweep("depth-why.yaml")).name == "Depth: why?"


def test_the_template_runs_as_it_is_and_with_every_option_taken(tmp_path: Path, validator: Any) -> None:
    text = sweep_template("depth: why?")
    everything = re.sub(r"^#(?=\S| {2})", "", text, flags=re.MULTILINE)
    assert complaints(validator, text) == complaints(validator, everything) == []
    options = set(parse_yaml(everything, "all.yaml").value)
    assert options == {"extends", *SweepConfig.model_fields} - {"reference"}
    (tmp_path / "sweep.yaml").write_text(text)
    assert make_plan(load_sweep(tmp_path / "sweep.yaml")).name == "depth: why?"
    (tmp_path / "all.yaml").write_text(everything)
    plan = make_plan(load_sweep(tmp_path / "all.yaml"))
    assert plan.baseline is not None and len(plan.cells) > 5
