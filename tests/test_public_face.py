"""`import titanlab`: what it exports, and what it leaves alone until it is asked for."""

import subprocess
import sys

import pytest

import titanlab

HEAVY = ("torch", "ray", "mlflow", "matplotlib", "scipy", "pandas", "numpy")


def modules_after(code: str) -> set[str]:
    """Top-level modules in a fresh Python after some code."""
    report = "import sys; print('MODULES', *{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_public_names_are_these() -> None:
    assert sorted(titanlab.__all__) == [
        "ARCHITECTURES", "Architecture", "ArchitectureConfig", "Batch", "Config", "MEMORY_MODULES", "MemoryConfig",
        "MemoryModule", "ModelConfig", "RunConfig", "TASKS", "Task", "TaskConfig", "TrainConfig", "__version__",
        "build_model", "load_config", "load_model",
    ]  # fmt: skip


@pytest.mark.parametrize("name", titanlab.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(titanlab, name)
    assert name in dir(titanlab)
    assert name == "__version__" or found.__doc__


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Memory'; it exports ARCHITECTURES, "):
        titanlab.Memory  # noqa: B018


def test_importing_titanlab_imports_nothing_heavy() -> None:
    assert not modules_after("import titanlab").intersection(HEAVY)


@pytest.mark.parametrize("arguments", ["['--help']", "['sweep', 'run', '--help']", "['--version']"])
def test_help_imports_nothing_heavy(arguments: str) -> None:
    call = "from titanlab.__main__ import main\ntry: main()\nexcept SystemExit: pass"
    code = f"import sys; sys.argv[1:] = {arguments}\n{call}"
    assert not modules_after(code).intersection(HEAVY)


def test_building_a_model_needs_neither_ray_nor_mlflow() -> None:
    found = modules_after("import titanlab; titanlab.build_model({'dim': 16, 'layers': 1}, 16)")
    assert "torch" in found
    assert not found.intersection(("ray", "mlflow", "matplotlib", "scipy", "pandas"))
