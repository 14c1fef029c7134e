"""Ways to train a whole model faster or in less memory: none changes what is learned."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import titanlab.platform.fusion as fusion
from titanlab.memory_modules.layer import MemoryLayer, _queries_keys_values, unit
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.errors import ConfigError
from titanlab.platform.fusion import fused, fusible
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.model import Model, build_model, logits_loss, recomputed
from titanlab.platform.norms import RMSNorm
from titanlab.platform.run_config import RunConfig, TrainConfig
from titanlab.platform.switch import Switch
from titanlab.platform.task import Batch
from titanlab.platform.training import losses
from titanlab.platform.training.checkpoint import load_model
from titanlab.platform.training.device import fuses_kernels
from titanlab.platform.training.loop import train
from titanlab.platform.training.losses import sum_of_nats
from titanlab.platform.training.parallel import GradientComputer
from titanlab.platform.training.recorded import RecordedGradient
from titanlab.platform.training.step import TrainingStep
from titanlab.platform.training_memory import training_memory

CPU = torch.device("cpu")

# torch's compiler looks at every tensor's .grad and hides the warning, but not from pytest, which makes it an error
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # torch's own
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tokens of 11 ids a chunk, which divides nothing."""
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 55)


@pytest.fixture
def differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's compiler without the part that writes and compiles C++."""
    monkeypatch.setattr(fusion, "BACKEND", "aot_eager")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch's compiler only the part that reads functions."""
    monkeypatch.setattr(fusion, "BACKEND", "eager")


def model(architecture: str = "mac", dtype: torch.dtype = torch.float64, **memory: Any) -> Model:
    torch.manual_seed(0)
    block = {"type": architecture}
    if architecture == "mac":
        block["segment"] = 16
    memory = {"type": "titans", "chunk_size": 8, **memory}
    return build_model({"dim": 16, "layers": 2, "architecture": block, "memory": memory}, 11).to(dtype)


def batch(rows: int = 3, length: int = 37, vocab: int = 11) -> Batch:
    torch.manual_seed(1)
    mask = (torch.rand(rows, length) < 0.7).float()
    mask[0, 20:] = 0
    return Batch(torch.randint(vocab, (rows, length)), torch.randint(vocab, (rows, length)), mask)


def gradients(of: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in of.named_parameters() if p.grad is not None}
    of.zero_grad(set_to_none=True)
    return found


def computed(of: Model, data: Batch, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
    config = TrainConfig(batch_size=len(data.ids), device="cpu", **settings)
    torch.manual_seed(3)  # a kind may draw dropout
    nats, counted = GradientComputer(of, config, CPU)(data)
    assert counted == float(data.mask.sum())
    return nats, gradients(of)


def assert_same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]], within: float) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=within, atol=0)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert (gradient - other[1][name]).norm() <= within * gradient.norm() + 1e-30, name


@pytest.mark.usefixtures("small_chunks")
def test_a_loss_in_chunks_is_the_whole_loss_and_so_are_its_gradients() -> None:
    data, results = batch(), []
    for way in ("whole", "chunked"):
        torch.manual_seed(2)
        x, head = (
            torch.randn(3, 37, 16, dtype=torch.float64, requires_grad=True),
            nn.Linear(16, 11, bias=False).double(),
        )
        loss = sum_of_nats(x, head, data.targets, data.mask, way)
        (loss * 0.37).backward()
        assert x.grad is not None and head.weight.grad is not None
        results.append((loss.detach(), {"x": x.grad, "weight": head.weight.grad}))
    assert_same(*results, within=1e-14)
    assert (results[1][1]["x"][data.mask == 0] == 0).all()


@pytest.mark.usefixtures("small_chunks")
def test_a_position_that_does_not_count_changes_nothing_in_a_loss_in_chunks() -> None:
    data, x = batch(), torch.randn(3, 37, 16)
    head = nn.Linear(16, 11, bias=False)
    edited = torch.where(data.mask == 0, torch.full_like(x[..., 0], 100.0), 0.0)[..., None] + x
    loss = sum_of_nats(x, head, data.targets, data.mask, "chunked")
    assert loss == sum_of_nats(edited, head, data.targets, data.mask, "chunked")
    padded = data.targets.masked_fill(data.mask == 0, -100)  # as other libraries mark it
    assert loss == sum_of_nats(x, head, padded, data.mask, "chunked")
    assert torch.equal(*(sum_of_nats(x, head, ids, data.mask, "whole") for ids in (data.targets, padded)))
    nothing = sum_of_nats(x, head, data.targets, torch.zeros_like(data.mask), "chunked")
    assert nothing == 0


