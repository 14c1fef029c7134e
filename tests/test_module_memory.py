"""Any torch module as a memory, held against `deep_memory` and against loops that know nothing of torch.func."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from titanlab import build_model
from titanlab.__main__ import main
from titanlab.memory_modules.functional import (
    ModuleMemoryState,
    deep_memory,
    initial_module_memory,
    module_memory,
    read_module_memory,
)
from titanlab.memory_modules.inner_model import INNER_MODELS, InnerModelConfig
from titanlab.memory_modules.module import ModuleMemory, ModuleMemoryConfig
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.plugins import load_plugin
from titanlab.platform.shapes import shapes_only
from titanlab.platform.testing import check_memory_module
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.plan import make_plan

BATCH, TIME, HEADS, DIM, HIDDEN = 2, 11, 2, 3, 4
CUTS = [[1] * TIME, [5, 6], [1, 2, 3, 4, 1]]


def inputs(seed: int = 0) -> list[Tensor]:
    """q, k, v of unit length, and gates that keep the memory bounded, in float64."""
    random = torch.Generator().manual_seed(seed)
    qkv = [
        F.normalize(torch.randn(BATCH, TIME, HEADS, DIM, generator=random, dtype=torch.float64), dim=-1)
        for _ in range(3)
    ]
    keep, momentum, step = (
        low + width * torch.rand(BATCH, TIME, HEADS, generator=random, dtype=torch.float64)
        for low, width in ((0.8, 0.2), (0.0, 0.7), (0.0, 0.2))
    )
    return [x.requires_grad_() for x in (*qkv, keep, momentum, step)]


def per_head(build: Callable[[], nn.Module]) -> list[nn.Module]:
    torch.manual_seed(1)
    return [build().double() for _ in range(HEADS)]


def mlp(depth: int, bias: bool = False) -> nn.Module:
    widths = [DIM, *[HIDDEN] * (depth - 1), DIM]
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.GELU(approximate="tanh"), nn.Linear(before, after, bias=bias)]
    return nn.Sequential(*layers[1:])


def normed() -> nn.Module:
    """Biases, gains and a norm: nothing that `deep_memory` can do."""
    between = (nn.LayerNorm(HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.PReLU(HIDDEN))
    return nn.Sequential(nn.Linear(DIM, HIDDEN), *between, nn.Linear(HIDDEN, DIM))


class Odd(nn.Module):
    """Parameters of every shape, some with two names, one frozen, a layer with two names, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.core = nn.Parameter(0.3 * torch.randn(2, DIM, DIM))
        self.shift = nn.Parameter(torch.zeros(DIM), requires_grad=False)
        self.again = nn.Linear(DIM, DIM, bias=False)
        self.again.weight = nn.Parameter(0.3 * torch.randn(DIM, DIM))
        self.tied, self.other_scale = self.again, self.scale
        self.third = nn.Linear(DIM, DIM)
        self.third.weight = self.again.weight
        self.register_buffer("mask", torch.rand(DIM))

    def forward(self, x: Tensor) -> Tensor:
        mixed = torch.einsum("pde,...e->...pd", self.core, x).prod(-2)
        learned = self.other_scale * self.third(self.tied(torch.tanh(self.again(x))))
        return self.scale * learned + mixed * self.get_buffer("mask") + self.shift


