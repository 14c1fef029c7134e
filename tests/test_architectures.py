"""Every registered architecture with every registered memory: causal, isolated, cut anywhere, and as the paper says."""

import math
from collections.abc import Iterator
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from titanlab.architectures.attention.layer import MultiHeadAttention
from titanlab.platform.architecture import ARCHITECTURES, Architecture
from titanlab.platform.config import Config
from titanlab.platform.errors import ConfigError
from titanlab.platform.memory import MEMORY_MODULES, MemoryConfig, MemoryModule
from titanlab.platform.model import ModelConfig

DOUBLE, DIM, TIME = torch.float64, 16, 11
TINY = {"segment": 4, "window": 3, "persistent": 2, "heads": 2, "chunk_size": 4}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small lose more to waking threads than they win, far more when the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class EmaConfig(MemoryConfig):
    """A moving average: the smallest memory, so that an architecture can be followed by hand."""

    keep: float = 0.8
    """Fraction of the memory kept."""

    def build(self, dim: int) -> "EmaMemory":
        return EmaMemory(dim, self)


class EmaMemory(MemoryModule):
    def __init__(self, dim: int, config: EmaConfig) -> None:
        super().__init__()
        self.config, self.write, self.out = config, nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.query, self.initial = nn.Linear(dim, dim), nn.Parameter(torch.randn(dim))

    def initial_state(self, batch: int) -> Tensor:
        return self.initial.expand(batch, -1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        reads = []
        for x_t in x.unbind(1):
            state = self.config.keep * state + (1 - self.config.keep) * self.write(x_t)
            reads.append(self.read(x_t[:, None], state))
        return torch.cat(reads, 1), state

    def read(self, x: Tensor, state: Tensor) -> Tensor:
        return self.out(self.query(x).tanh() * state[:, None])


MEMORIES = {"ema": EmaConfig, **MEMORY_MODULES}
WITHOUT_MEMORY = {"transformer", "sliding_window"}
PAIRS = [(a, m) for a, m in product(ARCHITECTURES, MEMORIES) if m == "ema" or a not in WITHOUT_MEMORY]


def tiny(kind: type[Config], **settings: object) -> Config:
    """A configuration small enough that some tokens lie before, across and after every boundary."""
    chosen = {**TINY, **settings}
    return kind.model_validate({name: value for name, value in chosen.items() if name in kind.model_fields})


@cache
def block_of(architecture: str, memory: str) -> Architecture:
    """A tiny block in float64 with every parameter away from its special initial value."""
    torch.manual_seed(0)
    block = tiny(ARCHITECTURES[architecture]).build(DIM, tiny(MEMORIES[memory])).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block


def tokens(batch: int = 1, time: int = TIME, seed: int = 0) -> Tensor:
    return torch.randn(batch, time, DIM, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def run(block: Architecture, x: Tensor) -> Tensor:
    return block(x, block.initial_state(x.shape[0]))[0]


def in_pieces(block: Architecture, x: Tensor, lengths: list[int]) -> Tensor:
    state, outputs = block.initial_state(x.shape[0]), []
    for piece in x.split(lengths, 1):
        y, state = block(piece, state)
        outputs.append(y)
    return torch.cat(outputs, 1)


over_pairs = pytest.mark.parametrize(("architecture", "memory"), PAIRS)


@over_pairs
@torch.no_grad()
def test_future_inputs_do_not_change_past_outputs(architecture: str, memory: str) -> None:
    block, x = block_of(architecture, memory), tokens()
    before = run(block, x)
    for j in range(TIME):
        edited = x.clone()
        edited[:, j] = tokens(seed=1)[:, j]
        change = (run(block, edited) - before).abs().amax((0, 2))
        assert change[:j].sum() == 0.0, f"token {j} reached back"
        assert change[j] > 1e-6
        if j + 1 < TIME and (j + 1) % TINY["segment"]:
            assert change[j + 1] > 1e-9, f"token {j} is not seen by the next one"


@over_pairs
@torch.no_grad()
def test_no_sequence_of_a_batch_affects_another(architecture: str, memory: str) -> None:
    block, x = block_of(architecture, memory), tokens(batch=3)
    before = run(block, x)
    x[1] = tokens(seed=1)[0]
    after = run(block, x)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.equal(after[1], before[1])


@over_pairs
@torch.no_grad()
def test_pieces_cut_anywhere_equal_one_call(architecture: str, memory: str) -> None:
    block, x = block_of(architecture, memory), tokens(batch=2)
    whole = run(block, x)
    for lengths in ([1] * TIME, [1, 4, 6], [2, 9], [5, 1, 1, 4], [4, 4, 3], [10, 1]):
        torch.testing.assert_close(in_pieces(block, x, lengths), whole, rtol=0, atol=1e-10)


@over_pairs
def test_gradients_reach_every_parameter(architecture: str, memory: str) -> None:
    block, x = block_of(architecture, memory), tokens(batch=2)
    names, parameters = zip(*block.named_parameters(), strict=True)
    loss = (run(block, x) * tokens(batch=2, seed=1)).sum()
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        assert gradient is not None, f"{name} is not used"
        assert gradient.isfinite().all() and gradient.abs().max() > 0, name


@over_pairs
def test_gradients_flow_back_across_pieces(architecture: str, memory: str) -> None:
    block, x = block_of(architecture, memory), tokens().requires_grad_()
    upstream = tokens(seed=1)
    whole, pieces = (torch.autograd.grad(y, x, upstream)[0] for y in (run(block, x), in_pieces(block, x, [3, 2, 6])))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-9)


@over_pairs
def test_bfloat16_autocast_gives_finite_outputs_and_gradients(architecture: str, memory: str) -> None:
    block = tiny(ARCHITECTURES[architecture]).build(DIM, tiny(MEMORIES[memory]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = in_pieces(block, tokens(batch=2).float(), [6, 5])
    y.sum().backward()
    gradients = [parameter.grad for parameter in block.parameters()]
    assert y.isfinite().all() and all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@over_pairs
@torch.no_grad()
def test_every_state_has_the_batch_first(architecture: str, memory: str) -> None:
    block = block_of(architecture, memory)
    state = block.initial_state(5)
    for current in (state, block(tokens(batch=5), state)[1]):
        leaves = tree_leaves(current)
        assert leaves and all(isinstance(leaf, Tensor) and leaf.shape[0] == 5 for leaf in leaves)


@over_pairs
@torch.no_grad()
def test_a_model_gives_the_same_logits_whole_and_in_pieces(architecture: str, memory: str) -> None:
    config = ModelConfig(
        dim=DIM, layers=2, architecture=tiny(ARCHITECTURES[architecture]), memory=tiny(MEMORIES[memory])
    )
    torch.manual_seed(0)
    model = config.build(13).double()
    ids = torch.randint(13, (2, TIME), generator=torch.Generator().manual_seed(0))
    logits, _ = model(ids)
    assert logits.shape == (2, TIME, 13)
    state, pieces = None, []
    for piece in ids.split([1, 1, 6, 3], 1):
        piece_logits, state = model(piece, state)
        pieces.append(piece_logits)
    torch.testing.assert_close(torch.cat(pieces, 1), logits, rtol=0, atol=1e-10)
    ids[0, 6] = (ids[0, 6] + 1) % 13
    edited, _ = model(ids)
    assert torch.equal(edited[0, :6], logits[0, :6]) and torch.equal(edited[1], logits[1])
    assert not torch.equal(edited[0, 6], logits[0, 6])


@pytest.mark.parametrize("dim", [16, 48, 64, 80])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_defaults_build_and_run_at_any_dim_divisible_by_16(architecture: str, dim: int) -> None:
    block = ARCHITECTURES.resolve({"type": architecture}).build(dim, EmaConfig())
    x = torch.randn(2, 5, dim)
    y, _ = block(x, block.initial_state(2))
    assert y.shape == x.shape and y.isfinite().all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_that_do_not_fit_are_refused(architecture: str) -> None:
    kind = ARCHITECTURES[architecture]
    if "heads" not in kind.model_fields:
        return
    with pytest.raises(ConfigError, match="architecture.heads: 5 heads do not divide a model of dim 64 .* 1, 2, 4, 8"):
        kind(heads=5).build(64, EmaConfig())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_persistent_tokens_may_be_left_out(architecture: str) -> None:
    block = tiny(ARCHITECTURES[architecture], persistent=0).build(DIM, EmaConfig()).double()
    x = tokens()
    run(block, x).sum().backward()
    assert all(parameter.grad is not None and parameter.numel() for parameter in block.parameters())
    torch.testing.assert_close(in_pieces(block, x, [1, 6, 4]), run(block, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("architecture", sorted(WITHOUT_MEMORY))
def test_baselines_ignore_the_memory(architecture: str) -> None:
    block = ARCHITECTURES.resolve({"type": architecture}).build(DIM, EmaConfig())
    assert not any(isinstance(module, MemoryModule) for module in block.modules())


@pytest.mark.parametrize("architecture", sorted({*ARCHITECTURES} - {"transformer"}))
@torch.no_grad()
def test_the_state_stops_growing(architecture: str) -> None:
    block = block_of(architecture, "ema")
    sizes = []
    for time in (40, 400):
        _, state = block(tokens(time=time), block.initial_state(1))
        sizes.append(sum(leaf.numel() for leaf in tree_leaves(state)))
    assert sizes[0] == sizes[1]


def turned(x: Tensor, position: int) -> Tensor:
    """RoPE of one vector [d], by complex numbers."""
    half = x.shape[-1] // 2
    angles = position * 10_000.0 ** (-torch.arange(half, dtype=DOUBLE) / half)
    z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([z.real, z.imag])


def attend(
    layer: MultiHeadAttention, query: Tensor, position: int, seen: list[tuple[Tensor, int]], prefix: Tensor
) -> Tensor:
    """Attention of one token [dim], head by head; persistent tokens meet the unrotated query."""
    dim, heads = query.shape[0], []
    for rows in torch.arange(dim).split(dim // layer.heads):
        q = layer.query.weight[rows] @ query
        w_k, w_v = layer.key_value.weight[rows], layer.key_value.weight[dim + rows]
        scores = [q @ (w_k @ p) for p in prefix]
        scores += [turned(q, position) @ turned(w_k @ x, place) for x, place in seen]
        weights = (torch.stack(scores) / math.sqrt(len(rows))).softmax(0)
        heads.append(weights @ torch.stack([w_v @ x for x in [*prefix, *(x for x, _ in seen)]]))
    return layer.out.weight @ torch.cat(heads)


@torch.no_grad()
def test_mac_equals_its_equations_token_by_token() -> None:
    block, x = block_of("mac", "ema"), tokens()[0]
    normed, prefix = block.norm(x), block.norm(block.persistent.tokens)
    memory = block.memory.initial_state(1)
    expected = []
    for t in range(TIME):
        start = t - t % TINY["segment"]
        if t == start:
            at_start = memory
        retrieved = [block.memory.read(normed[None, None, j], at_start)[0, 0] for j in range(start, t + 1)]
        seen = [(h, start + j) for j, h in enumerate(retrieved)] + [(normed[j], j) for j in range(start, t + 1)]
        y = block.attention_norm(attend(block.attention.heads, normed[t], t, seen, prefix))
        o, memory = block.memory(y[None, None], memory)
        expected.append(x[t] + y * torch.sigmoid(block.gate_norm(o[0, 0])))
    torch.testing.assert_close(run(block, x[None])[0], torch.stack(expected), rtol=0, atol=1e-11)


def windowed(layer: MultiHeadAttention, x: Tensor, prefix: Tensor) -> Tensor:
    """Sliding-window attention of all tokens [t, dim], one by one."""
    outputs = []
    for t in range(len(x)):
        seen = [(x[j], j) for j in range(max(0, t - TINY["window"] + 1), t + 1)]
        outputs.append(attend(layer, x[t], t, seen, prefix))
    return torch.stack(outputs)


def remembered(memory: MemoryModule, persistent: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The memory's outputs for the persistent tokens and for x, which follow them in one sequence."""
    y = memory(torch.cat([persistent, x])[None], memory.initial_state(1))[0][0]
    return y[: len(persistent)], y[len(persistent) :]


@pytest.mark.parametrize("memory", MEMORIES)
@torch.no_grad()
def test_lmm_prepends_its_persistent_tokens(memory: str) -> None:
    block, x = block_of("lmm", memory), tokens()[0]
    _, y = remembered(block.memory, block.norm(block.persistent.tokens), block.norm(x))
    torch.testing.assert_close(run(block, x[None])[0], x + y, rtol=0, atol=1e-10)


@torch.no_grad()
def test_mag_equals_its_equations() -> None:
    block, x = block_of("mag", "ema"), tokens()[0]
    prefix, normed = block.norm(block.persistent.tokens), block.norm(x)
    y, (_, m) = windowed(block.attention.heads, normed, prefix), remembered(block.memory, prefix, normed)
    expected = x + block.attention_norm(y) * torch.sigmoid(block.gate_norm(m))
    torch.testing.assert_close(run(block, x[None])[0], expected, rtol=0, atol=1e-11)


@torch.no_grad()
def test_mal_equals_its_equations() -> None:
    block, x = block_of("mal", "ema"), tokens()[0]
    persistent = block.persistent.tokens
    answers, y = remembered(block.memory, block.memory_norm(persistent), block.memory_norm(x))
    z, prefix = block.attention_norm(x + y), block.attention_norm(persistent + answers)
    expected = x + y + windowed(block.attention.heads, z, prefix)
    torch.testing.assert_close(run(block, x[None])[0], expected, rtol=0, atol=1e-11)


@torch.no_grad()
def test_mac_retrieves_what_an_earlier_segment_wrote() -> None:
    block, x = block_of("mac", "ema"), tokens()
    edited = x.clone()
    edited[:, 0] += 1
    change = (run(block, edited) - run(block, x)).abs().amax((0, 2))
    assert (change[TINY["segment"] :] > 1e-9).all()


@torch.no_grad()
def test_a_sliding_window_does_not_see_past_its_window() -> None:
    block, x = block_of("sliding_window", "ema"), tokens()
    edited = x.clone()
    edited[:, 2] += 1
    change = (run(block, edited) - run(block, x)).abs().amax((0, 2))
    assert (change[2:5] > 1e-9).all() and change[5:].sum() == 0.0