@pytest.mark.usefixtures("small_chunks")
def test_a_loss_in_chunks_needs_no_gradient_and_works_under_autocast() -> None:
    data, head = batch(), nn.Linear(16, 11, bias=False)
    x = torch.randn(3, 37, 16, requires_grad=True)
    whole = logits_loss(head(x), data.targets, data.mask)
    with torch.no_grad():
        torch.testing.assert_close(sum_of_nats(x, head, data.targets, data.mask, "chunked"), whole)
    with torch.autocast("cpu", torch.bfloat16):
        low = sum_of_nats(x, head, data.targets, data.mask, "chunked")
    low.backward()
    assert low.dtype == torch.float32 and x.grad is not None and head.weight.grad is not None
    torch.testing.assert_close(low, whole, rtol=1e-2, atol=0)
    assert head.weight.grad.dtype == torch.float32


class Largest(TorchDispatchMode):
    """The most elements that one result has."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_a_large_loss_never_holds_all_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 1000)
    data, head = batch(rows=4, length=100, vocab=50), nn.Linear(8, 50, bias=False)
    for way, most in (("auto", 400 * 8), ("whole", 400 * 50)):
        x = torch.randn(4, 100, 8, requires_grad=True)
        with Largest() as largest:
            sum_of_nats(x, head, data.targets, data.mask, way).backward()
        assert largest.elements == most, way


def test_a_run_without_liger_kernel_or_a_gpu_is_told_so() -> None:
    with pytest.raises(ConfigError, match=r"train\.loss: .*(pip install liger-kernel|needs a CUDA device)"):
        GradientComputer(model(), TrainConfig(loss="liger"), CPU)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_blocks_computed_again_give_the_same_gradients(architecture: str) -> None:
    tried, data = model(architecture), batch()
    assert_same(computed(tried, data), computed(tried, data, checkpoint_blocks=True), within=1e-14)


@pytest.mark.parametrize("piece", [16, 13, 100])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_rows_in_pieces_give_the_same_gradients(architecture: str, piece: int) -> None:
    tried, data = model(architecture).eval(), batch()  # dropout would draw other numbers
    assert_same(computed(tried, data), computed(tried, data, wavefront=piece), within=1e-11)


def test_blocks_computed_again_in_another_thread_find_the_modes_they_were_computed_in() -> None:
    # as a GPU's are: with other kernels the second time, nothing would fit what was kept
    mode, seen = Switch("mode"), []

    def layer(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(bool(mode))
        return (x * state).sin(), state

    x = torch.randn(3, requires_grad=True)
    with mode.turned():
        y, _ = recomputed(layer, x, torch.ones(3))
    thread = threading.Thread(target=lambda: y.sum().backward())
    thread.start()
    thread.join()
    assert x.grad is not None and seen == [True, True]


def test_blocks_computed_again_are_not_kept() -> None:
    tried, data = model(dtype=torch.float32), batch(rows=1, length=64)
    sizes = []
    for again in (False, True):
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = tried.hidden(data.ids, recompute=again)[0].sum()
        sizes.append(sum(kept.values()))
        loss.backward()
    assert sizes[1] < sizes[0] / 4


def test_the_estimate_of_memory_knows_what_is_not_kept() -> None:
    data = {"model": {"dim": 16, "layers": 4}, "task": {"type": "mqar", "vocab": 16, "length": 64, "pairs": 4}}
    run, again = (
        training_memory(RunConfig.model_validate({**data, "train": {"checkpoint_blocks": on}})) for on in (False, True)
    )
    assert run.activations and again.activations and again.activations < run.activations / 2


@pytest.mark.slow
@pytest.mark.usefixtures("differentiated")
def test_compiled_parts_give_the_same_gradients() -> None:
    tried, data = model(), batch(length=32)
    plain = computed(tried, data, compile=False)
    assert_same(plain, computed(tried, data, compile=True), within=1e-13)
    assert_same(plain, computed(tried, data, compile=True, checkpoint_blocks=True), within=1e-13)


@pytest.mark.slow
def test_a_kernel_that_inductor_writes_computes_the_same() -> None:
    x, before = torch.randn(2, 9, 96, requires_grad=True), torch.randn(2, 3, 96)
    taps, results = torch.randn(96, 1, 4), []
    for on in (False, True):
        with fused(on):
            q, k, v, newest = _queries_keys_values(x, before, taps, 2, True)
        (d_x,) = torch.autograd.grad((q * k.cos() + v.sin()).sum(), x)
        results.append((q, k, v, newest, d_x))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class RecordedCalls:
    """What a CUDA graph is, for a CPU: the same operations on the same memory once more."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def replay(self) -> None:
        with torch.no_grad():
            for operation, args, kwargs, results in self.calls:
                again = pytree.tree_leaves(operation(*args, **kwargs))
                for result, new in zip(results, again, strict=False):  # what changes its argument has no result
                    result.copy_(new)


