"""Imports point one way only: platform <- memory_modules <- architectures <- sweeps <- benchmarks <- commands."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("platform", "memory_modules", "architectures", "sweeps", "benchmarks", "commands")
"""From the lowest to the highest; a file may import its own layer and those before it."""

FOUNDATIONS = (
    {"errors", "tensors", "printable", "redaction", "switch", "triton_assembler", "first_order", "precision"},
    {"config", "debugging", "fusion", "registry", "shapes", "keys", "operations", "yaml_source", "overrides"}
    | {"extends", "files", "fused_kernels", "made_once", "norms", "recomputation", "recording", "wavefront"},
    {"memory", "architecture", "task"},
    {"layer_overrides", "stack"},
    {"model", "costs", "run_config", "budgets", "training_memory", "distributed", "plugins"},
    {"corpora", "training", "tracking", "tasks", "testing", "decoding", "streaming"},
)
"""The order inside platform."""

SWEEPS = ("readable", "inference", "language", "tuning", "planning", "execution", "conclusions")
"""The order of the folders inside sweeps."""


def sources() -> list[Path]:
    folders = [ROOT / layer for layer in LAYERS[:-1]] + [ROOT / "src/titanlab/commands"]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[2:] if parts[0] == "src" else parts
    return ".".join(("titanlab", *parts)).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every titanlab module that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "titanlab")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if (node.module or "").split(".")[0] == "titanlab":
                yield node.module or ""


def layer(module: str) -> int:
    name = module.split(".")[1]
    return LAYERS.index(name)


def foundation(module: str) -> int:
    name = module.split(".")[2]
    (found,) = (index for index, names in enumerate(FOUNDATIONS) if name in names)
    return found


def test_there_is_something_to_read() -> None:
    assert {module_of(path).split(".")[1] for path in sources()} == set(LAYERS)


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_a_file_imports_its_own_layer_and_lower_ones_only(path: Path) -> None:
    own = module_of(path)
    for imported in imports(path):
        if imported == "titanlab":
            assert layer(own) == len(LAYERS) - 1, f"{own} imports the public face; import the defining module"
            continue
        assert layer(imported) <= layer(own), f"{own} imports {imported} of a higher layer"
        if layer(own) == layer(imported) == 0:
            assert foundation(imported) <= foundation(own), f"{own} imports {imported} of a later foundation"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").rglob("*.py")), ids=module_of)
def test_a_folder_of_sweeps_imports_itself_and_earlier_ones_only(path: Path) -> None:
    own = module_of(path).split(".")[2:3]
    for imported in imports(path):
        if imported.startswith("titanlab.sweeps."):
            later = SWEEPS.index(imported.split(".")[2]) > SWEEPS.index(own[0])
            assert not later, f"{module_of(path)} imports {imported} of a later folder"


def test_pythons_own_platform_module_is_found_from_the_repository_root() -> None:
    assert not (ROOT / "platform/__init__.py").exists()
    code = "import platform; platform.system(); import titanlab.platform.errors; print(platform.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.startswith(str(ROOT))


def test_no_file_is_named_like_a_standard_module_or_a_dependency() -> None:
    taken = (sys.stdlib_module_names | {"torch", "ray", "mlflow", "pydantic", "yaml", "rich", "typer"}) - {"platform"}
    # A folder's own file may be called like what it is about when its parent is a package; at the top it would shadow.
    clashes = [path for path in sources() if path.stem in taken and path.stem != "__init__"]
    assert not clashes
