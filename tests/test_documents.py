"""Every YAML file that comes with titanlab and every YAML block of its documents is a run or a sweep that plans."""

import re
from pathlib import Path

import pytest

from titanlab.platform.run_config import load_config
from titanlab.platform.yaml_source import read_yaml
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(path for folder in ("sweeps", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.yaml"))
DOCUMENTS = {
    document.name: re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    for document in sorted((ROOT / "docs").rglob("*.md"))
}
BLOCKS = [
    pytest.param(name, text, id=f"{name}-{number}")
    for name, texts in DOCUMENTS.items()
    for number, text in enumerate(texts)
]


def check(file: Path) -> None:
    if {"base", "axes"} & set(read_yaml(file).value):
        assert make_plan(load_sweep(file)).trials
    else:
        load_config(file)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_file_that_comes_with_titanlab_plans(file: Path) -> None:
    check(file)


@pytest.mark.parametrize("document, text", BLOCKS)
def test_a_block_of_the_documents_plans(document: str, text: str, tmp_path: Path) -> None:
    for other in DOCUMENTS[document]:
        if name := re.match(r"# (\w+\.yaml)\n", other):  # a block that others of its document extend
            (tmp_path / name[1]).write_text(other)
    (tmp_path / "block.yaml").write_text(text)
    check(tmp_path / "block.yaml")
