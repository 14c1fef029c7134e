"""Token after token: what is decoded equals the parallel pass, and replayed calls equal calls."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from titanlab import build_model
from titanlab.benchmarks.decode import latency
from titanlab.benchmarks.streamed_models import period_of
from titanlab.platform.decoding.choosing import Drawn, decode, most_likely
from titanlab.platform.decoding.session import Session
from titanlab.platform.decoding.state_tree import copied
from titanlab.platform.errors import ConfigError

VOCAB = 32
BLOCKS: dict[str, dict[str, Any]] = {
    "mac": {"type": "mac", "segment": 6},
    "mag": {"type": "mag", "window": 5},
    "mal": {"type": "mal", "window": 5},
    "lmm": {"type": "lmm"},
    "transformer": {"type": "transformer"},
}
PERIODS = {"mac": 12, "mag": 4, "mal": 4, "lmm": 4, "transformer": 1}
MEMORIES: dict[str, dict[str, Any]] = {
    "titans": {"type": "titans", "chunk_size": 4},
    "linear": {"type": "titans", "depth": 1, "chunk_size": 4, "convolution": 1},
    "chunk gates": {"type": "titans", "chunk_size": 4, "keep": "chunk", "momentum": "chunk", "step": "chunk"},
    "no momentum": {"type": "titans", "chunk_size": 4, "momentum": "none", "keep": "constant"},
    "chunks of one": {"type": "titans", "chunk_size": 1},
    "atlas": {"type": "atlas", "chunk_size": 4},
    "delta": {"type": "delta", "chunk_size": 4},
    "momentum_delta": {"type": "momentum_delta", "chunk_size": 4},
    "rwkv7": {"type": "rwkv7", "chunk_size": 4},
}


class Again:
    """Stands in for CUDA graphs: what is recorded is not done, and done anew at every replay, on the same memory."""

    def __init__(self) -> None:
        self.records = 0

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.records += 1
        return work


class Refusing:
    """Cannot record."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")


def model_of(architecture: str, memory: str = "titans", device: str = "cpu", layers: int = 2) -> nn.Module:
    torch.manual_seed(0)
    settings = {"dim": 16, "layers": layers, "architecture": BLOCKS[architecture], "memory": MEMORIES[memory]}
    model = build_model(settings, VOCAB).eval()
    return model.double() if device == "cpu" else model.to(device)


