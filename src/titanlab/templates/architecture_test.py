"""The promises of `template`; run it with `python -m pytest test_template.py`."""

from pathlib import Path

import pytest

from titanlab import ARCHITECTURES, MEMORY_MODULES
from titanlab.platform.plugins import load_plugin
from titanlab.platform.testing import check_architecture

load_plugin(str(Path(__file__).with_name("template.py")))
TemplateConfig = ARCHITECTURES["template"]


def test_it_keeps_the_promises_of_an_architecture() -> None:
    check_architecture(TemplateConfig).raise_failures()


# Other settings of yours, as they are in YAML.
@pytest.mark.parametrize("settings", [{"width": 1}, {"width": 7}])
def test_it_keeps_them_with_other_settings(settings: dict[str, object]) -> None:
    check_architecture(TemplateConfig.model_validate(settings)).raise_failures()


# With the memories you mean to use; by default a small one stands in.
@pytest.mark.parametrize("memory", ["titans", "delta"])
def test_it_keeps_them_around_memories(memory: str) -> None:
    check_architecture(
        TemplateConfig, memory=MEMORY_MODULES.resolve({"type": memory, "chunk_size": 4})
    ).raise_failures()
