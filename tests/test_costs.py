"""Parameters, state and operations of every rule and architecture: formulas against counts, counts against hand."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from titanlab.memory_modules.gradient_memory import GradientMemoryConfig
from titanlab.memory_modules.polynomial_features import polynomial_width
from titanlab.platform import costs as costs_module
from titanlab.platform.architecture import ARCHITECTURES, Architecture, ArchitectureConfig
from titanlab.platform.costs import ASSUMED_ROW, Costs, forward_flops, memory_size, model_costs, state_size
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig, MemoryModule
from titanlab.platform.model import ModelConfig, parameter_count
from titanlab.platform.operations import LONGEST_ROW, counting
from titanlab.platform.run_config import RunConfig
from titanlab.platform.task import TASKS
from titanlab.platform.tensors import float32_bytes
from titanlab.platform.tracking.journal import read_journal
from titanlab.platform.training.loop import train
from titanlab.sweeps.execution.entries import cell_costs
from titanlab.sweeps.language.sweep_file import load_sweep
from titanlab.sweeps.planning.inequalities import inequalities, unknown
from titanlab.sweeps.planning.plan import make_plan
from titanlab.sweeps.readable import readable_count

DOCUMENT = Path(__file__).parent.parent / "docs/costs.md"
WHOLE = 64
"""Tokens: whole chunks, segments and windows of every default but LaCT's."""


def memory(name: str, **settings: Any) -> MemoryConfig:
    """A registered rule with chunks of 8, so that many end within few tokens."""
    cls = MEMORY_MODULES[name]
    chunk = {"chunk_size": 8} if "chunk_size" in cls.model_fields else {}
    return cls(**{**chunk, **settings})


def counted(call: Any) -> float:
    with counting() as operations:
        call()
    return operations.total


# What is counted


def test_products_convolutions_and_solves_count_as_by_hand() -> None:
    a, b, v = torch.randn(3, 4, 5), torch.randn(3, 5, 6), torch.randn(5)
    triangle = torch.randn(2, 4, 4)
    cases: list[tuple[Any, int]] = [
        (lambda: a @ b, 3 * 2 * 4 * 5 * 6),
        (lambda: a[0] @ v, 2 * 4 * 5),
        (lambda: v @ v, 2 * 5),
        (lambda: torch.einsum("bij,bjk->bik", a, b), 3 * 2 * 4 * 5 * 6),
        (lambda: torch.baddbmm(torch.zeros(3, 4, 6), a, b), 3 * 2 * 4 * 5 * 6),
        (lambda: torch.zeros(3, 4, 6).baddbmm_(a, b), 3 * 2 * 4 * 5 * 6),
        (lambda: nn.Linear(5, 7)(a), 2 * 12 * 5 * 7),
        (lambda: nn.Conv1d(4, 6, 3)(torch.randn(2, 4, 10)), 2 * (2 * 6 * 8) * 4 * 3),
        (lambda: nn.Conv1d(4, 4, 3, groups=4)(torch.randn(2, 4, 10)), 2 * (2 * 4 * 8) * 3),
        (lambda: nn.ConvTranspose1d(4, 6, 3)(torch.randn(2, 4, 10)), 2 * (2 * 4 * 10) * 6 * 3),
        (lambda: torch.linalg.solve_triangular(triangle, torch.randn(2, 4, 3), upper=False), 2 * 16 * 3),
        (lambda: nn.LSTM(8, 16, batch_first=True)(torch.randn(1, 5, 8)), 2 * 5 * 64 * (8 + 16)),
        (lambda: nn.GRU(8, 16, batch_first=True)(torch.randn(1, 5, 8)), 2 * 5 * 48 * (8 + 16)),
        (lambda: F.gelu(F.rms_norm(a, (5,))) * a + torch.softmax(a, -1), 0),
    ]
    for call, expected in cases:
        assert counted(call) == expected


