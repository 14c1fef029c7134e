"""Streams of any length: pieces equal one call, the state does not grow, and every end has a reason."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from titanlab import MEMORY_MODULES, build_model
from titanlab.platform.decoding.session import Session
from titanlab.platform.decoding.state_tree import BALLAST, copied, rows_repeated, state_bytes
from titanlab.platform.errors import ConfigError, DataError
from titanlab.platform.streaming.schedule import cuts, places_told
from titanlab.platform.streaming.state_norms import state_norms
from titanlab.platform.streaming.stream import StreamSettings, Stretch, default_piece, stream, summed_loss
from titanlab.platform.streaming.tokens import BLOCK, RandomTokens, TextTokens
from titanlab.platform.tensors import State

CHUNK, SEGMENT, WINDOW, VOCAB = 4, 8, 6, 32
PERIOD = 8
"""Tokens after which chunk and segment begin together."""
BLOCKS: dict[str, dict[str, Any]] = {
    "mac": {"segment": SEGMENT},
    "mag": {"window": WINDOW},
    "mal": {"window": WINDOW},
    "lmm": {},
    "sliding_window": {"window": WINDOW},
}
ALL = [*BLOCKS, "transformer"]


def model_of(architecture: str, memory: dict[str, Any] | None = None) -> nn.Module:
    torch.manual_seed(0)
    block = {"type": architecture, **BLOCKS.get(architecture, {})}
    memory = memory or {"type": "titans", "chunk_size": CHUNK}
    return build_model({"dim": 16, "layers": 2, "architecture": block, "memory": memory}, VOCAB).double().eval()


def some_ids(tokens: int, batch: int = 2) -> Tensor:
    return torch.randint(VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(1))


def in_pieces(model: nn.Module, ids: Tensor, *ends: int) -> Tensor:
    session = Session(model)
    return torch.cat([session.run(ids[:, start:end]) for start, end in zip((0, *ends), (*ends, None), strict=True)], 1)


@pytest.mark.parametrize("architecture", ALL)
def test_a_stream_cut_anywhere_equals_one_call(architecture: str) -> None:
    model, ids = model_of(architecture), some_ids(45)
    with torch.no_grad():
        whole = model(ids)[0]
    for ends in [(1, 2, 3), (PERIOD, 3 * PERIOD), (7, 20, 21, 40), tuple(range(1, 45))]:
        assert (in_pieces(model, ids, *ends) - whole).abs().max() <= 1e-10


@pytest.mark.parametrize("architecture", ALL)
def test_tokens_to_come_do_not_change_logits_that_were_given(architecture: str) -> None:
    model, ids = model_of(architecture), some_ids(40)
    other = ids.clone()
    other[:, 23:] = (other[:, 23:] + 1) % VOCAB
    before, after = (in_pieces(model, row, 10, 19, 30) for row in (ids, other))
    assert (before[:, :23] - after[:, :23]).abs().max() == 0.0
    assert (before[:, 23:] - after[:, 23:]).abs().amax((0, 2)).min() > 0


@pytest.mark.parametrize("architecture", ALL)
def test_the_loss_of_a_stream_is_that_of_one_call(architecture: str) -> None:
    model, tokens = model_of(architecture), RandomTokens(VOCAB, 2, seed=3)
    course = stream(model, tokens, StreamSettings(100, piece=16, also_told=(50,)))
    ids, targets = tokens.between(-1, 99), tokens.between(0, 100)
    with torch.no_grad():
        losses = F.cross_entropy(model(ids)[0].flatten(0, 1), targets.flatten(), reduction="none").view(2, 100)
    assert [(each.start, each.stop) for each in course.stretches] == [(0, 50), (50, 100)]
    for stretch in course.stretches:
        assert stretch.loss == pytest.approx(float(losses[:, stretch.start : stretch.stop].mean()), abs=1e-10)


def test_summing_the_loss_part_by_part_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = torch.randn(2, 9, VOCAB, dtype=torch.float64), some_ids(9)
    whole = summed_loss(logits, targets)
    monkeypatch.setattr("titanlab.platform.streaming.stream.COMPARED", 4 * VOCAB)
    assert summed_loss(logits, targets) == pytest.approx(whole, abs=1e-10)
    assert whole == pytest.approx(float(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")))


@pytest.mark.parametrize("architecture", BLOCKS)
def test_the_state_does_not_grow_once_the_window_is_full(architecture: str) -> None:
    model = model_of(architecture)
    session, sizes = Session(model), []
    for _ in range(20):
        session.run(some_ids(PERIOD))
        sizes.append(state_bytes(session.state))
    assert len(set(sizes)) == 1


def test_only_the_transformers_state_grows() -> None:
    session, sizes = Session(model_of("transformer")), []
    for _ in range(4):
        session.run(some_ids(PERIOD))
        sizes.append(state_bytes(session.state))
    assert [size / sizes[0] for size in sizes] == [1, 2, 3, 4]


@pytest.mark.parametrize("architecture", ALL)
def test_a_state_holds_nothing_of_the_piece_that_it_came_from(architecture: str) -> None:
    session = Session(model_of(architecture))
    session.run(some_ids(50 * PERIOD))
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(session.state) if isinstance(leaf, Tensor)]
    for leaf in tensors:
        assert leaf.untyped_storage().nbytes() <= BALLAST * leaf.numel() * leaf.element_size()


def test_a_repeated_state_gives_every_row_the_same_logits() -> None:
    session, other = Session(model_of("mac")), some_ids(3, 1)
    session.run(some_ids(13, 1))
    many = Session(session.model, rows_repeated(copied(session.state), 3))
    one, three = session.run(other), many.run(other.expand(3, -1))
    assert (three - one).abs().max() <= 1e-12


class Faulty(nn.Module):
    """A model of which something goes wrong once it has read so many tokens."""

    vocab_size = VOCAB

    def __init__(self, fault: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], at: int) -> None:
        super().__init__()
        self.fault, self.at = fault, at

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        before = torch.zeros(ids.shape[0], 1) if state is None else state["read"]
        logits, read = torch.zeros(*ids.shape, VOCAB), before + ids.shape[1]
        return (logits, {"read": read}) if read[0] <= self.at else self.result(logits, before, read)

    def result(self, logits: Tensor, before: Tensor, read: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, read = self.fault(logits, read)
        return logits, {"read": read}


def full(logits: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def full_cpu(logits: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: tried 99 bytes")


def broken(logits: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    raise RuntimeError("shapes do not match")


def nan_logits(logits: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    logits[0, 2] = math.nan
    return logits, read


def infinite_state(logits: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    return logits, read * math.inf


@pytest.mark.parametrize("fault", [full, full_cpu])
def test_a_stream_for_which_memory_is_too_small_ends_with_what_it_reached(fault: Any) -> None:
    told: list[Stretch] = []
    course = stream(Faulty(fault, 4000), RandomTokens(VOCAB), StreamSettings(1 << 20, piece=512), told.append)
    assert (course.ended, course.reached, course.state) == ("memory", 3584, None)
    assert course.reason == "out of memory after 3,584 tokens"
    assert [stretch.stop for stretch in course.stretches] == [1024, 2048] == [stretch.stop for stretch in told]


def test_another_error_is_not_taken_for_full_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"):
        stream(Faulty(broken, 100), RandomTokens(VOCAB), StreamSettings(1000, piece=64))


def test_a_limit_of_state_ends_the_baseline_and_leaves_the_others() -> None:
    limit = 40_000
    ends = {}
    for architecture in ("transformer", "mag"):
        settings = StreamSettings(600, piece=40, state_limit=limit)
        ends[architecture] = stream(model_of(architecture), RandomTokens(VOCAB), settings)
    assert (ends["mag"].ended, ends["mag"].reached) == ("length", 600)
    assert ends["transformer"].ended == "memory" and 40 < ends["transformer"].reached < 600
    assert "larger than 40,000 bytes" in ends["transformer"].reason
    assert ends["transformer"].stretches[-1].stop == ends["transformer"].reached


def test_logits_that_are_not_finite_end_a_stream_at_their_token() -> None:
    course = stream(Faulty(nan_logits, 100), RandomTokens(VOCAB, 1), StreamSettings(500, piece=50))
    assert (course.ended, course.reached) == ("numbers", 150)
    assert course.reason == "the logits of token 102 are not finite"


def test_a_state_that_is_not_finite_ends_a_stream_and_is_named() -> None:
    course = stream(Faulty(infinite_state, 100), RandomTokens(VOCAB), StreamSettings(500, piece=50))
    assert (course.ended, course.reached) == ("numbers", 150)
    assert course.reason == "state['read'] is not finite after 150 tokens"


def test_a_memory_that_overflows_is_found_by_its_layer_and_part() -> None:
    model = model_of("lmm").float()
    with torch.no_grad():
        model.blocks[1].memory.initial_memory[0].fill_(1e30)  # type: ignore[union-attr,index]
    course = stream(model, RandomTokens(VOCAB), StreamSettings(200, piece=40))
    assert course.ended == "numbers" and course.reached == 40


def test_time_that_is_up_ends_a_stream_after_the_piece_under_way() -> None:
    course = stream(model_of("lmm"), RandomTokens(VOCAB), StreamSettings(4096, piece=16, seconds=1e-9))
    assert (course.ended, course.reached) == ("time", 16)
    assert course.stretches[-1].tokens_per_second > 0 and "at 16 tokens" in course.reason


def test_norms_are_those_of_every_head_of_the_state() -> None:
    session = Session(model_of("mac", {"type": "titans", "depth": 2, "heads": 2, "chunk_size": CHUNK}))
    session.run(some_ids(21))
    norms = state_norms(session.state)
    assert [(norm.layer, norm.part) for norm in norms] == [
        (layer, part) for layer in (0, 1) for part in ("weights[0]", "weights[1]", "momentum[0]", "momentum[1]")
    ]
    memories = [block.memory.rule.memory for block in session.state]
    expected = [
        torch.linalg.matrix_norm(matrix)
        for memory in memories
        for family in (memory.weights, memory.momentum)
        for matrix in family
    ]
    for norm, heads in zip(norms, expected, strict=True):
        assert heads.shape == (2, 2)
        assert (norm.mean, norm.largest) == (pytest.approx(float(heads.mean())), pytest.approx(float(heads.max())))


@pytest.mark.parametrize("kind", sorted(MEMORY_MODULES))
def test_every_memory_has_norms(kind: str) -> None:
    memory = {"type": kind, **({"chunk_size": 4} if "chunk_size" in MEMORY_MODULES[kind].model_fields else {})}
    model = build_model({"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": memory}, VOCAB)
    session = Session(model.eval())
    session.run(some_ids(6, 1))
    norms = state_norms(session.state)
    assert norms and all(math.isfinite(norm.mean) and norm.largest >= norm.mean > 0 for norm in norms)


def test_every_part_of_a_memory_has_its_norm_and_name() -> None:
    def norms_of(memory: dict[str, Any]) -> tuple[dict[str, float], Any]:
        torch.manual_seed(0)
        model = build_model({"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": memory}, VOCAB)
        session = Session(model.eval())
        session.run(some_ids(8, 1))
        norms = state_norms(session.state)
        assert len({norm.part for norm in norms}) == len(norms)
        return {norm.part: norm.mean for norm in norms}, session.state

    found, state = norms_of({"type": "module", "chunk_size": 4})
    tensors = [(path, x) for path, x in pytree.tree_flatten_with_path(state)[0] if isinstance(x, Tensor)]
    for kind in ("weights", "momentum"):
        of_kind = {part: norm for part, norm in found.items() if part.startswith(f"{kind}.")}
        leaves = [x for path, x in tensors if pytree.GetAttrKey(kind) in path]
        expected = sorted(float(x.flatten(0, 1).flatten(1).norm(dim=1).mean()) for x in leaves)
        assert of_kind and sorted(of_kind.values()) == pytest.approx(expected)
    assert list(norms_of({"type": "rwkv7"})[0]) == ["memory"]  # the last input is none


def test_a_cache_of_tokens_has_no_norm() -> None:
    session = Session(model_of("transformer"))
    session.run(some_ids(5))
    assert state_norms(session.state) == []


@pytest.mark.parametrize("tokens", [RandomTokens(VOCAB, 3, seed=5), TextTokens(b"a text of some length", batch=3)])
def test_tokens_depend_on_their_place_alone(tokens: Any) -> None:
    for start in (0, BLOCK - 10, (1 << 33) - 7):
        whole = tokens.between(start, start + 40)
        parts = [tokens.between(start + first, start + first + 8) for first in range(0, 40, 8)]
        assert torch.equal(torch.cat(parts, 1), whole) and whole.shape == (3, 40)
    assert tokens.between(-1, 2)[:, 0].tolist() == [0, 0, 0]
    assert torch.equal(tokens.between(-1, 2)[:, 1:], tokens.between(0, 2))


def test_rows_of_a_text_that_cannot_differ_are_refused() -> None:
    with pytest.raises(DataError, match="has 2 bytes, too few for 3 rows"):
        TextTokens(b"ab", batch=3)


def test_random_tokens_differ_between_blocks_rows_and_seeds() -> None:
    tokens = RandomTokens(1000, 2)
    first, second = tokens.between(0, 100), tokens.between(BLOCK, BLOCK + 100)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert not torch.equal(first, RandomTokens(1000, 2, seed=1).between(0, 100))


def test_text_begins_again_where_it_ends() -> None:
    assert bytes(TextTokens(b"abc").between(1, 8)[0].tolist()) == b"bcabcab"
    with pytest.raises(DataError, match="empty"):
        TextTokens(b"")


@pytest.mark.parametrize("length, piece", [(1, 8), (1000, 7), (5000, 1024), (40_000, 4096)])
def test_pieces_cover_a_stream_once_and_end_where_something_is_told(length: int, piece: int) -> None:
    told = places_told(length, also=(3,))
    found = list(cuts(length, piece, told))
    assert [cut.start for cut in found] == [0, *(cut.stop for cut in found)][:-1] and found[-1].stop == length
    assert max(cut.stop - cut.start for cut in found) <= piece
    assert [cut.stop for cut in found if cut.told] == told
    assert {cut.start % piece for cut in found if cut.start not in told} <= {0}


def test_what_is_told_of_a_stream_does_not_grow_with_it() -> None:
    assert places_told(2_097_152)[-1] == 2_097_152 and 1 << 16 in places_told(10_485_760)
    assert len(places_told(10_485_760)) < 64 and len(places_told(10**12)) < 96


def test_pieces_are_shorter_where_logits_are_wide() -> None:
    assert (default_piece(256, 1), default_piece(32_000, 1), default_piece(10**9, 8)) == (65_536, 4194, 1)


def test_a_stream_of_no_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="length: expected at least 1 token, got 0"):
        StreamSettings(0)
