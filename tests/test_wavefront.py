"""Rows in pieces, of which several are computed at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from titanlab import build_model
from titanlab.architectures.attention.flash_kernels import capability, kernel_for
from titanlab.memory_modules.kernels.backends import HIDDEN
from titanlab.platform import wavefront
from titanlab.platform.errors import ConfigError
from titanlab.platform.run_config import TrainConfig
from titanlab.platform.task import Batch
from titanlab.platform.training import device
from titanlab.platform.training.step import TrainingStep
from titanlab.platform.wavefront import in_wavefront

LAYERS, PIECES = 3, 7


class Stream:
    """What a stream is told to do, in place of one of a GPU."""

    current: Stream

    def __init__(self, *device: Any) -> None:
        self.number = 0
        self.queue: list[tuple[str, Any]] = []

    def wait_stream(self, other: Stream) -> None:
        self.queue.append(("wait", (other, len(other.queue))))

    def wait_event(self, event: tuple[Stream, int]) -> None:
        self.queue.append(("wait", event))

    def record_event(self) -> tuple[Stream, int]:
        return self, len(self.queue)

    def waits_for(self, other: Stream) -> bool:
        return any(kind == "wait" and what[0] is other and what[1] == len(other.queue) for kind, what in self.queue)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """The stream on which everything else is computed."""
    Stream.current = first = Stream()

    @contextmanager
    def entered(stream: Stream) -> Iterator[None]:
        before, Stream.current = Stream.current, stream
        try:
            yield
        finally:
            Stream.current = before

    monkeypatch.setattr("torch.cuda.Stream", Stream)
    monkeypatch.setattr("torch.cuda.stream", entered)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: Stream.current)
    monkeypatch.setattr(wavefront, "_STREAMS", {})
    return first


def layers(seen: list[tuple[int, Stream]]) -> list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Each adds up all that it has seen, with a weight of its own, and says on which stream it did."""

    def layer(index: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        weight = torch.tensor(0.5 + index, dtype=torch.float64, requires_grad=True)

        def call(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            seen.append((index, Stream.current))
            Stream.current.queue.append(("layer", index))
            sums = state[:, None] + (weight * x).tanh().cumsum(1)
            return sums, sums[:, -1]

        return call

    return [layer(index) for index in range(LAYERS)]


def computed(way: Callable[..., tuple[Tensor, list[Tensor]]]) -> tuple[list[Tensor], list[tuple[int, Stream]]]:
    torch.manual_seed(0)
    seen: list[tuple[int, Stream]] = []
    x = torch.randn(2, 2 * PIECES, 4, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(LAYERS)]
    y, after = way(layers(seen), x, states)
    gradients = torch.autograd.grad(sum((z * z).sum() for z in (y, *after)), [x, *states])
    return [y, *after, *gradients], seen


def at_once(steps: Any, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    streams = wavefront._streams(x.device, wavefront.STREAMS + 1)
    return wavefront._at_once(steps, x.split(2, 1), list(states), streams)


@pytest.mark.usefixtures("main")
def test_pieces_at_once_give_what_pieces_in_turn_do() -> None:
    (found, seen), (expected, _) = computed(at_once), computed(lambda *given: in_wavefront(*given, 2))
    whole, _ = computed(lambda *given: in_wavefront(*given, 100))
    assert len(seen) == LAYERS * PIECES
    for one, other, third in zip(found, expected, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        torch.testing.assert_close(one, third, rtol=0, atol=1e-12)


def test_a_layer_waits_for_the_piece_before_and_for_nothing_later(main: Stream) -> None:
    _, seen = computed(at_once)
    # What must have happened before each call, by streams' order and what they waited for.
    place: dict[tuple[int, int], tuple[Stream, int]] = {}
    counts = [0] * LAYERS
    position: dict[int, int] = {}
    for index, stream in seen:
        queue = [at for at, (kind, what) in enumerate(stream.queue) if kind == "layer"]
        at = queue[position.get(id(stream), 0)]
        position[id(stream)] = position.get(id(stream), 0) + 1
        place[counts[index], index] = stream, at
        counts[index] += 1

    def happened(stream: Stream, stop: int, known: dict[int, int]) -> dict[int, int]:
        """For each stream up to where its queue is done when that of `stream` is at `stop`."""
        if known.get(id(stream), -1) >= stop:
            return known
        known[id(stream)] = stop
        for kind, what in stream.queue[:stop]:
            if kind == "wait":
                happened(*what, known)
        return known

    for (piece, index), (stream, at) in place.items():
        done = happened(stream, at, {})

        def is_done(other: tuple[int, int], done: dict[int, int] = done) -> bool:
            where, number = place[other]
            return done.get(id(where), -1) > number

        assert piece == 0 or is_done((piece - 1, index))
        assert index == 0 or is_done((piece, index - 1))
        later = [cell for cell in place if sum(cell) > piece + index]
        assert not any(map(is_done, later))
    done = happened(main, len(main.queue), {})
    assert all(done.get(id(stream), -1) > at for stream, at in place.values())
    streams = {id(stream) for stream, _ in place.values()}
    assert len(streams) == wavefront.STREAMS + 1
    first = place[0, 0][0]
    assert [piece for (piece, _), (stream, _) in place.items() if stream is first] == [0] * LAYERS


@pytest.mark.usefixtures("main")
def test_what_is_saved_goes_with_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[weakref.ref[Tensor]] = []
    own = wavefront._saved_on

    def noted(stream: Any, tensor: Tensor) -> Tensor:
        kept = own(stream, tensor)
        saved.append(weakref.ref(kept))
        return kept

    monkeypatch.setattr(wavefront, "_saved_on", noted)
    y, after = at_once(layers([]), torch.randn(2, 2 * PIECES, 4).double(), [torch.zeros(2, 4).double()] * LAYERS)
    assert saved and any(ref() is not None for ref in saved)
    del y, after
    gc.collect()
    assert not any(ref() is not None for ref in saved)


def test_an_error_joins_the_streams_that_are_recorded(main: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        Stream.current.queue.append(("layer", None))
        raise torch.OutOfMemoryError("too large")

    steps = [*layers([])[:-1], refuse]
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: bool(Stream.current.queue))
    with pytest.raises(torch.OutOfMemoryError, match="too large"), wavefront.streams_joined():
        at_once(steps, torch.randn(2, 2 * PIECES, 4).double(), [torch.zeros(2, 4).double()] * LAYERS)
    (streams,) = wavefront._STREAMS.values()
    assert Stream.current is main and len(streams) == wavefront.STREAMS + 1
    idle = Stream()
    wavefront._STREAMS[torch.device("cpu")].append(idle)  # what was never forked to is no part of the recording
    with pytest.raises(ZeroDivisionError), wavefront.streams_joined():
        raise ZeroDivisionError
    assert all(main.waits_for(stream) for stream in streams if stream is not idle) and not main.waits_for(idle)


@pytest.mark.parametrize(("multiprocessors", "streams"), [(132, 5), (114, 5), (60, 3), (32, 2), (16, 1)])
def test_kernels_whose_programs_wait_for_each_other_have_room(
    multiprocessors: int, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = type("Properties", (), {"multi_processor_count": multiprocessors})
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    assert wavefront._most_streams(torch.device("cuda")) == streams
    assert streams * wavefront.MOST_WAITING < multiprocessors


def test_no_more_programs_wait_for_each_other_than_there_is_room_for() -> None:
    pytest.importorskip("triton", reason="needs Triton, which is for Linux")
    from titanlab.memory_modules.kernels.triton_two_matrix_memory import slices_for

    assert HIDDEN / slices_for(HIDDEN, on_gpu=True).units == wavefront.MOST_WAITING + 1


def test_pieces_are_not_computed_again() -> None:
    with pytest.raises(ValidationError, match="cannot be used with `checkpoint_blocks`"):
        TrainConfig(wavefront=16, checkpoint_blocks=True)
    model = build_model({"dim": 16, "layers": 1, "architecture": {"type": "lmm"}}, 8)
    with pytest.raises(ValueError, match="piece: pieces share"):
        model.hidden(torch.zeros(1, 8, dtype=torch.long), recompute=True, piece=4)


@pytest.mark.parametrize("count", [1, 3])
def test_another_models_state_is_refused(count: int) -> None:
    model = build_model({"dim": 16, "layers": 2, "architecture": {"type": "lmm"}}, 8)
    state = (model.initial_state(1) * 2)[:count]
    with pytest.raises(ValueError, match=f"state: has {count} entries; expected 2"):
        model(torch.zeros(1, 8, dtype=torch.long), state)


def test_several_ranks_on_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"train\.wavefront: needs one process, and 2 ranks train together"):
        device.check_wavefront(torch.device("cuda"))
    device.check_wavefront(torch.device("cpu"))


@pytest.fixture
def in_fixed_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums are taken in the same order every time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(900)  # most of it compiles
@pytest.mark.usefixtures("in_fixed_order")
@pytest.mark.filterwarnings("ignore")
def test_on_a_gpu_replays_of_a_wavefront_give_the_same_bits_and_the_gradients_of_whole_rows() -> None:
    # bfloat16, in which weights in the lower type are shared by the streams and states are kept
    kernel = kernel_for(capability(torch.device("cuda", 0)))  # of flash-attn 4, which can add in a fixed order
    if isinstance(kernel, str) or not kernel.log_sum_has_gradient:
        pytest.skip(kernel if isinstance(kernel, str) else "flash-attn 2 trains no mac")
    architecture = {"type": "mac", "segment": 512, "heads": 8, "persistent": 4, "attention": "flash"}
    memory = {"type": "titans", "heads": 8, "chunk_size": 64}
    found = []
    for piece in (0, 512, 1024):
        torch.manual_seed(0)
        model = build_model({"dim": 512, "layers": 6, "architecture": architecture, "memory": memory}, 256).cuda()
        settings = {"batch_size": 2, "cuda_graph": True, "keep_states": True, "wavefront": piece}
        step = TrainingStep(model.train(), TrainConfig.model_validate(settings), torch.device("cuda", 0))
        ids = torch.randint(256, (2, 8193), generator=torch.Generator().manual_seed(1))
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(2, 8192))
        step.prepare(batch)
        replays = []
        for _ in range(6):
            step.gradients(batch)
            named = model.named_parameters()
            replays.append({name: p.grad.detach().clone() for name, p in named if p.grad is not None})
        assert all(torch.equal(x, again[name]) for again in replays[1:] for name, x in replays[0].items())
        found.append(torch.cat([x.flatten().float() for x in replays[0].values()]))
    whole, *pieces = found
    assert all((other - whole).norm() <= 5e-3 * whole.norm() for other in pieces)