def test_attention_counts_the_keys_that_are_seen() -> None:
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    mask = torch.ones(5, 7, dtype=torch.bool).tril(2)
    pair = 2 * 6 * (8 + 8)
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v)) == pair * 35
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)) == pair * int(mask.sum())
    assert counted(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True)) == pair * 15
    assert counted(lambda: F.scaled_dot_product_attention(q[0], k[0], v[0], mask)) == pair * int(mask.sum()) / 2
    assert counted(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True, dropout_p=0.5)) == pair * 15
    whole, x = nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(1, 5, 16)
    assert counted(lambda: whole(x, x, x)) == 2 * 5 * 4 * 16 * 16 + 2 * 2 * 5 * 5 * 16


def test_counting_leaves_the_random_state_and_gradients_alone() -> None:
    before = torch.random.get_rng_state()
    weight = nn.Parameter(torch.ones(3, 3))
    assert memory("module").flops(16) > 0
    assert counted(lambda: (torch.randn(3, 3) @ weight).sum()) == 54
    assert torch.equal(before, torch.random.get_rng_state()) and torch.is_grad_enabled()


# Rules


@pytest.mark.parametrize("dim", [32, 64])
@pytest.mark.parametrize("name", list(MEMORY_MODULES))
def test_a_rules_formula_is_what_a_run_counts(name: str, dim: int) -> None:
    config = memory(name)
    assert config.flops(dim) == pytest.approx(MemoryConfig.flops(config, dim), rel=1e-12)
    assert config.read_flops(dim) == pytest.approx(MemoryConfig.read_flops(config, dim), rel=1e-12)