def prompt(tokens: int = 9, batch: int = 2) -> Tensor:
    return torch.randint(VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", BLOCKS)
def test_decoding_gives_what_the_parallel_pass_gives(architecture: str) -> None:
    model, ids = model_of(architecture), prompt()
    session = Session(model)
    said = decode(session, session.run(ids)[:, -1], 30)
    with torch.no_grad():
        logits = model(torch.cat([ids, said[:, :-1]], 1))[0][:, ids.shape[1] - 1 :]
    assert torch.equal(logits.argmax(-1), said)
    session = Session(model)
    stepwise = [session.run(ids)[:, -1]] + [session.run(said[:, i : i + 1])[:, -1] for i in range(29)]
    assert (torch.stack(stepwise, 1) - logits).abs().max() <= 1e-10


def follows(model: nn.Module, recorder: Any, ids: Tensor, steps: int = 32) -> Session:
    """Runs an eager and a recording session side by side, and holds them to the same logits at every step."""
    eager, recording = Session(model, graphs="none"), Session(model, recorder=recorder)
    for session in (eager, recording):
        session.run(ids)
    token = ids[:, :1]
    for _ in range(steps):
        expected, got = eager.run(token)[:, -1], recording.run(token)[:, -1]
        assert (got - expected).abs().max() <= 1e-10
        token = expected.argmax(-1)[:, None]
    return recording


@pytest.mark.parametrize("architecture", BLOCKS)
def test_replayed_steps_equal_steps_at_every_place_of_the_chunk(architecture: str) -> None:
    recorder = Again()
    session = follows(model_of(architecture), recorder, prompt(5))
    period = PERIODS[architecture]
    assert session.recorded == recorder.records == (0 if architecture == "transformer" else period)
    assert session.replayed == (architecture != "transformer")


@pytest.mark.parametrize("memory", MEMORIES)
def test_replayed_steps_equal_steps_of_every_kind_of_memory(memory: str) -> None:
    session = follows(model_of("mag", memory, layers=1), Again(), prompt(7), steps=16)
    assert session.replayed and not session.failure


class Exchanging(nn.Module):
    """Its state's parts change places at every step, and its logits may be one of them."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own

    def forward(self, ids: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        a, b, c = state if state is not None else (torch.ones(ids.shape[0], 3) * number for number in (1.0, 2.0, 3.0))
        added = a + ids.sum(1, keepdim=True)
        logits = (a - 2 * b + 4 * c) if self.own else a
        return logits[:, None], (b, added, b)


@pytest.mark.parametrize("own", [True, False])
def test_parts_of_a_state_that_change_places_are_written_in_the_right_order(own: bool) -> None:
    follows(Exchanging(own), Again(), prompt(3), steps=12)


class Rolling(nn.Module):
    """Its state's parts are views of the parts before, of the same memory at another place."""

    def forward(self, ids: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        new = ids[:, -1:].double()
        line = torch.zeros(ids.shape[0], 4).double() if state is None else torch.cat([state["old"], state["new"]], 1)
        line = torch.cat([line[:, 1:], new], 1)
        return line[:, None], {"old": line[:, :2], "new": line[:, 2:]}


def test_a_window_that_rolls_is_written_in_the_right_order() -> None:
    follows(Rolling(), Again(), prompt(3), steps=12)


def test_what_cannot_be_recorded_is_run_as_it_is_and_said() -> None:
    session = follows(model_of("lmm"), Refusing(), prompt())
    assert session.recorded == 0 and not session.replayed and not session.records
    assert session.failure == "RuntimeError: operation not permitted when stream is capturing"


def test_a_copied_state_stays_while_its_session_goes_on() -> None:
    model, ids = model_of("mac"), prompt(14)
    session = Session(model, recorder=Again())
    session.run(ids)
    for _ in range(30):
        session.run(ids[:, :1])
    kept = copied(session.state)
    expected = session.run(ids[:, 3:4]).clone()
    for _ in range(15):
        session.run(ids[:, 1:2])
    session.resume(kept)
    assert (session.run(ids[:, 3:4]) - expected).abs().max() <= 1e-12
    assert (Session(model, kept).run(ids[:, 3:4]) - expected).abs().max() <= 1e-12


def test_pieces_can_be_replayed_too() -> None:
    model, ids = model_of("mag"), prompt(60)
    eager, recording = Session(model), Session(model, graphs="all", recorder=Again())
    for start in range(0, 60, 12):
        expected, got = (session.run(ids[:, start : start + 12]) for session in (eager, recording))
        assert (got - expected).abs().max() <= 1e-10
    assert recording.replayed and recording.recorded == 1


@pytest.mark.parametrize("architecture", BLOCKS)
def test_the_period_of_a_model_is_that_of_its_chunks_and_segments(architecture: str) -> None:
    assert period_of(model_of(architecture)) == PERIODS[architecture]  # type: ignore[arg-type]


def test_latency_is_timed_with_every_step_recorded() -> None:
    session = Session(model_of("mag"), recorder=Again())
    found = latency(session, session.run(prompt())[:, -1], 4, 8)
    assert found.by == "graphs" and 0 < found.median_ms <= found.p90_ms < math.inf
    session = Session(model_of("mag"))
    assert latency(session, session.run(prompt())[:, -1], 4, 2).by == "eager"


def test_drawn_tokens_follow_the_seed_and_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -50.0]]).expand(4000, -1)
    first, again, other = Drawn(1)(logits), Drawn(1)(logits), Drawn(2)(logits)
    assert torch.equal(first, again) and not torch.equal(first, other)
    shares = torch.bincount(first, minlength=4) / 4000
    assert (shares - logits[0].softmax(-1)).abs().max() < 0.03
    cold = torch.bincount(Drawn(1, temperature=0.25)(logits), minlength=4) / 4000
    assert cold[2] > 0.95
    assert set(Drawn(1, top=2)(logits).tolist()) == {1, 2}
    assert torch.equal(Drawn(1, top=1)(logits), most_likely(logits))
    equal = torch.zeros(4000, 4)
    assert len(set(Drawn(1, top=1)(equal).tolist())) == 1 and len(set(Drawn(1, top=2)(equal).tolist())) == 2


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature: expected above 0, got 0; 0 is greedy"):
        Drawn(0, temperature=0)
    with pytest.raises(ConfigError, match="at least 1 token"):
        Drawn(0, top=0)
    with pytest.raises(ConfigError, match="temperature: expected above 0, got nan"):
        Drawn(0, temperature=math.nan)
    model = build_model({"dim": 16, "layers": 1, "architecture": {"type": "lmm"}}, 8)
    with pytest.raises(ConfigError, match="tokens: expected at least 1, got 0"):
        decode(Session(model.eval()), torch.zeros(1, 8), 0)
    with pytest.raises(ConfigError, match="CUDA graphs need a model on a GPU"):
        Session(model_of("lmm"), graphs="steps")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", BLOCKS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cuda_graphs_give_the_tokens_that_steps_give(architecture: str, precision: Any) -> None:
    model, ids = model_of(architecture, device="cuda"), prompt(21, batch=3).cuda()
    eager, graphs = (Session(model, precision=precision, graphs=use) for use in ("none", "steps"))  # type: ignore[arg-type]
    said = [decode(session, session.run(ids)[:, -1].clone(), 64) for session in (eager, graphs)]
    assert torch.equal(*said) and not graphs.failure
    assert (graphs.recorded == PERIODS[architecture]) == (architecture != "transformer")
    token = said[0][:, -1:]
    for _ in range(2 * PERIODS[architecture]):
        expected, got = (session.run(token) for session in (eager, graphs))
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_stream_of_recorded_pieces_equals_one_that_is_not() -> None:
    from titanlab.platform.streaming.stream import StreamSettings, stream
    from titanlab.platform.streaming.tokens import RandomTokens

    model, tokens = model_of("mag", device="cuda"), RandomTokens(VOCAB)
    losses = []
    for graphs in (False, True):
        course = stream(model, tokens, StreamSettings(4096, piece=256, precision="float32", graphs=graphs))
        losses.append([stretch.loss for stretch in course.stretches])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("architecture", sorted(BLOCKS))
def test_no_tokens_after_some_change_nothing(architecture: str) -> None:
    model = build_model({"dim": 16, "layers": 2, "architecture": BLOCKS[architecture]}, VOCAB).double().eval()
    ids = torch.randint(VOCAB, (2, 9))
    with torch.no_grad():
        _, state = model(ids[:, :5])
        nothing, state = model(ids[:, 5:5], state)
        rest, _ = model(ids[:, 5:], state)
        whole, _ = model(ids)
    assert nothing.shape == (2, 0, VOCAB)
    torch.testing.assert_close(rest, whole[:, 5:], rtol=0, atol=1e-12)


def test_a_memory_that_learns_by_autograd_says_what_inference_mode_takes_from_it() -> None:
    memory = {"type": "ttt_mlp", "chunk_size": 4}
    model = build_model({"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": memory}, VOCAB)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch\.no_grad\(\) instead"):
        model(torch.zeros(1, 8, dtype=torch.long))
