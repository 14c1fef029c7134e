"""Needles anywhere in a stream: read in pieces, asked for at the end, and found by who can remember them."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab import TASKS, build_model
from titanlab.platform.decoding.session import Session
from titanlab.platform.errors import ConfigError
from titanlab.platform.streaming.needle_search import Found, Needles, answers, search
from titanlab.platform.tasks.greedy import answered
from titanlab.platform.tasks.haystack import Haystack
from titanlab.platform.tasks.needle import NeedleTask

NEEDLE = re.compile(rb" One of the special magic (?:number|uuid)s for [a-z-]+ is: ([0-9a-f-]+)\.")
QUESTION = re.compile(rb"\nWhat is the special magic (?:number|uuid) for [a-z-]+\? It is: ")
TAIL, VALUE = 192, 36


class Oracle(nn.Module):
    """Finds the needle as it goes by, keeps its value in a state of constant size, and says it when asked.

    With a `span` it forgets the value after so many bytes, as a sliding window would.
    """

    vocab_size = 256

    def __init__(self, span: int = 1 << 62) -> None:
        super().__init__()
        self.span, self.longest, self.read = span, 0, b""

    def forward(
        self, ids: Tensor, state: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        rows, self.longest = ids.shape[0], max(self.longest, ids.shape[1])
        self.read += bytes(ids[0].tolist())
        tail, value, since = state or (torch.zeros(rows, TAIL), torch.zeros(rows, VALUE), torch.zeros(rows, 1))
        logits, after = torch.zeros(*ids.shape, 256), []
        for row in range(rows):
            text = bytes(tail[row].int().tolist()) + bytes(ids[row].tolist())
            said, read = bytes(value[row].int().tolist()), float(since[row]) + ids.shape[1]
            if (needle := NEEDLE.search(text)) is not None:
                said, read = needle[1].ljust(VALUE, b"\0"), len(text) - needle.end()
            asked = QUESTION.search(text[-TAIL:])
            place = len(text[-TAIL:]) - asked.end() if asked else VALUE
            if place < VALUE and read < self.span:
                logits[row, -1] = 50.0 * F.one_hot(torch.tensor(said[place]), 256)
            after.append((list(text[-TAIL:]), list(said), [read]))
        return logits, tuple(torch.tensor(part, dtype=torch.float64) for part in zip(*after, strict=True))


@pytest.mark.parametrize("variant", ["passkey", "number", "uuid"])
def test_who_remembers_finds_the_needle_at_every_depth(variant: str) -> None:
    oracle, told = Oracle(), list[Found]()
    needles = Needles((700, 3001), (0.0, 0.123, 0.5, 1.0), 2, variant, "noise")  # type: ignore[arg-type]
    found = search(oracle, needles, piece=128, told=told.append)
    assert [(each.length, each.depth) for each in found] == [
        (n, d) for n in (700, 3001) for d in (0.0, 0.123, 0.5, 1.0)
    ]
    assert all(each.accuracy == 1.0 and each.asked == 2 for each in found) and told == found
    assert oracle.longest == 64  # 128 bytes of two rows


def test_who_forgets_finds_near_needles_only() -> None:
    found = search(Oracle(span=900), Needles((2500,), (0.0, 0.5, 0.9, 1.0), 3))
    assert [each.accuracy for each in found] == [0.0, 0.0, 1.0, 1.0]


def test_a_model_without_training_finds_nothing() -> None:
    torch.manual_seed(0)
    model = build_model({"dim": 16, "layers": 1, "architecture": {"type": "lmm"}}, 256).eval()
    assert search(model, Needles((160,), (0.5,)))[0].accuracy == 0.0
    assert Needles((160,), (0.5,)).chance == 1 / 9_000_000


def test_rows_are_the_test_rows_of_the_task() -> None:
    task: NeedleTask = TASKS.resolve(  # type: ignore[assignment]
        {"type": "needle", "variant": "number", "filler": "noise", "eval_lengths": [400], "depths": 3}
    ).build()
    needles, haystack = Needles((400,), (0.0, 0.5, 1.0), 2, "number", "noise"), Haystack("number", "noise")
    mine = [needles.row(haystack, 400, number % 3, number // 3) for number in range(6)]
    assert mine == [task._row("test", 400, number) for number in range(6)]


def test_reading_in_pieces_says_what_reading_at_once_says() -> None:
    oracle, needles, haystack = Oracle(), Needles((900,), (0.3,), 4), Haystack("passkey", "auto")
    rows = [needles.row(haystack, 900, 0, example) for example in range(4)]
    assert answered(oracle, rows) == [True] * 4
    read_at_once = oracle.read
    assert read_at_once.startswith(b"\0" + rows[0].prompt)
    for piece in (4, 100, 10_000):
        oracle.read = b""
        assert answers(Session(oracle), rows, piece) == [True] * 4
        assert oracle.read == read_at_once


@pytest.mark.slow
def test_a_needle_in_a_million_bytes_is_found() -> None:
    (found,) = search(Oracle(), Needles((1 << 20,), (0.25,)), piece=1 << 16)
    assert found.accuracy == 1.0


class Full(nn.Module):
    def forward(self, ids: Tensor, state: None = None) -> tuple[Tensor, None]:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_rows_that_do_not_fit_are_told_and_no_miss() -> None:
    (found,) = search(Full(), Needles((200,), (0.5,)))
    assert (found.accuracy, found.asked, found.remark) == (None, 0, "out of memory")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Needles((20,), (0.5,)), "takes at least 137 bytes, got 20"),
        (lambda: Needles((200,), (1.5,)), "from 0 to 1; got 1.5"),
        (
            lambda: search(build_model({"dim": 16, "layers": 1}, 64), Needles((200,), (0.5,))),
            "by a model with 256 token ids; this one has 64",
        ),
    ],
)
def test_what_cannot_be_looked_for_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
