"""What a stranger's file can do to its reader: nothing. One section for each promise of docs/security.md.

Elsewhere: what YAML means and refuses, tests/test_yaml_source.py; any text at all, tests/test_sweep_fuzz.py;
conditions, tests/test_conditions.py; the page's escaping, tests/test_report.py; MLflow's server, tests/test_ui.py;
names as folders, tests/test_sweep_language.py.
"""

import ast
import io
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from rich.table import Table

from titanlab.__main__ import main
from titanlab.commands.screen import Screen
from titanlab.platform import registry as registry_module
from titanlab.platform import yaml_source
from titanlab.platform.corpora import sources
from titanlab.platform.errors import CheckpointError, ConfigError, DataError
from titanlab.platform.files import write_atomically
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.printable import visible
from titanlab.platform.redaction import redacted
from titanlab.platform.run_config import RunConfig
from titanlab.platform.tracking.store import SweepRuns, open_store
from titanlab.platform.training import checkpoint_files
from titanlab.platform.training.checkpoint import load_model
from titanlab.platform.training.loop import train
from titanlab.sweeps.conclusions.report import report_name
from titanlab.sweeps.execution.entries import sweep_entry
from titanlab.sweeps.execution.failure import failure_of
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.part import plan_part

ROOT = Path(__file__).parent.parent

SWEEP = """\
name: {name}
base:
  model: {{dim: 16, layers: 1, architecture: {{type: lmm}}, memory: {memory}}}
  task: {task}
  train: {{steps: 2, batch_size: 2}}
axes:
  model.memory.keep: [token, none]
"""
MEMORY = "{type: titans, depth: 1, heads: 1, chunk_size: 4}"
TASK = "{type: mqar, vocab: 32, pairs: 2, length: 12}"


class Answer(NamedTuple):
    """What the command line said."""

    code: Any
    out: str
    err: str