def test_an_mlp_of_linears_without_biases_is_deep_memory() -> None:
    q, k, v, keep, momentum, step = inputs()
    for depth in (1, 2, 3):
        modules = per_head(lambda depth=depth: mlp(depth))  # type: ignore[misc]
        linears = [[part for part in module.modules() if isinstance(part, nn.Linear)] for module in modules]
        weights = [torch.stack([linear.weight.mT for linear in layer]) for layer in zip(*linears, strict=True)]
        leaves = [q, k, v, keep, step, *(linear.weight for head in linears for linear in head)]
        for chunk_size in (1, 4, 16):
            for carried in (momentum, None):
                fast, fast_state = deep_memory(q, k, v, keep, carried, step, weights, chunk_size=chunk_size)
                y, state = module_memory(q, k, v, keep, carried, step, modules, chunk_size=chunk_size)
                close(y, fast)
                for mine, theirs in ((state.weights, fast_state.weights), (state.momentum, fast_state.momentum)):
                    for one, other in zip(mine.values(), theirs, strict=True):
                        close(one, other.mT)
                given = [*leaves, *([momentum] if carried is not None else [])]
                for mine, theirs in zip(gradients(y, given), gradients(fast, given), strict=True):
                    close(mine, theirs)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def gradients(y: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)
    return torch.autograd.grad((y * upstream).sum(), leaves, retain_graph=True)


def with_weights(module: nn.Module, weights: list[Tensor]) -> nn.Module:
    """A copy with other tensors in every place of a parameter, by no means of torch.func."""
    copied = copy.deepcopy(module)
    own = {id(parameter): weight for parameter, weight in zip(copied.parameters(), weights, strict=True)}
    for part in copied.modules():
        for key, parameter in list(part._parameters.items()):
            del part._parameters[key]
            part.__dict__[key] = None if parameter is None else own[id(parameter)]
    return copied


def by_token(
    qkv: list[Tensor], gates: list[Tensor], modules: list[nn.Module], chunk_size: int
) -> tuple[Tensor, list[list[list[Tensor]]]]:
    """The recurrence in loops over sequences, heads and tokens; the inner gradient by ordinary autograd."""
    q, k, v = qkv
    keep, momentum, step = gates
    rows, memories = [], []
    for b in range(BATCH):
        of_heads, of_row = [], []
        for h, module in enumerate(modules):
            memory = [parameter.clone().requires_grad_() for _, parameter in module.named_parameters()]
            surprise = [torch.zeros_like(weight) for weight in memory]
            reference, answers = memory, []

            def answer(weights: list[Tensor], x: Tensor, module: nn.Module = module) -> Tensor:
                return with_weights(module, weights)(x[None])[0]

            for t in range(TIME):
                reference = memory if t % chunk_size == 0 else reference
                loss = 0.5 * (answer(reference, k[b, t, h]) - v[b, t, h]).square().sum()
                found = torch.autograd.grad(loss, reference, create_graph=True)
                surprise = [momentum[b, t, h] * s - step[b, t, h] * g for s, g in zip(surprise, found, strict=True)]
                memory = [keep[b, t, h] * m + s for m, s in zip(memory, surprise, strict=True)]
                answers.append(answer(memory, q[b, t, h]))
            of_heads.append(torch.stack(answers))
            of_row.append(memory)
        rows.append(torch.stack(of_heads, 1))
        memories.append(of_row)
    return torch.stack(rows), memories


@pytest.mark.parametrize("build", [normed, Odd, lambda: mlp(2, bias=True)], ids=["normed", "odd", "biases"])
@pytest.mark.parametrize("chunk_size", [1, 4])
def test_any_module_follows_the_recurrence_of_a_loop(build: Callable[[], nn.Module], chunk_size: int) -> None:
    q, k, v, *gates = inputs()
    modules = per_head(build)
    leaves = [q, k, v, *gates, *(p for module in modules for p in module.parameters() if p.requires_grad)]
    y, state = module_memory(q, k, v, gates[0], gates[1], gates[2], modules, chunk_size=chunk_size)
    expected, memories = by_token([q, k, v], gates, modules, chunk_size)
    close(y, expected)
    for b in range(BATCH):
        for h in range(HEADS):
            for mine, theirs in zip(state.weights.values(), memories[b][h], strict=True):
                close(mine[b, h], theirs)
    for mine, theirs in zip(gradients(y, leaves), gradients(expected, leaves), strict=True):
        close(mine, theirs)


