"""Every YAML file that comes with titanlab and every YAML block of its documents is a run or a sweep that plans."""

import re
from pathlib import Path

import pytest

from titanlab.platform.run_config import load_config
from titanlab.platform.yaml_source import read_yaml
from titanlab.sweeps.language import load_sweep
from titanlab.sweeps.plan import make_plan

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(path for folder in ("sweeps", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.yaml"))
BLOCKS = [
    pytest.param(text, id=f"{document.name}-{number}")
    for document in sorted((ROOT / "docs").rglob("*.md"))
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL))
]


def check(file: Path) -> None:
    if "base" in read_yaml(file).value:
        assert make_plan(load_sweep(file)).trials
    else:
        load_config(file)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_file_that_comes_with_titanlab_plans(file: Path) -> None:
    check(file)


@pytest.mark.parametrize("text", BLOCKS)
def test_a_block_of_the_documents_plans(text: str, tmp_path: Path) -> None:
    (tmp_path / "block.yaml").write_text(text)
    check(tmp_path / "block.yaml")