@pytest.fixture
def titanlab(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Answer]:
    """The command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["titanlab", *arguments])
        with pytest.raises(SystemExit) as leaving:
            main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return Answer(leaving.value.code or 0, captured.out, captured.err)

    return call


def write_sweep(name: str = "plain", memory: str = MEMORY, task: str = TASK) -> str:
    Path("sweep.yaml").write_text(SWEEP.format(name=name, memory=memory, task=task))
    return "sweep.yaml"


# --- YAML is data, and bounded ---


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "!!python/object/new:os.system ['touch canary']",
        "!!python/name:os.system x",
        "!!python/module:canary x",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch canary']",
        '!!python/object/apply:builtins.exec [\'open("canary", "w")\']',
    ],
)
def test_a_tag_that_asks_for_code_is_refused_in_a_file_and_in_an_option(
    titanlab: Callable[..., Answer], value: str
) -> None:
    write_sweep(memory=value)
    Path("option.yaml").write_text(SWEEP.format(name="plain", memory=MEMORY, task=TASK))
    for arguments in (("sweep.yaml",), ("option.yaml", "--set", f"name={value}")):
        answer = titanlab("sweep", "plan", *arguments)
        assert answer.code == 2 and "the tag" in answer.err and "is not allowed" in answer.err
        assert not Path("canary").exists()


LAUGHS = "\n".join(["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"] + [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)])  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    "text, expected",
    [
        (LAUGHS, "expands to more than 2000 values"),
        ("a: &a {b: *a}", "an alias refers to the block it stands in"),
        ("a: [" + "1," * 5000 + "]", "holds more than 2000 values"),
        ("a: [" + "*b," * 100 + "]", "undefined alias"),
    ],
    ids=["laughs", "itself", "many", "undefined"],
)
def test_a_small_file_cannot_become_a_large_one(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_source, "MAX_VALUES", 2000)  # in place of 100,000: the parser is slow
    monkeypatch.setattr(yaml_source, "MAX_EVENTS", 5000)
    began = time.process_time()
    with pytest.raises(ConfigError, match=expected):
        yaml_source.parse_yaml(text, "f.yaml")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "pipe", "linked"])
def test_extends_reads_ordinary_files_only(titanlab: Callable[..., Answer], target: str) -> None:
    os.mkfifo("pipe")
    os.symlink("/dev/zero", "linked")
    Path("sweep.yaml").write_text(f"extends: {target}\nname: x\n")
    answer = titanlab("sweep", "plan", "sweep.yaml")
    assert answer.code == 2 and "is no ordinary file" in answer.err


def test_extended_files_are_bounded_together(titanlab: Callable[..., Answer]) -> None:
    for number in range(3):
        Path(f"{number}.yaml").write_text(f"# {'x' * 400_000}\nname: part-{number}\n")
    Path("sweep.yaml").write_text("extends: [0.yaml, 1.yaml, 2.yaml]\nname: x\n")
    answer = titanlab("sweep", "plan", "sweep.yaml")
    assert answer.code == 2 and "together are larger than 1 MiB" in answer.err


# --- A configuration names registered kinds, and nothing else ---

PATHS = (
    *(
        "os.system",
        "builtins.eval",
        "torch.nn.Linear",
        "canary",
        "canary:Canary",
        "../canary",
        "titanlab_plugin_canary",
    ),
    *("titanlab.memory_modules.titans.TitansConfig", "__import__('os')", "/tmp/canary.py", ""),
)


@pytest.mark.parametrize("path", PATHS)
def test_no_registry_takes_the_path_of_code(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "canary.py").write_text("raise SystemExit('code ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = {*sys.modules, *map(str, MEMORY_MODULES)}
    assert {"memory_modules", "architectures", "tasks", "inner_models"} <= {
        known.kind for known in registry_module._ALL
    }
    for known in registry_module._ALL:
        list(known)  # imports what comes with titanlab
        modules |= {name for name in sys.modules if name.startswith("titanlab.")}
        assert path not in known
        with pytest.raises(Exception, match="unknown name"):
            known.resolve({"type": path})
    assert "canary" not in sys.modules and not {name for name in {*sys.modules} - modules if "canary" in name}


RUNS_CODE = {
    ("architectures/attention/flash_kernels.py", "import_module"),
    ("platform/plugins.py", "exec"), ("platform/plugins.py", "compile"), ("platform/plugins.py", "import_module"),
    ("platform/registry.py", "import_module"), ("platform/registry.py", "load"),
    ("platform/tracking/client.py", "import_module"), ("src/titanlab/__init__.py", "import_module"),
    ("src/titanlab/commands/new.py", "import_module"),
}  # fmt: skip
"""The only places that turn a name or a text into code: `--plugin`, entry points, and constants of titanlab's own."""
CALLS = {
    *("eval", "exec", "compile", "__import__", "import_module", "load_module", "exec_module", "system", "popen"),
}


