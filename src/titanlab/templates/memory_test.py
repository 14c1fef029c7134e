"""The promises of `template`; run it with `python -m pytest test_template.py`."""

from pathlib import Path

import pytest
import torch

from titanlab import MEMORY_MODULES
from titanlab.platform.plugins import load_plugin
from titanlab.platform.testing import check_memory_module

load_plugin(str(Path(__file__).with_name("template.py")))
TemplateConfig = MEMORY_MODULES["template"]


def test_it_keeps_the_promises_of_a_memory() -> None:
    check_memory_module(TemplateConfig).raise_failures()


# Other settings of yours, as they are in YAML.
@pytest.mark.parametrize("settings", [{"keep": 1.0}, {"keep": 0.5}])
def test_it_keeps_them_with_other_settings(settings: dict[str, object]) -> None:
    check_memory_module(TemplateConfig.model_validate(settings)).raise_failures()


# What only your rule promises, by hand where you can.
@torch.no_grad()
def test_a_token_finds_what_followed_it() -> None:
    memory = TemplateConfig.model_validate({"keep": 1.0}).build(16)
    memory.get_parameter("step.bias").fill_(20.0)  # a step of 1: what is written is all that is found
    first, second = torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    _, state = memory(torch.cat([first, second], 1), memory.initial_state(1))
    value, out = memory.get_submodule("value"), memory.get_submodule("out")
    torch.testing.assert_close(memory.read(first, state), out(value(second)), atol=1e-3, rtol=1e-3)