VARIANTS = [
    *({"control": control} for control in ("keys_as_queries", "frozen", "initial_gradients", "last_matrix")),
    *({"optimizer": optimizer, "momentum": "constant"} for optimizer in ("gradient", "momentum", "muon")),
    {"optimizer": "muon", "momentum": "none"},
    {"gates": "channel", "optimizer": "momentum", "momentum": "chunk"},
    {"objective": "huber", "keep": "none", "convolution": 1},
    {"heads": 4, "step": "constant", "chunk_size": 4},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
@pytest.mark.parametrize("name", ["titans", "linear", "ttt_mlp", "memora", "omega_net", "lact"])
def test_so_it_is_for_every_part_of_a_gradient_memory(name: str, variant: dict[str, Any]) -> None:
    config = memory(name, **variant)
    assert isinstance(config, GradientMemoryConfig)
    assert config.flops(32) == pytest.approx(MemoryConfig.flops(config, 32), rel=1e-12)
    assert config.read_flops(32) == MemoryConfig.read_flops(config, 32)


@pytest.mark.parametrize(
    "config",
    [
        *(memory("titans", depth=depth, expansion=0.6) for depth in (1, 3, 4)),
        *(memory(name, chunk_size=24) for name in ("delta", "momentum_delta", "mamba2")),
        *(memory(name, chunk_size=32, heads=1, gate_rank=3) for name in ("gla", "rwkv7")),
        memory("gated_delta", keep="constant", step="constant"),
        memory("momentum_delta", keep="none", momentum="none", convolution=2),
    ],
    ids=lambda config: f"{config.type_name}-{config.chunk_size}",
)
def test_so_it_is_at_other_settings(config: MemoryConfig) -> None:
    assert config.flops(32) == pytest.approx(MemoryConfig.flops(config, 32), rel=1e-12)


@pytest.mark.parametrize("name", list(MEMORY_MODULES))
def test_the_state_declared_is_the_state_after_a_row(name: str) -> None:
    config = memory(name)
    module = config.build(32)
    with torch.no_grad():
        state = module(torch.randn(1, 19, 32), module.initial_state(1))[1]
    assert config.state_size(32) == float32_bytes(state)


def test_linear_by_hand() -> None:
    config = memory("linear", heads=2, chunk_size=8, convolution=4, momentum="none", keep="token", step="token")
    projections, convolutions, gates = 2 * 5 * 32 * 32, 2 * 3 * 32 * 4, 2 * 2 * 32 * 2
    # of a head of width 16, for each of 8 tokens: M(k) - v; q W, k^T e; q k^T and its product with e; the chunk's keep
    rule = 2 * 16 * 16 + 2 * (2 * 16 * 16) + 2 * (2 * 8 * 16) + 2 * 16 * 16 / 8
    assert config.flops(32) == projections + convolutions + gates + 2 * rule
    # W and the chunk's first W, the convolution's last 3 inputs, and where in the chunk it is
    assert config.state_size(32) == 4 * (2 * 2 * 16 * 16 + 3 * 96) + 8


def test_a_lightning_model_by_hand() -> None:
    config = ModelConfig.model_validate(
        {
            **{"dim": 32, "layers": 2, "expansion": 2.0},
            "architecture": {"type": "lmm", "persistent": 0},
            "memory": {"type": "lightning", "heads": 2, "chunk_size": 8},
        }
    )
    found = model_costs(config, 10, 64)
    layer = 2 * 5 * 32 * 32 + 2 * 3 * 32 * 4
    rule = 2 * (2 * (2 * 16 * 16) + 2 * (2 * 8 * 16))  # two heads: q S and k^T v, q k^T and its product with v
    feed_forward, head = 2 * 3 * 32 * 64, 2 * 32 * 10
    assert found.flops == 2 * (layer + rule + feed_forward) + head
    assert found.memory_bytes == found.state_bytes == 2 * 4 * (2 * 16 * 16 + 3 * 96)


# Architectures and models


def test_a_transformer_by_hand() -> None:
    config = ModelConfig.model_validate(
        {"dim": 16, "layers": 3, "expansion": 0.0, "architecture": {"type": "transformer", "heads": 2}}
    )
    found = model_costs(config, 10, 4)
    seen = (1 + 2 + 3 + 4) / 4
    block = 2 * 4 * 16 * 16 + 2 * 2 * 16 * seen  # four projections; scores and values
    assert found.flops == 3 * block + 2 * 16 * 10
    assert (found.memory_bytes, found.state_bytes) == (0, 3 * 2 * 4 * 16 * 4)
    assert found.parameters == parameter_count(config.build(10))


@pytest.mark.parametrize("rule", ["delta", "titans"])
@pytest.mark.parametrize("dim", [32, 64])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_an_architectures_formula_is_what_a_run_counts(name: str, dim: int, rule: str) -> None:
    block, inner = ARCHITECTURES[name](), MEMORY_MODULES[rule]()
    # The persistent tokens before a row begin a chunk that ends with its last tokens: two parts in place of a whole.
    exact = pytest.approx(ArchitectureConfig.flops(block, dim, inner, WHOLE), rel=0.02)
    assert block.flops(dim, inner, WHOLE) == exact
    if "persistent" in type(block).model_fields:
        for persistent in (0, 16):
            whole = block.replace(persistent=persistent)
            in_chunks = pytest.approx(ArchitectureConfig.flops(whole, dim, inner, WHOLE), rel=1e-12)
            assert whole.flops(dim, inner, WHOLE) == in_chunks


@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_state_declared_is_the_most_between_two_tokens_of_a_row(name: str, length: int) -> None:
    short = {key: 12 for key in ("segment", "window") if key in ARCHITECTURES[name].model_fields}
    block, inner = ARCHITECTURES[name](**short), memory("delta")
    module = block.build(32, inner)
    state = module.initial_state(1)
    sizes = [] if length > 1 else [float32_bytes(state)]
    with torch.no_grad():
        for _ in range(length):
            state = module(torch.randn(1, 1, 32), state)[1]
            sizes.append(float32_bytes(state))
    assert block.state_size(32, inner, length) == max(sizes)
    assert ArchitectureConfig.state_size(block, 32, inner, length) == max(sizes), "so does a plug-in's default say"


def test_a_whole_models_operations_are_those_of_its_forward_pass() -> None:
    config = ModelConfig.model_validate(
        {"dim": 32, "layers": 3, "architecture": {"type": "mac", "heads": 2}, "memory": {"type": "titans"}}
    )
    model = config.build(50)
    assert forward_flops(config, 50, WHOLE) == counted(lambda: model(torch.zeros(1, WHOLE, dtype=torch.long))) / WHOLE


def test_costs_grow_with_depth_by_the_same_each_layer() -> None:
    for architecture in ARCHITECTURES:
        models = [
            ModelConfig.model_validate({"dim": 32, "layers": layers, "architecture": {"type": architecture}})
            for layers in (1, 2, 5)
        ]
        one, two, five = (model_costs(model, 20, 48) for model in models)
        for part in ("parameters", "state_bytes", "flops"):
            first, second, fifth = (getattr(found, part) for found in (one, two, five))
            assert first < second < fifth and fifth - second == pytest.approx(3 * (second - first))
    depths = [memory("titans", depth=depth).flops(32) for depth in (1, 2, 3, 4)]
    assert depths == sorted(set(depths))


def test_a_mixed_stack_sums_its_own_blocks() -> None:
    pattern = [{"memory": {"type": "lightning"}}, {"architecture": {"type": "transformer"}}]
    mixed = ModelConfig.model_validate(
        {"dim": 32, "layers": 4, "expansion": 0.0, "architecture": {"type": "lmm"}, "pattern": pattern}
    )
    lightning, attention = mixed.stack()[0], mixed.stack()[1]
    assert memory_size(mixed) == 2 * lightning.memory.state_size(32)
    assert state_size(mixed, 10) == memory_size(mixed) + 2 * (2 * 10 * 32 * 4)
    blocks = [block.architecture.flops(32, block.memory, 10) for block in (lightning, attention)]
    assert forward_flops(mixed, 5, 10) == 2 * sum(blocks) + 2 * 32 * 5
    assert model_costs(mixed, 5, 10).parameters == parameter_count(mixed.build(5))


# Plug-ins


class OwnConfig(MemoryConfig):
    """A mean of projected tokens, through attention to itself."""

    fault: str = ""
    """What its forward raises."""

    def build(self, dim: int) -> "Own":
        return Own(dim, self)


class Own(MemoryModule):
    def __init__(self, dim: int, config: OwnConfig) -> None:
        super().__init__()
        self.config, self.write = config, nn.Linear(dim, dim)

    def initial_state(self, batch: int) -> Tensor:
        return self.write.weight.new_zeros(batch, self.write.out_features)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.fault == "leave":
            raise SystemExit(3)
        if self.config.fault:
            raise RuntimeError(self.config.fault)
        written = self.write(x)
        return written.cumsum(1) + state[:, None], state + written.sum(1)

    def read(self, x: Tensor, state: Tensor) -> Tensor:
        return state[:, None].expand(-1, x.shape[1], -1)


class OwnBlockConfig(ArchitectureConfig):
    """Attention to all tokens with one head, its keys and values kept."""

    def build(self, dim: int, memory: MemoryConfig) -> "OwnBlock":
        return OwnBlock(dim, memory)


class OwnBlock(Architecture):
    def __init__(self, dim: int, memory: MemoryConfig) -> None:
        super().__init__()
        self.memory = memory.build(dim)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.memory.initial_state(batch), torch.zeros(batch, 0, 16)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, memory_state = self.memory(x, state[0])
        seen = torch.cat([state[1], x], 1)
        mask = torch.ones(x.shape[1], seen.shape[1], dtype=torch.bool).tril(seen.shape[1] - x.shape[1])
        return y + F.scaled_dot_product_attention(x, seen, seen, attn_mask=mask), (memory_state, seen)


def test_a_plug_in_without_a_formula_is_counted() -> None:
    assert (OwnConfig().flops(16), OwnConfig().read_flops(16), OwnConfig().state_size(16)) == (512, 0, 64)
    block = OwnBlockConfig()
    assert block.flops(16, OwnConfig(), 10) == 512 + 4 * 16 * 11 / 2
    assert block.state_size(16, OwnConfig(), 10) == 64 + 10 * 16 * 4
    assert ARCHITECTURES["lmm"](persistent=0).flops(16, OwnConfig(), 10) == 512


def test_a_row_too_long_to_run_is_extended_along_a_line() -> None:
    length = 5 * LONGEST_ROW
    assert OwnBlockConfig().flops(16, OwnConfig(), length) == 512 + 4 * 16 * (length + 1) / 2
    assert OwnBlockConfig().state_size(16, OwnConfig(), length) == 64 + length * 16 * 4


@pytest.mark.parametrize(("fault", "reason"), [("broken", "RuntimeError: broken"), ("leave", "SystemExit: 3")])
def test_a_plug_in_that_fails_costs_a_number_and_no_plan(fault: str, reason: str) -> None:
    config = ModelConfig(dim=16, architecture=ARCHITECTURES["lmm"](), memory=OwnConfig(fault=fault))
    found = model_costs(config, 10, 32)
    assert (found.flops, found.training_flops(100), found.failure) == (None, None, reason)
    assert found.state_bytes == found.memory_bytes == 2 * 64 and "cost/flops_per_token" not in found.metrics()
    assert unknown([found, found]) == [f"state or operations cannot be counted: {reason}"]


def test_equal_blocks_are_built_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    real = OwnConfig.build
    monkeypatch.setattr(OwnConfig, "build", lambda self, dim: built.append(dim) or real(self, dim))
    for expansion in (1.0, 2.0, 3.0):
        config = ModelConfig(
            dim=48, layers=12, expansion=expansion, architecture=ARCHITECTURES["mag"](), memory=OwnConfig()
        )
        model_costs(config, 10, 32)
    assert built == [48] * 3, "for the parameters, for the state, and to count operations"


# Tasks, plans and runs


def test_every_task_says_how_long_its_rows_are() -> None:
    for name, cls in TASKS.items():
        if cls.__module__.startswith("titanlab."):
            assert cls().row_length is not None, name
    assert TASKS.resolve({"type": "needle", "length": 300}).row_length == 300
    sizes = [{"length": 64, "pairs": 4}, {"length": 256, "pairs": 8}]
    assert TASKS.resolve({"type": "mqar", "train_sizes": sizes}).row_length == 256


def planned(folder: Path, **axes: Any) -> Any:
    base = {
        "model": {"dim": 16, "layers": 1, "architecture": {"type": "lmm"}, "memory": {"type": "delta"}},
        "task": {"type": "mqar", "vocab": 32, "pairs": 2, "length": 12},
        "train": {"steps": 4, "batch_size": 2, "log_every": 2},
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"name": "costs", "base": base, "axes": axes}))
    return make_plan(load_sweep(file))


