"""titanlab: the research platform for memories that learn at test time.

The public face; every name is imported when first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "ARCHITECTURES": "titanlab.platform.architecture",
    "Architecture": "titanlab.platform.architecture",
    "ArchitectureConfig": "titanlab.platform.architecture",
    "Batch": "titanlab.platform.task",
    "Config": "titanlab.platform.config",
    "MEMORY_MODULES": "titanlab.platform.memory",
    "MemoryConfig": "titanlab.platform.memory",
    "MemoryModule": "titanlab.platform.memory",
    "ModelConfig": "titanlab.platform.model",
    "RunConfig": "titanlab.platform.run_config",
    "TASKS": "titanlab.platform.task",
    "Task": "titanlab.platform.task",
    "TaskConfig": "titanlab.platform.task",
    "TrainConfig": "titanlab.platform.run_config",
    "build_model": "titanlab.platform.model",
    "load_config": "titanlab.platform.run_config",
    "load_model": "titanlab.platform.training.checkpoint",
}

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "ArchitectureConfig",
    "Batch",
    "Config",
    "MEMORY_MODULES",
    "MemoryConfig",
    "MemoryModule",
    "ModelConfig",
    "RunConfig",
    "TASKS",
    "Task",
    "TaskConfig",
    "TrainConfig",
    "__version__",
    "build_model",
    "load_config",
    "load_model",
]

if TYPE_CHECKING:
    from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
    from titanlab.platform.config import Config
    from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig, MemoryModule
    from titanlab.platform.model import ModelConfig, build_model
    from titanlab.platform.run_config import RunConfig, TrainConfig, load_config
    from titanlab.platform.task import TASKS, Batch, Task, TaskConfig
    from titanlab.platform.training.checkpoint import load_model


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'titanlab' has no attribute '{name}'; it exports {', '.join(sorted(__all__))}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