def calls() -> Iterator[tuple[str, ast.Call, str, str]]:
    for folder in ("platform", "memory_modules", "architectures", "sweeps", "src/titanlab"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "src/titanlab" in folder and any(part in path.parts for part in ("platform", "sweeps")):
                continue  # links to the folders above
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    yield str(path.relative_to(ROOT)), node, name, getattr(owner, "id", "")


def test_code_is_made_of_text_in_two_places_only_and_no_shell_is_asked() -> None:
    seen = set()
    for file, node, name, owner in calls():
        words = {keyword.arg: keyword.value for keyword in node.keywords}
        assert "shell" not in words, f"{file}:{node.lineno}: a shell"
        assert owner not in ("pickle", "cloudpickle", "dill", "marshal", "joblib"), f"{file}:{node.lineno}: a pickle"
        if owner == "torch" and name == "load":
            assert ast.literal_eval(words["weights_only"]) is True, f"{file}:{node.lineno}"
        if owner == "yaml":
            assert name in ("compose", "parse", "dump"), f"{file}:{node.lineno}: {name} makes objects"
        is_method = isinstance(node.func, ast.Attribute) and name in ("eval", "compile")  # of a module; of `re`
        if name in CALLS and not is_method:
            seen.add((file, name))
    assert seen <= RUNS_CODE, seen - RUNS_CODE


# --- Code runs if the command line or an installed package brings it ---


# Python files beside a sweep: with Ray, below; beside a store, tests/test_ui.py.


def lay_canaries(folder: Path) -> None:
    """Python files with names that something is sure to import."""
    for name in ("yaml", "numpy", "pandas", "json", "filelock", "psutil", "secrets", "uvicorn", "sqlalchemy", "mlflow"):
        (folder / f"{name}.py").write_text(
            f"open({str(folder / f'CANARY-{name}')!r}, 'w')\nraise ImportError('canary')\n"
        )


def test_a_yaml_file_cannot_ask_for_a_plugin(titanlab: Callable[..., Answer]) -> None:
    lay_canaries(Path())
    for line in ("plugin: yaml.py", "plugins: [yaml.py]", "extends: yaml.py"):
        file = write_sweep()
        Path(file).write_text(f"{line}\n{Path(file).read_text()}")
        assert titanlab("sweep", "plan", file).code == 2
    assert not [*Path().glob("CANARY*")]


INSTALLED = '''
from titanlab.memory_modules.titans import TitansConfig
class InstalledConfig(TitansConfig):
    """A memory of an installed package."""
'''


def test_an_entry_point_is_imported_if_a_configuration_names_it_and_its_hash_is_logged(
    titanlab: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "security_installed.py").write_text(INSTALLED)
    (tmp_path / "security_other.py").write_text("raise SystemExit('code ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = EntryPoints(
        EntryPoint(name, f"{module}:InstalledConfig", "titanlab.memory_modules")
        for name, module in (("installed", "security_installed"), ("other", "security_other"))
    )
    monkeypatch.setattr(MEMORY_MODULES, "_entry_points", {point.name: point for point in points})
    try:
        plan = plan_part(load_sweep(write_sweep(memory=MEMORY.replace("titans", "installed"))), None)
        entry = sweep_entry(plan, {trial.key: tmp_path for trial in plan.trials}, [])
        digest = entry.tags["plugin.security_installed"]
        assert re.fullmatch("[0-9a-f]{64}", digest) and entry.artifacts["plugins/security_installed.py"] == INSTALLED
        assert "security_other" not in sys.modules
        plain = plan_part(load_sweep(write_sweep()), None)
        assert not [
            key for key in sweep_entry(plain, {t.key: tmp_path for t in plain.trials}, []).tags if "plugin" in key
        ]
    finally:
        MEMORY_MODULES.withdraw("security_installed")
        sys.modules.pop("security_installed", None)


# --- Data is read, and only what ends ---


def test_a_path_of_data_names_ordinary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/zero", tmp_path / "linked")
    for target in ("/dev/zero", tmp_path / "pipe", tmp_path / "linked"):
        with pytest.raises(DataError, match="is no ordinary file"):
            sources.own_documents(str(target))
    (tmp_path / "a.txt").write_text("some text")
    assert [document.name for document in sources.own_documents(str(tmp_path))] == ["a.txt"], "the others are left out"
    with open(tmp_path / "large.txt", "wb") as stream:
        stream.truncate(5 << 30)  # takes no room on the disk
    with pytest.raises(DataError, match="holds more than 4 GiB"):
        sources.own_documents(str(tmp_path))


# --- A checkpoint is numbers ---


class Exploit:
    """Runs a command wherever it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def tiny_run() -> RunConfig:
    model = {"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": {"type": "titans", "chunk_size": 4}}
    return RunConfig.model_validate(
        {
            "model": model,
            "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12, "eval_examples": 4},
            "train": {"steps": 4, "batch_size": 2, "checkpoint_every": 1, "device": "cpu"},
        }
    )


def test_the_exploit_works_where_nothing_guards_against_it(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Exploit(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_a_run_that_goes_on_from_a_poisoned_checkpoint_runs_none_of_it(tmp_path: Path) -> None:
    canary, run, steps = tmp_path / "canary", tmp_path / "run", iter([False, True])
    train(tiny_run(), run, should_stop=lambda: next(steps, True))
    for folder in checkpoint_files.folders_in(run):
        state = torch.load(folder / "training.pt", weights_only=True)
        state["optimizer"] = Exploit(canary)
        torch.save(state, folder / "training.pt")
        checkpoint_files.write_digests(folder)  # whoever can write the one can write the other
    warnings: list[str] = []
    assert train(tiny_run(), run, warn=warnings.append).status == "complete"
    assert not canary.exists()
    assert "damaged" in warnings[0]


@pytest.mark.parametrize("protocol", ["zip", "legacy", "bare"])
def test_a_pickle_in_the_place_of_weights_runs_none_of_it(tmp_path: Path, protocol: str) -> None:
    weights, canary = tmp_path / "model.safetensors", tmp_path / "canary"
    if protocol == "bare":
        weights.write_bytes(pickle.dumps(Exploit(canary)))
    else:
        torch.save(Exploit(canary), weights, _use_new_zipfile_serialization=protocol == "zip")
    for place in (weights, tmp_path):
        with pytest.raises(CheckpointError):
            load_model(place)
    assert not canary.exists()


# --- Ray is this run's alone ---

INTRUDER = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)
    print("let in")
except Exception as error:
    print("refused:", type(error).__name__)
"""


@pytest.mark.slow
def test_ray_refuses_who_has_no_token_and_no_file_process_or_run_tells_it(lab: Any, wait: Any) -> None:
    lay_canaries(lab.folder)
    file = lab.write("guarded", {"model.memory.keep": [0.5]}, steps=4000)
    command = str(Path(sys.executable).parent / "titanlab")
    options = ["--store", str(lab.store), "--plugin", "fragile.py", "--set", "model.memory.delay=0.25"]
    driver = subprocess.Popen(
        [command, "sweep", "run", str(file), *options], cwd=lab.folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    lab._started.append(driver)
    wait(lambda: any(lab.steps(folder) for folder in lab.trials("guarded").values()) or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()[0]
    processes = psutil.Process(driver.pid).children(recursive=True)
    (gcs,) = [process for process in processes if process.name() == "gcs_server"]
    token = gcs.environ()["RAY_AUTH_TOKEN"]
    assert re.fullmatch("[0-9a-f]{64}", token)
    spoken = [" ".join(process.cmdline()) for process in [psutil.Process(driver.pid), *processes]]
    assert not any(token in words for words in spoken), "arguments are everybody's to read"
    (dashboard,) = [words for words in spoken if "dashboard/dashboard.py" in words] or [""]
    assert "--disable-frontend" in dashboard or not dashboard

    (place,) = re.findall(r"--session-dir=(\S+)/r/session", " ".join(gcs.cmdline()))
    assert Path(place).stat().st_mode & 0o077 == 0, "nobody else reads what Ray writes"
    assert not holding(token, Path(place))

    (port,) = {listen.laddr.port for listen in gcs.net_connections() if listen.status == psutil.CONN_LISTEN}
    (address,) = re.findall(r"--node-ip-address=(\S+)", " ".join(gcs.cmdline()))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    intruders = [
        subprocess.Popen(
            [sys.executable, "-c", INTRUDER, f"{address}:{port}"],
            env={**plain, **own}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for own in ({}, *({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": word} for word in ("0" * 64, token)))
    ]  # fmt: skip
    answers = [intruder.communicate(timeout=60)[0].strip() for intruder in intruders]
    assert answers == ["refused: AuthenticationError", "refused: AuthenticationError", "let in"]
    assert driver.poll() is None, "it was there to be asked"
    os.kill(driver.pid, signal.SIGINT)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    assert token not in said and not holding(token, lab.store)
    assert not Path(place).exists()
    assert not [*lab.folder.glob("CANARY*")], "a worker imports no Python file that lies where the sweep does"


def holding(secret: str, folder: Path) -> list[Path]:
    """The files that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if secret.encode() in path.read_bytes()]


# --- What is logged holds no secrets ---

SECRET = "h7nter2-and-more"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://user:{SECRET}@host/db",
        f"postgresql+psycopg2://user:{SECRET}@host:5432/db",
        f"https://{SECRET}@github.com/owner/project.git",
        f"cannot connect to 'http://user:{SECRET}@host:5000/api'",
        f"https://host/path?x=1&token={SECRET}&y=2",
        f"+WANDB_API_KEY={SECRET}",
        f'-    password = "{SECRET}"',
        f"+  \"client_secret\": '{SECRET}',",
        f"the variable's value {SECRET}, anywhere",
        f"-----BEGIN RSA PRIVATE KEY-----\n+{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    ],
)
def test_a_secret_is_taken_out(text: str) -> None:
    shown = redacted(text, {"SOME_TOKEN": SECRET} if "anywhere" in text else {})
    assert SECRET not in shown and "[redacted]" in shown


@pytest.mark.parametrize("key", ["AKIA" + "Q" * 16, "ghp_" + "a1" * 18, "hf_" + "aB" * 17, "xoxb-1234567890-abc"])
def test_a_key_is_known_by_its_form(key: str) -> None:
    assert redacted(f"+key: {key},", {}) == "+key: [redacted],"


@pytest.mark.parametrize(
    "text",
    [
        "depth=2 keep=token momentum=token step=chunk",
        "memory: {type: titans, keep: token, step: token}",
        "http://127.0.0.1:5000/#/experiments/1/runs?searchFilter=a@b",
        "ssh://git@host/project", "git@github.com:owner/project.git", "sqlite:////home/user/store/mlflow.db",
        "def forward(self, token: Tensor, key: Tensor) -> Tensor:", "tokens_per_second = tokens / seconds",
    ],
)  # fmt: skip
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    environment = {
        "TOKENIZERS_PARALLELISM": "false",
        "SSH_AUTH_SOCK": "/tmp/socket",
        "A_TOKEN": "token",
        "PWD": "/home",
    }
    assert redacted(text, environment) == text


def test_the_search_for_secrets_ends_soon_whatever_it_searches() -> None:
    began = time.process_time()
    for piece in ("a://b:", "secret", "a.", "-eyJaaaaaaaaaaaa", "https://a", "PASSWORD", "token   ", "\n"):
        redacted(f"token secret :// {piece * (100_000 // len(piece))}", {})
    assert time.process_time() - began < 10


def git(*arguments: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


def test_nothing_that_mlflow_is_told_holds_a_secret(
    titanlab: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    git("init")
    git("remote", "add", "origin", f"https://user:{SECRET}@example.org/project.git")
    Path(".env").write_text("")
    git("add", ".env")
    git("commit", "-m", "begin")
    Path(".env").write_text(f"HF_TOKEN={SECRET}\n")
    file = write_sweep(task=f"{{type: language_modeling, path: 'https://user:{SECRET}@host/text', length: 16}}")
    plan = plan_part(load_sweep(file), None)
    entry = sweep_entry(plan, {trial.key: tmp_path for trial in plan.trials}, [])
    assert "[redacted]" in entry.artifacts["git.diff"] and "HF_TOKEN" in entry.artifacts["git.diff"]
    told = [
        entry.tags,
        entry.artifacts,
        entry.note,
        *((t.name, t.params, t.tags, t.config_text, t.note) for t in entry.trials),
    ]
    assert SECRET not in repr(told)
    assert entry.trials[0].params["task.path"] == "https://user:[redacted]@host/text"
    record = failure_of(RuntimeError(f"no answer from postgresql://user:{SECRET}@host"))
    assert SECRET not in record.message + record.traceback + record.reason


def test_a_trackers_password_stays_off_the_screen_and_out_of_files_that_others_read(
    titanlab: Callable[..., Answer], tmp_path: Path
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://user:{SECRET}@127.0.0.1:{closed.getsockname()[1]}"
        answer = titanlab("sweep", "run", write_sweep(), "--executor", "local", "--tracking-uri", address)
    assert answer.code == 2 and "cannot be used" in answer.err
    assert SECRET not in answer.err + answer.out and "user:[redacted]@127.0.0.1" in answer.err
    for uri, mode in ((address, 0), ("http://127.0.0.1:5000", 0o044)):
        SweepRuns("1", "2", "x", "final/loss", "min", uri).write(tmp_path)
        assert (tmp_path / "mlflow.json").stat().st_mode & 0o044 == mode & ~umask()


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


# --- Everything stays within the store ---


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", "a/b", "a\\b", ".hidden", "-rf", "~", "x" * 200, "CON", "記憶"]
)
def test_whatever_a_sweep_is_called_its_folder_lies_in_the_store(
    titanlab: Callable[..., Answer], tmp_path: Path, name: str
) -> None:
    plan = plan_part(load_sweep(write_sweep(name=json.dumps(name))), None)
    folder = open_store(tmp_path / "store").trial(plan.id, plan.trials[0].key)
    assert folder.resolve().relative_to(tmp_path / "store").parts[0] == "sweeps" and len(folder.parts[-3]) <= 80
    assert re.fullmatch("[a-z0-9][a-z0-9-]*", plan.id)


@pytest.mark.parametrize(
    "link", ["sweeps", "sweeps/plain", "sweeps/plain/trials", "sweeps/plain/trials/KEY/checkpoint"]
)
def test_a_link_in_the_store_leads_no_result_out_of_it(
    titanlab: Callable[..., Answer], tmp_path: Path, link: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    planted = tmp_path / "store" / link
    planted.parent.mkdir(parents=True)
    planted.symlink_to(tmp_path / "elsewhere")
    answer = titanlab("sweep", "run", write_sweep(), "--executor", "local", "--store", "store")
    assert answer.code == 2 and f"{planted} leads out of the store" in answer.err
    assert not [*(tmp_path / "elsewhere").rglob("*.*")]


def test_the_store_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    with open_store(tmp_path / "store").driving("any"):
        assert (tmp_path / "disk/sweeps/any").is_dir()


def test_a_file_is_not_written_through_a_link_that_lies_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".file.writing").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError):
        write_atomically(tmp_path / "file", "text")
    assert (tmp_path / "mine").read_text() == "precious"


def test_reports_of_parts_have_folders_of_their_own() -> None:
    names = [report_name(only) for only in (None, "a.b < 2", "a.b == 2", "x" * 500, "../../../x")]
    assert len(set(names)) == 5 and names[0] == "report"
    assert all(re.fullmatch(r"report/only-[a-z0-9-]{1,70}", name) for name in names[1:])


# --- A terminal shows names and errors and does not obey them ---

OBEYED = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\r"


def test_a_screen_writes_out_what_a_terminal_would_obey() -> None:
    file = io.StringIO()
    screen = Screen(file=file, force_terminal=True, color_system="truecolor", width=200)
    screen.print(f"a{OBEYED}b", style="red", markup=False)
    table = Table("column")
    table.add_row(f"cell{OBEYED}")
    screen.print(table)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())  # rich's own colours
    assert "\x1b[31m" in file.getvalue() and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert r"a\x1b[2J\x1b]0;title\x07\x9b31m\u202e" in shown and r"cell\x1b[2J" in shown


def test_a_tab_and_a_new_line_stay() -> None:
    assert visible("a\tb\nc é 記") == "a\tb\nc é 記"


@pytest.mark.parametrize(
    "old, new",
    [
        ("name: plain", 'name: "\\e[2J"'),
        ("[token, none]", '["\\e[2J", none]'),
        ("model.memory.keep", '"model.memory.\\e[2J"'),
        ("type: titans", 'type: "\\e[2J"'),
        ("base:", '"\\e[2J":'),
        ("base:", 'extends: "\\e[2J"\nbase:'),
    ],
)
def test_no_error_about_a_file_reaches_the_terminal_raw(titanlab: Callable[..., Answer], old: str, new: str) -> None:
    file = write_sweep()
    Path(file).write_text(Path(file).read_text().replace(old, new))
    answer = titanlab("sweep", "plan", file)
    assert answer.code == 2 and r"\x1b[2J" in answer.err and "\x1b" not in answer.err + answer.out


def test_a_value_that_names_a_cell_is_shown_as_text(titanlab: Callable[..., Answer]) -> None:
    Path("texts").write_text("words")
    file = write_sweep(task="{type: language_modeling, length: 16}")
    Path(file).write_text(Path(file).read_text() + '  task.path: ["\\e[2J", "two\\nlines"]\n')
    answer = titanlab("sweep", "plan", file, "--sources")
    assert answer.code == 0 and "\x1b" not in answer.out and r"\x1b[2J" in answer.out and r"two\nlines" in answer.out


def test_every_verb_prints_on_the_guarded_screen() -> None:
    for path in sorted((ROOT / "src/titanlab/commands").glob("*.py")):
        if path.name != "screen.py":
            assert not re.search(r"\bConsole\(|(?<!\.)\bprint\(", path.read_text()), f"{path.name}: use Screen"