def test_a_plan_knows_what_its_cells_cost_and_says_that_state_differs(tmp_path: Path) -> None:
    made = planned(tmp_path, **{"model.memory": [{"type": "delta"}, {"type": "momentum_delta"}]})
    for cell in made.cells:
        config = cell.trials[0].config
        found = model_costs(config.model, 32, 12)
        assert (cell.parameters, cell.memory_bytes, cell.state_bytes, cell.flops) == found[:4]
        assert cell_costs(cell)["model.flops_per_token"] == f"{found.flops:.0f}"
    small, large = (cell.memory_bytes for cell in made.cells)
    assert (small, large) == (4 * (2 * 64 + 3 * 48), 4 * (2 * 2 * 64 + 3 * 48))
    told = "memory state differs between cells: 1.1 kB to 1.6 kB a sequence; state in all: 1.1 kB to 1.6 kB"
    assert made.notes == (told,)
    assert not planned(tmp_path, **{"train.learning_rate": [0.1, 0.2]}).notes


def test_notes_name_what_is_unequal_or_unknown() -> None:
    cost = Costs(parameters=10, memory_bytes=0, state_bytes=1000, flops=5.0, row_length=8)
    assert inequalities([cost, cost._replace(parameters=20)]) == []
    assert inequalities([cost, cost._replace(state_bytes=4000)]) == [
        "state in all differs between cells: 1.0 kB to 4.0 kB a sequence"
    ]
    assert inequalities([cost, cost._replace(memory_bytes=500)]) == [
        "memory state differs between cells: 0 B to 500 B a sequence"
    ]
    (assumed,) = inequalities([cost._replace(row_length=None)])
    assert "row_length" in assumed and f"{ASSUMED_ROW:,} tokens" in assumed