def test_one_step_written_by_hand() -> None:
    """M(x) = w x + b at w = 2, b = 1, k = 3, v = 4: the error is 3, so w falls by 9 steps and b by 3."""
    linear = nn.Linear(1, 1).double()
    with torch.no_grad():
        linear.weight.fill_(2.0)
        linear.bias.fill_(1.0)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    gate = one[..., 0]
    y, state = module_memory(one, 3 * one, 4 * one, None, None, 0.1 * gate, linear, chunk_size=1)
    assert y.item() == pytest.approx(1.1 + 0.7)
    assert state.weights["weight"].item() == pytest.approx(1.1) and state.weights["bias"].item() == pytest.approx(0.7)
    assert state.momentum == {}


@pytest.mark.parametrize("lengths", CUTS, ids=str)
def test_a_sequence_cut_anywhere_gives_the_same(lengths: list[int]) -> None:
    arguments, modules = inputs(), per_head(normed)
    whole, end = module_memory(*arguments, modules, chunk_size=4)  # type: ignore[misc]
    state: ModuleMemoryState | None = None
    outputs = []
    for piece in zip(*(x.split(lengths, 1) for x in arguments), strict=True):
        y, state = module_memory(*piece, modules, chunk_size=4, state=state)  # type: ignore[misc]
        outputs.append(y)
    close(torch.cat(outputs, 1), whole)
    for one, other in zip(pytree.tree_leaves(state), pytree.tree_leaves(end), strict=True):
        close(one, other)


def test_the_module_is_left_as_it_was() -> None:
    modules = per_head(Odd)
    before = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    kept = [tensor.detach().clone() for tensor in before]
    module_memory(*inputs(), modules, chunk_size=4)  # type: ignore[misc]
    after = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(kept, after, strict=True))


def test_reading_writes_nothing_and_answers_as_the_memory_stands() -> None:
    arguments, modules = inputs(), per_head(normed)
    _, state = module_memory(*arguments, modules, chunk_size=4)  # type: ignore[misc]
    y = read_module_memory(arguments[0], state, modules)
    for b in range(BATCH):
        for h, module in enumerate(modules):
            own = {name: weight[b, h] for name, weight in state.weights.items()}
            close(y[b, :, h], torch.func.functional_call(module, own, (arguments[0][b, :, h],)))


def test_one_module_serves_every_head_where_one_is_given() -> None:
    arguments, module = inputs(), per_head(normed)[0]
    one, _ = module_memory(*arguments, module, chunk_size=4)  # type: ignore[misc]
    each, _ = module_memory(*arguments, [module] * HEADS, chunk_size=4)  # type: ignore[misc]
    assert torch.equal(one, each)
    assert initial_module_memory(module, 5, HEADS, True).weights["0.weight"].shape == (5, HEADS, HIDDEN, DIM)


@pytest.mark.parametrize(
    "settings",
    [
        {"inner": {"type": "gated"}},
        {"inner": {"type": "mlp", "depth": 3}, "keep": "chunk", "momentum": "none", "step": "chunk", "chunk_size": 3},
    ],
    ids=str,
)
def test_other_settings_keep_the_promises(settings: dict[str, object]) -> None:
    config = MEMORY_MODULES.resolve({"type": "module", **settings})
    check_memory_module(config.replace(chunk_size=3), seconds=120).raise_failures()


def test_a_layer_takes_a_module_of_ones_own_in_python() -> None:
    class Own(ModuleMemoryConfig):
        """With a module that is nowhere registered."""

        def build(self, dim: int) -> ModuleMemory:
            return ModuleMemory(dim, self, inner=lambda d: nn.Sequential(nn.Linear(d, d), nn.LayerNorm(d), nn.SiLU()))

    check_memory_module(Own, seconds=120).raise_failures()
    assert [name for name, _ in Own().build(16).named_parameters() if name.startswith("inner.1")] == [
        "inner.1.0.weight", "inner.1.0.bias", "inner.1.1.weight", "inner.1.1.bias",
    ]  # fmt: skip