class Recording(TorchDispatchMode):
    """Takes the part of `torch.cuda.graph`."""

    def __init__(self, graph: RecordedCalls, capture_error_mode: str) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, kwargs = func(*args, **(kwargs or {})), kwargs or {}
        given = {x.untyped_storage().data_ptr() for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        is_new = all(x.untyped_storage().data_ptr() not in given for x in made)
        if is_new and made:
            self.graph.calls.append((func, args, kwargs, made))
        elif func._schema.is_mutable:
            self.graph.calls.append((func, args, kwargs, []))
        return result


@pytest.mark.parametrize("accumulate", [1, 2])
def test_replaying_a_recorded_part_is_computing_it(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.CUDAGraph", RecordedCalls)
    monkeypatch.setattr("torch.cuda.graph", Recording)
    for name in ("Stream", "current_stream", "stream", "empty_cache"):
        monkeypatch.setattr(f"torch.cuda.{name}", MagicMock())
    tried, config = model(), TrainConfig(batch_size=4, accumulate=accumulate, device="cpu")
    plain, recorded = GradientComputer(tried, config, CPU), GradientComputer(tried, config, CPU)
    first = Batch(*(tensor[: 4 // accumulate] for tensor in batch(rows=4)))
    recorded.recorded = RecordedGradient(recorded._gradient, list(tried.parameters()), first, adds=accumulate > 1)
    assert not gradients(tried)
    for mask in (1.0, 0.5):
        data = batch(rows=4)
        data = data._replace(ids=data.ids.roll(int(4 * mask), 1), mask=data.mask * (torch.rand(4, 37) < mask))
        expected = plain(data)[0].clone(), gradients(tried)
        found = recorded(data)[0].clone(), {name: p.grad for name, p in tried.named_parameters()}
        assert_same(expected, found, within=1e-14)
        for parameter in tried.parameters():
            parameter.grad = None  # as an update leaves it
    shorter = batch(rows=4, length=20)
    assert_same((plain(shorter)[0], gradients(tried)), (recorded(shorter)[0], gradients(tried)), within=1e-14)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "settings",
    [
        {"cuda_graph": True},
        {"cuda_graph": True, "accumulate": 2},
        {"compile": True},
        {"wavefront": 5},
        {"wavefront": 5, "cuda_graph": True},
    ],
    ids=str,
)
def test_on_a_gpu_steps_move_the_weights_as_plain_ones_do(settings: dict[str, Any]) -> None:
    ends = []
    for chosen in ({"accumulate": settings.get("accumulate", 1)}, settings):
        config = TrainConfig.model_validate({"batch_size": 4, "precision": "float32", **chosen})
        tried, device = model(dtype=torch.float32).cuda(), torch.device("cuda", 0)
        step, data = TrainingStep(tried, config, device), batch(rows=4, length=32)
        step.prepare(data)
        for _ in range(3):
            result = step(data, 1e-2)
        ends.append((result.nats.cpu(), {name: p.detach().cpu() for name, p in tried.named_parameters()}))
    assert_same(*ends, within=1e-3)


@pytest.mark.usefixtures("traced")
def test_a_shape_is_compiled_once_for_all_layers_and_steps() -> None:
    import torch._dynamo.utils as dynamo

    torch.compiler.reset()
    tried, data = model("lmm"), batch(length=32)
    computed(tried, data, compile=True)
    before = dynamo.counters["stats"]["unique_graphs"]
    computed(tried, data, compile=True)
    assert dynamo.counters["stats"]["unique_graphs"] == before > 0


@pytest.mark.usefixtures("traced")
def test_a_compiled_run_resumes_and_its_weights_keep_their_names(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "model": {"dim": 16, "layers": 1, "architecture": {"type": "mac", "segment": 16}},
            "task": {"type": "mqar", "vocab": 16, "pairs": 2, "length": 16, "eval_examples": 8},
            "train": {"steps": 3, "batch_size": 2, "device": "cpu", "compile": True},
        }
    )
    assert config.key == config.replace(train=config.train.replace(compile=False)).key
    stops = iter([False, True])
    assert train(config, tmp_path, should_stop=lambda: next(stops)).status == "stopped"
    outcome = train(config, tmp_path)
    assert (outcome.status, outcome.step) == ("complete", 3) and math.isfinite(outcome.metrics["final/loss"])
    assert load_model(tmp_path).state_dict().keys() == config.model.build(16).state_dict().keys()
    assert not any("_orig_mod" in name for name in load_model(tmp_path).state_dict())


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ConfigError, match=r"train\.compile: torch\.compile needs a C\+\+ compiler"):
        fuses_kernels(TrainConfig(compile=True), CPU)
    assert not fuses_kernels(TrainConfig(), CPU)


def test_nothing_is_compiled_unless_asked_for() -> None:
    called = []

    @fusible
    def double(x: Tensor) -> Tensor:
        called.append(torch.compiler.is_compiling())
        return 2 * x

    assert double(torch.ones(2)).sum() == 4 and called == [False]
    with fused(), fused(False):
        double(torch.ones(2))
    assert called == [False, False]


@pytest.mark.parametrize("other", [{"debug": True}, {"checkpoint_blocks": True}, {"loss": "liger"}])
def test_a_step_that_cannot_be_recorded_is_refused_when_it_is_read(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"cannot be used with `{next(iter(other))}: \w+`"):
        TrainConfig(cuda_graph=True, **other)


def test_a_recorded_step_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"train\.cuda_graph: needs one process with one CUDA device"):
        GradientComputer(model(), TrainConfig(cuda_graph=True, batch_size=3), CPU).prepare(batch())


def test_under_autocast_a_memory_sees_queries_keys_and_values_of_the_lower_type() -> None:
    seen: list[tuple[torch.dtype, ...]] = []
    for name in sorted(MEMORY_MODULES):
        layer = MEMORY_MODULES.resolve({"type": name}).build(32)
        if not isinstance(layer, MemoryLayer):
            continue

        def write(x: Tensor, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
            seen.append((q.dtype, k.dtype, v.dtype))
            return q, state

        layer.write = write  # type: ignore[method-assign]
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = layer(torch.randn(2, 9, 32), layer.initial_state(2))
        assert y.dtype == torch.bfloat16
        layer(torch.randn(2, 9, 32), layer.initial_state(2))
    assert seen and set(seen[::2]) == {(torch.bfloat16,) * 3} and set(seen[1::2]) == {(torch.float32,) * 3}


def test_unit_vectors_in_bfloat16_are_as_long_as_bfloat16_can_say() -> None:
    x = 100 * torch.randn(5, 7, 64).bfloat16()
    expected = nn.functional.normalize(x.double(), dim=-1)
    assert ((unit(x).double() - expected).abs() <= 1.01 * 2**-8 * expected.abs()).all()
    assert (unit(torch.zeros(2, 3, dtype=torch.bfloat16)) == 0).all()


def test_a_norm_is_torchs_own_and_under_autocast_hands_on_the_lower_type() -> None:
    ours, torchs = RMSNorm(16), nn.RMSNorm(16)
    x = torch.randn(3, 5, 16)
    assert torch.equal(ours(x), torchs(x))
    assert torch.equal(ours.double()(x.double()), torchs.double()(x.double()))
    ours.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
        torch.testing.assert_close(ours(x).float(), torchs.float()(x.float()).float(), rtol=2e-2, atol=2e-2)
    assert ours.state_dict().keys() == torchs.state_dict().keys()


def test_bfloat16_trains_every_architecture_to_about_the_loss_of_float32() -> None:
    for architecture in sorted(ARCHITECTURES):
        tried, data = model(architecture, torch.float32), batch()
        exact, _ = computed(tried, data)
        low, found = computed(tried, data, precision="bfloat16")
        torch.testing.assert_close(low, exact, rtol=1e-2, atol=0)
        assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in found.values())