def test_operations_of_training_are_three_forward_passes_of_every_token(tmp_path: Path) -> None:
    made = planned(tmp_path, **{"model.dim": [16]})
    config: RunConfig = made.cells[0].trials[0].config
    outcome = train(config, tmp_path / "run")
    lines = {point.step: point.metrics for point in read_journal(tmp_path / "run/metrics.jsonl")}
    forward = made.cells[0].flops
    assert [lines[step]["cost/flops"] for step in (2, 4)] == [3 * forward * step * 2 * 12 for step in (2, 4)]
    assert outcome.metrics["cost/flops"] == lines[4]["cost/flops"]
    assert outcome.metrics["cost/flops_per_token"] == forward
    assert outcome.metrics["cost/state_bytes"] == made.cells[0].state_bytes
    assert outcome.metrics["memory/state_bytes"] == made.cells[0].memory_bytes


def test_counts_read_well() -> None:
    numbers = (None, 0, 640, 1_200, 37_100, 999_600, 1_234_567, 45e9, 3e15)
    assert [readable_count(number) for number in numbers] == [
        *("", "0", "640", "1.2 k", "37 k", "1.0 M", "1.2 M", "45 G", "3.0 P")
    ]


# The document


def rows(heading: str) -> Iterator[tuple[list[str], list[str]]]:
    """Names and columns of a table of the document."""
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            names, *columns = (column.strip() for column in line.strip("|").split("|"))
            yield re.findall(r"`(\w+)`", names), columns