class Faulty(nn.Module):
    """A layer with one habit that no memory can have."""

    def __init__(self, dim: int, habit: str) -> None:
        super().__init__()
        self.linear, self.habit = nn.Linear(dim, dim), habit
        self.register_buffer("seen", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        if self.habit == "chance":
            x = x + torch.rand_like(x)
        elif self.habit == "looks":
            x = x if x.sum() > 0 else -x
        elif self.habit == "counts":
            self.seen += 1
        elif self.habit == "remembers":
            self.seen = self.seen + 1
        elif self.habit == "narrows":
            x = x[..., 1:]
        return self.linear(x)


class NormedWrongly(nn.Module):
    """A function whose second derivative torch.func.vmap has wrong (F.layer_norm, built on it, is replaced)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_layer_norm(x, (x.shape[-1],), self.gain, None, 1e-5)[0]


REFUSED: list[tuple[str, Callable[[int], object]]] = [
    ("has no parameters; expected at least one", lambda d: nn.Tanh()),
    ("Dropout at '1', which draws random numbers", lambda d: nn.Sequential(nn.Linear(d, d), nn.Dropout(0.1))),
    ("BatchNorm1d at '0', which norms over other tokens", lambda d: nn.Sequential(nn.BatchNorm1d(d))),
    ("parameter weight has no shape yet", lambda d: nn.LazyLinear(d)),
    (r"gives shape \[1, 17\] for a token \[1, 16\]", lambda d: nn.Linear(d, d + 1)),
    (r"gives a tuple for a token \[1, 16\]", lambda d: nn.GRU(d, d)),
    ("is 3; expected a torch.nn.Module", lambda d: 3),
    ("draws random numbers", lambda d: Faulty(d, "chance")),
    ("torch.func cannot run forward", lambda d: Faulty(d, "looks")),
    ("writes to seen", lambda d: Faulty(d, "counts")),
    ("writes to seen", lambda d: Faulty(d, "remembers")),
    ("hardsigmoid_backward is not implemented", lambda d: nn.Sequential(nn.Linear(d, d), nn.Hardsigmoid())),
    ("second derivative of NormedWrongly over many copies", lambda d: NormedWrongly(d)),
]


@pytest.mark.parametrize(("message", "inner"), REFUSED, ids=[message for message, _ in REFUSED])
def test_what_cannot_be_a_memory_is_refused_when_it_is_built(message: str, inner: Callable[[int], nn.Module]) -> None:
    with pytest.raises(ValueError, match=f"module: .*{message}"):
        ModuleMemory(32, ModuleMemoryConfig(), inner=inner)


def test_dropout_that_is_off_and_a_width_that_does_not_fit_are_told_apart_without_storage() -> None:
    with shapes_only():
        ModuleMemory(32, ModuleMemoryConfig(), inner=lambda d: nn.Sequential(nn.Linear(d, d), nn.Dropout(0.0)))
        with pytest.raises(ValueError, match=r"gives shape \[1, 8\]"):
            ModuleMemory(32, ModuleMemoryConfig(), inner=lambda d: nn.Linear(d, 8))


def test_bad_arguments_are_named() -> None:
    arguments, modules = inputs(), per_head(normed)
    _, state = module_memory(*arguments, modules, chunk_size=4)  # type: ignore[misc]
    other = per_head(lambda: mlp(2))
    with pytest.raises(ValueError, match="module: has 3 modules; expected one, or one for each of 2 heads"):
        module_memory(*arguments, [*modules, modules[0]], chunk_size=4)  # type: ignore[misc]
    with pytest.raises(ValueError, match="module: the parameters of two heads are"):
        module_memory(*arguments, [modules[0], other[0]], chunk_size=4)  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"state\.weights: has .* expected .* the module's parameters"):
        module_memory(*arguments, other, chunk_size=4, state=state)  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"state\.momentum: the state has momentum but the argument momentum is None"):
        q, k, v, keep, _, step = arguments
        module_memory(q, k, v, keep, None, step, modules, chunk_size=4, state=state)
    with pytest.raises(ValueError, match=r"state\.weights\['0\.weight'\]: has shape .* and type torch.float64"):
        module_memory(*(x.float() for x in arguments), modules, chunk_size=4, state=state)  # type: ignore[misc]


PLUGIN = '''
from torch import nn

from titanlab.memory_modules.inner_model import INNER_MODELS, InnerModelConfig


@INNER_MODELS.register("{name}")
class {name}(InnerModelConfig):
    """A norm and a layer."""

    bias: bool = True
    """Whether the layer has a bias."""

    def build(self, dim: int) -> nn.Module:
        return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim, bias=self.bias))

{rest}
'''
SWEEP = """
name: inner
base:
  model: {dim: 32, layers: 1, architecture: {type: lmm}, memory: {type: module, inner: {type: own_norm}}}
axes:
  model.memory.inner.bias: [true, false]
cells:
  - model.memory.inner: {type: mlp, depth: 3}
  - model.memory: {type: titans}
"""


def test_a_plugins_inner_model_is_swept_by_name_and_the_plan_says_that_it_is_slow(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PLUGIN.format(name="own_norm", rest=""))
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    load_plugin(str(tmp_path / "own.py"))
    plan = make_plan(load_sweep(tmp_path / "sweep.yaml"))
    assert len({cell.parameters for cell in plan.cells}) == 4
    assert [note for note in plan.notes if "slower" in note] == [ModuleMemoryConfig().remark()]


def test_a_plan_without_it_has_no_remark(tmp_path: Path) -> None:
    text = SWEEP.replace("type: lmm", "type: transformer").replace("own_norm", "mlp")
    (tmp_path / "sweep.yaml").write_text(text)
    assert not [note for note in make_plan(load_sweep(tmp_path / "sweep.yaml")).notes if "slower" in note]


def test_a_plugin_that_fails_half_way_leaves_no_inner_model_behind(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(PLUGIN.format(name="broken_norm", rest="1 / 0"))
    with pytest.raises(Exception, match="ZeroDivisionError"):
        load_plugin(str(tmp_path / "broken.py"))
    assert "broken_norm" not in INNER_MODELS


def test_the_command_line_knows_inner_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dropped.py").write_text(
        PLUGIN.format(name="dropped", rest="").replace("nn.LayerNorm(dim)", "nn.Dropout(0.5)")
    )
    for words, code, expected in (
        (["list", "inner_models", "mlp"], 0, "Linear layers; 1 is a linear memory."),
        (["list", "memory_modules", "module"], 0, 'inner: mapping, default {"type": "mlp", "depth": 2'),
        (["check", str(tmp_path / "dropped.py")], 1, "module: has a Dropout at '0', which draws random numbers"),
    ):
        monkeypatch.setattr("sys.argv", ["titanlab", *words])
        with pytest.raises(SystemExit) as left:
            main()
        assert (left.value.code or 0) == code and expected in capsys.readouterr().out


@pytest.mark.parametrize("name", INNER_MODELS)
def test_every_inner_model_builds_from_its_name_alone_and_says_what_it_is(name: str) -> None:
    config: InnerModelConfig = INNER_MODELS.resolve({"type": name})
    for dim in (1, 8, 13):
        assert config.build(dim)(torch.randn(2, 5, dim)).shape == (2, 5, dim)
    assert type(config).__doc__ and all(field.description for field in type(config).model_fields.values())


def test_a_misspelt_inner_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown name in inner_models 'mpl'; did you mean 'mlp'"):
        MEMORY_MODULES.resolve({"type": "module", "inner": {"type": "mpl"}})


def test_hooks_on_what_is_saved_are_explained() -> None:
    memory = {"type": "module", "heads": 2, "chunk_size": 4}
    model = build_model({"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": memory}, 8)
    with pytest.raises(ValueError, match=r"module: cannot be trained with `train\.checkpoint_blocks`"):
        model.hidden(torch.zeros(1, 8, dtype=torch.long), recompute=True)[0].sum().backward()
