"""Whatever is registered builds from `{type: ...}` alone, at any width that is a multiple of 16."""

import pytest
import torch

from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.model import build_model
from titanlab.platform.task import TASKS

WIDTHS = (16, 48, 64)


@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize("name", sorted(MEMORY_MODULES))
def test_a_memory_builds_from_its_name_alone(name: str, dim: int) -> None:
    model = build_model({"dim": dim, "layers": 1, "architecture": {"type": "lmm"}, "memory": {"type": name}}, 11)
    logits, _ = model(torch.zeros(1, 5, dtype=torch.long))
    assert logits.shape == (1, 5, 11) and logits.isfinite().all()


@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_an_architecture_builds_from_its_name_alone(name: str, dim: int) -> None:
    model = build_model({"dim": dim, "layers": 1, "architecture": {"type": name}}, 11)
    logits, _ = model(torch.zeros(1, 5, dtype=torch.long))
    assert logits.shape == (1, 5, 11) and logits.isfinite().all()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_is_known_from_its_name_alone(name: str) -> None:
    task = TASKS.resolve({"type": name})
    assert task.vocab_size > 1 and task.metrics()


@pytest.mark.parametrize("name", sorted(MEMORY_MODULES) + sorted(ARCHITECTURES) + sorted(TASKS))
def test_every_kind_and_every_setting_says_what_it_means(name: str) -> None:
    registry = next(registry for registry in (MEMORY_MODULES, ARCHITECTURES, TASKS) if name in registry)
    cls = registry[name]
    assert (cls.__doc__ or "").strip(), f"{name} has no docstring"
    for setting, field in cls.model_fields.items():
        assert field.description, f"{name}.{setting} has no docstring"