def evaluate(formula: str, **letters: float) -> float:
    """`L + h (4 d^2 + 2 c d)` as a number: letters apart are multiplied."""
    python = re.sub(r"(?<=[\w)]) +(?=[\w(])", " * ", formula.replace("^", "**"))
    return eval(python, {"__builtins__": {}}, letters)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_the_documents_rules_are_all_rules_and_their_formulas_and_numbers_hold() -> None:
    named = []
    for names, (formula, example, state) in rows("Rules"):
        for name in names:
            named.append(name)
            config: Any = MEMORY_MODULES[name](heads=2, chunk_size=16)
            flops, held = round(config.flops(64)), config.state_size(64)
            now = f"docs/costs.md, `{name}` at dim 64, heads 2, chunk_size 16: {flops:,} | {held:,}"
            assert (flops, held) == (number(example), number(state)), now
            if not formula.startswith("counted"):
                d = 64 // config.heads
                letters = {"h": config.heads, "d": d, "c": config.chunk_size, "dim": 64, "L": 0.0}
                if hasattr(config, "layer_flops"):
                    letters["L"] = config.layer_flops(64)
                letters |= {"m": round(d * getattr(config, "expansion", 0)), "b": getattr(config, "gate_rank", 0)}
                letters |= {"r": config.chunk_size + getattr(config, "window", 1) - 1, "w": polynomial_width(d, 2)}
                assert evaluate(formula, **letters) == pytest.approx(config.flops(64), rel=1e-12), name
    assert sorted(named) == sorted(name for name, cls in MEMORY_MODULES.items() if "titanlab." in cls.__module__)


def test_the_documents_architectures_are_all_architectures_and_their_formulas_and_numbers_hold() -> None:
    named, rule, n = [], memory("delta", chunk_size=16), 256
    for names, (formula, example, state) in rows("Architectures"):
        for name in names:
            named.append(name)
            config: Any = ARCHITECTURES[name]()
            flops, held = config.flops(64, rule, n), config.state_size(64, rule, n)
            assert (round(flops), held) == (number(example), number(state)), name
            p, heads = getattr(config, "persistent", 0), getattr(config, "heads", 0)
            segment, window = getattr(config, "segment", 1), getattr(config, "window", 1)
            seen = [min(t + 1, window) if window > 1 else t % segment + 1 for t in range(n)]
            letters = {"dim": 64, "n": n, "p": p, "v": 64 + heads * (-(-p // 8) * 8), "k": sum(seen) / n}
            letters |= {"M": rule.flops(64), "R": rule.read_flops(64), "segment": segment}
            assert evaluate(formula, **letters) == pytest.approx(flops, rel=1e-12), name
    assert sorted(named) == sorted(name for name, cls in ARCHITECTURES.items() if "titanlab." in cls.__module__)


def test_nothing_is_left_of_a_cost_that_is_not_known() -> None:
    assert costs_module.TRAINING == 3
    found = Costs(parameters=1, memory_bytes=2, state_bytes=None, flops=None, row_length=None, failure="no")
    assert found.metrics() == {"cost/parameters": 1.0, "memory/state_bytes": 2.0}
