"""Multi-query associative recall: layout, law of distances, and that its questions can be answered."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.platform.task import TASKS, Batch
from titanlab.platform.tasks.mqar import MqarTask
from titanlab.platform.tasks.random_streams import distinct, distinct_weighted, stream


class LookUp(nn.Module):
    """Says what stood after the first place where the token of each position stood."""

    def __init__(self, vocab_size: int, shift: int = 1) -> None:
        super().__init__()
        self.vocab_size, self.shift = vocab_size, shift

    def forward(self, ids: Tensor, state: None = None) -> tuple[Tensor, None]:
        first = (ids[:, :, None] == ids[:, None, :]).int().argmax(2)
        said = ids.gather(1, (first + self.shift).clamp(max=ids.shape[1] - 1))
        return 20.0 * F.one_hot(said, self.vocab_size), None


def task(**settings: object) -> MqarTask:
    return TASKS.resolve({"type": "mqar", **settings}).build()


def batch(rows: int, **settings: object) -> Batch:
    return next(task(**settings).train_batches(0, rows))


@pytest.mark.parametrize("filler", ["zero", "random"])
@pytest.mark.parametrize("length", [64, 33, 32])
def test_pairs_come_first_and_each_key_is_asked_once(filler: str, length: int) -> None:
    ids, targets, mask = batch(50, vocab=40, pairs=8, length=length, filler=filler)
    keys, values, asked = ids[:, 0:16:2], ids[:, 1:16:2], mask.bool()
    assert 1 <= keys.min() and keys.max() <= 19 and 20 <= values.min() and values.max() <= 39
    assert (mask.sum(1) == 8).all() and mask[:, :16].sum() == 0
    for row in range(50):
        pairs = dict(zip(keys[row].tolist(), values[row].tolist(), strict=True))
        assert len(pairs) == len(set(pairs.values())) == 8
        asked_keys = ids[row, asked[row]].tolist()
        assert sorted(asked_keys) == sorted(pairs)
        assert [pairs[key] for key in asked_keys] == targets[row, asked[row]].tolist()
        assert all(place % 2 == 0 for place in asked[row].nonzero().flatten().tolist())
    if filler == "zero":
        assert ids[:, 16:][~asked[:, 16:]].sum() == 0


def test_the_example_of_the_design_has_the_sizes_it_names() -> None:
    ids, _, mask = batch(4, vocab=128, pairs=8, length=64)
    assert ids.shape == (4, 64) and mask.sum() == 32


@pytest.mark.parametrize("filler", ["zero", "random"])
def test_looking_a_key_up_answers_every_question(filler: str) -> None:
    subject = task(vocab=128, filler=filler, eval_sizes=[{"length": 64, "pairs": 8}, {"length": 129, "pairs": 32}])
    metrics = subject.evaluate(LookUp(128), "test")
    assert list(metrics) == ["loss", "accuracy", "accuracy/64x8", "accuracy/129x32"]
    assert metrics["accuracy"] == metrics["accuracy/64x8"] == metrics["accuracy/129x32"] == 1.0
    assert metrics["loss"] < 1e-6
    assert subject.evaluate(LookUp(128, shift=0), "test")["accuracy"] == 0.0


def test_the_loss_of_a_uniform_model_is_the_vocabularys_logarithm() -> None:
    class Uniform(nn.Module):
        def forward(self, ids: Tensor, state: None = None) -> tuple[Tensor, None]:
            return torch.zeros(*ids.shape, 128), None

    assert task(vocab=128).evaluate(Uniform(), "val")["loss"] == pytest.approx(np.log(128), abs=1e-6)


def test_queries_follow_the_power_law() -> None:
    _, _, mask = batch(20_000, vocab=16, pairs=1, length=10, power=0.5)
    places = mask.argmax(1)
    law = np.arange(1, 5) ** -0.5
    shares = [(places == 2 + 2 * gap).float().mean().item() for gap in range(4)]
    assert shares == pytest.approx(law / law.sum(), abs=0.015)


def test_draws_without_replacement_are_distinct_and_have_the_right_law() -> None:
    for choices, count in ((6, 3), (40, 3), (4, 4)):
        drawn = distinct(stream("test", choices), 30_000, choices, count)
        assert drawn.shape == (30_000, count) and drawn.min() == 0 and drawn.max() == choices - 1
        assert all(len(set(row)) == count for row in drawn.tolist())
        for place in range(count):
            shares = np.bincount(drawn[:, place], minlength=choices) / 30_000
            assert shares == pytest.approx(np.full(choices, 1 / choices), abs=0.012)
    weights = np.array([1.0, 2.0, 5.0])
    orders = Counter(map(tuple, distinct_weighted(stream("weighted"), 40_000, weights, 2).tolist()))
    for (one, two), seen in orders.items():
        successive = weights[one] / 8 * weights[two] / (8 - weights[one])
        assert seen / 40_000 == pytest.approx(successive, abs=0.012)


def test_endless_rows_do_not_repeat_and_a_finite_set_repeats_every_epoch_in_another_order() -> None:
    def rows(**settings: object) -> list[bytes]:
        batches = itertools.islice(task(vocab=64, pairs=4, length=16, **settings).train_batches(0, 5), 40)
        return [made.ids.numpy().tobytes() for made in batches]

    endless, finite = rows(), rows(train_examples=50)
    assert len(set(endless)) == 40
    epochs = [finite[start : start + 10] for start in range(0, 40, 10)]
    assert all(set(epoch) == set(epochs[0]) and len(set(epoch)) == 10 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_mixture_has_its_sizes_in_proportion_to_their_examples() -> None:
    sizes = [{"length": 16, "pairs": 2, "examples": 30}, {"length": 32, "pairs": 8, "examples": 10}]
    made = task(vocab=64, train_sizes=sizes)
    seen = Counter((one.ids.shape[1], int(one.mask[0].sum())) for one in itertools.islice(made.train_batches(0, 5), 16))
    assert seen == {(16, 2): 12, (32, 8): 4}
    assert made.config.metrics() == ("loss", "accuracy", "accuracy/16x2", "accuracy/32x8")


def test_training_and_evaluation_share_no_row_and_the_splits_differ() -> None:
    subject = task(vocab=64, pairs=4, length=16)
    size = subject.config.evaluation_sizes()[0]
    groups = [
        subject._rows(size, 200, "val", 0),
        subject._rows(size, 200, "test", 0),
        batch(200, vocab=64, pairs=4, length=16),
    ]
    rows = [set(map(tuple, group.ids.tolist())) for group in groups]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_the_evaluated_rows_do_not_depend_on_the_training_settings() -> None:
    scores = [task(vocab=64, pairs=2, train_examples=count).evaluate(LookUp(64, shift=3), "test") for count in (0, 9)]
    assert scores[0] == scores[1]


def test_the_digest_tells_different_data_apart() -> None:
    subjects = [{}, {"pairs": 4}, {"power": 0.5}, {"filler": "random"}, {"vocab": 100}]
    digests = {json.dumps(settings): task(**settings).digest for settings in subjects}
    assert len(set(digests.values())) == len(subjects)
