"""Needle in a haystack: rows to the byte, and decoding that reads its own output."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.platform.task import TASKS
from titanlab.platform.tasks.greedy import greedy
from titanlab.platform.tasks.haystack import Haystack, Row, batch_of, shortest_row
from titanlab.platform.tasks.needle import NeedleTask
from titanlab.platform.tasks.random_streams import stream

VARIANTS = ["passkey", "number", "uuid"]
NEEDLE = re.compile(rb" One of the special magic (number|uuid)s for ([a-z-]+) is: ([0-9a-f-]+)\.")
QUESTION = re.compile(rb"\nWhat is the special magic (number|uuid) for ([a-z-]+)\? It is: ")


class Copying(nn.Module):
    """Finds the needle in what it has read and says its value, once asked; `mistake` spoils the byte of that number."""

    def __init__(self, mistake: int | None = None) -> None:
        super().__init__()
        self.mistake = mistake

    def forward(self, ids: Tensor, state: list[bytes] | None = None) -> tuple[Tensor, list[bytes]]:
        before = state or [b""] * ids.shape[0]
        after = [old + bytes(row) for old, row in zip(before, ids.tolist(), strict=True)]
        said = [[self._next(text[: len(text) - ids.shape[1] + t + 1]) for t in range(ids.shape[1])] for text in after]
        return 50.0 * F.one_hot(torch.tensor(said), 256), after

    def _next(self, text: bytes) -> int:
        question = QUESTION.search(text[-120:]) if b"? It is: " in text[-50:] else None
        if question is None:
            return 0
        value, place = NEEDLE.search(text)[3], len(text[-120:]) - question.end()
        if place >= len(value):
            return 0
        return ord("x") if place == self.mistake else value[place]


def task(**settings: object) -> NeedleTask:
    return TASKS.resolve({"type": "needle", **settings}).build()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("filler", ["noise", "kjv", "shakespeare"])
def test_a_row_has_its_length_needle_question_and_answer(variant: str, filler: str) -> None:
    haystack = Haystack(variant, filler)
    for length in (shortest_row(variant), 300, 1001):
        for depth in (0.0, 0.37, 1.0):
            row = haystack.row(stream("test", length, depth), "train", length, depth)
            assert len(row.text) == length
            needle, question = NEEDLE.search(row.prompt), QUESTION.search(row.prompt)
            assert needle and question and question.end() == len(row.prompt)
            assert needle[1] == question[1] == (b"uuid" if variant == "uuid" else b"number")
            assert needle[2] == question[2] and needle[3] == row.answer
            assert len(row.answer) == (36 if variant == "uuid" else 7)
            room = question.start() - len(needle[0])
            assert 0 <= depth * room - needle.start() <= max(room / 20, 40)
            assert row.prompt.count(b"special magic") == 2


def test_a_batch_counts_the_answer_only() -> None:
    ids, targets, mask = batch_of([Row(b"ask: ", b"42"), Row(b"say: ", b"17")])
    assert [bytes(row) for row in targets.tolist()] == [b"ask: 42", b"say: 17"]
    assert [bytes(row) for row in ids.tolist()] == [b"\0ask: 4", b"\0say: 1"]
    assert mask.tolist() == [[0, 0, 0, 0, 0, 1, 1]] * 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_copying_the_value_is_right_everywhere(variant: str) -> None:
    subject = task(variant=variant, eval_lengths=[256, 400], eval_examples=2, depths=3)
    metrics = subject.evaluate(Copying(), "test")
    assert tuple(metrics) == subject.config.metrics()
    assert list(metrics)[2:5] == ["accuracy/256", "accuracy/400", "accuracy/depth_0"]
    assert metrics.pop("loss") < 1e-6
    assert set(metrics.values()) == {1.0}


@pytest.mark.parametrize("mistake", [0, 6])
def test_one_wrong_byte_is_a_wrong_answer(mistake: int) -> None:
    metrics = task(eval_examples=2).evaluate(Copying(mistake), "val")
    assert metrics.pop("loss") == pytest.approx(50 / 7, rel=1e-3)
    assert set(metrics.values()) == {0.0}


def test_accuracies_are_told_apart_by_length_and_depth() -> None:
    class OnlyEarly(Copying):
        def _next(self, text: bytes) -> int:
            needle = NEEDLE.search(text)
            return 0 if needle and needle.start() > 60 else super()._next(text)

    metrics = task(eval_lengths=[200, 600], eval_examples=1, depths=2).evaluate(OnlyEarly(), "test")
    assert (metrics["accuracy/depth_0"], metrics["accuracy/depth_100"]) == (1.0, 0.0)
    assert metrics["accuracy"] == metrics["accuracy/200"] == metrics["accuracy/600"] == 0.5


def test_decoding_feeds_the_model_its_own_tokens_one_by_one() -> None:
    class AddsOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read: list[list[int]] = []

        def forward(self, ids: Tensor, state: int | None = None) -> tuple[Tensor, int]:
            self.read.append(ids[0].tolist())
            return F.one_hot(ids + 1, 256).float(), (state or 0) + ids.shape[1]

    model = AddsOne()
    assert greedy(model, torch.tensor([[7, 7, 7], [1, 2, 9]]), 4).tolist() == [[8, 9, 10, 11], [10, 11, 12, 13]]
    assert model.read == [[7, 7, 7], [8], [9], [10]]


def test_the_parts_share_no_filler() -> None:
    haystack = Haystack("passkey", "kjv")
    rows = {
        part: [haystack.row(stream("x", n), part, 400, 1.0).prompt[:200] for n in range(20)]
        for part in ("train", "val", "test")
    }
    for part, made in rows.items():
        for other in rows:
            inside = [text in haystack._text[other] for text in made]
            assert all(inside) if other == part else not any(inside)


def test_training_hides_the_needle_at_every_depth() -> None:
    batch = next(task(length=400).train_batches(0, 200))
    places = [NEEDLE.search(bytes(row)).start() for row in batch.targets.tolist()]
    assert np.histogram(places, bins=4, range=(0, 280))[0].min() > 25


def test_a_filler_shorter_than_the_row_is_repeated() -> None:
    row = Haystack("passkey", "noise").row(stream("long"), "test", 5000, 0.5)
    assert len(row.text) == 5000 and row.prompt.count(b"There and back again. The grass is green.") > 40


def test_the_digest_tells_variants_and_fillers_apart() -> None:
    settings = [{}, {"variant": "number"}, {"variant": "uuid"}, {"filler": "kjv"}, {"length": 300}]
    assert len({task(**each).digest for each in settings}) == len(settings)
