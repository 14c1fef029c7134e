"""`titanlab bench layer`: forward and backward of memory rules beside other people's, with how exact each is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from titanlab.benchmarks.chip import TERA, Ceilings, chip_of, facts_of, measure_ceilings
from titanlab.benchmarks.followed import Followed
from titanlab.benchmarks.layer_case import Case, Draw, Sizes
from titanlab.benchmarks.layer_peers import chosen_peers, peer_cases, quiet
from titanlab.benchmarks.layer_rules import rule_cases
from titanlab.benchmarks.result import Result, Row
from titanlab.benchmarks.timing import free_memory, time_call
from titanlab.memory_modules.kernels.backends import BACKENDS
from titanlab.platform.costs import TRAINING
from titanlab.platform.errors import ConfigError, Problem, TitanlabError, unknown_name
from titanlab.platform.memory import MEMORY_MODULES
from titanlab.platform.recomputation import states_kept

COLUMNS = [
    "what", "backend", "forward_ms", "forward_and_backward_ms", "ratio", "tflops", "ceiling_share", "peak_gb",
    "first_call_s", "error_output", "error_gradients", "remark",
]  # fmt: skip

COMPARED_WITH = ("fla chunk_delta_rule", "titans-pytorch NeuralMemory, depth 2", "titans-pytorch", "SDPA")
"""Whose time `ratio` is over: the first of these that was measured, if no other is named."""

SAMPLE_CHUNKS, SAMPLE_REST = 3, 5
"""The sample on which a row is held against its exact form: so many chunks, and tokens that fill none."""


@dataclass(frozen=True)
class LayerBenchmark(Followed):
    """What to measure."""

    sizes: Sizes
    memories: Sequence[str] = ("titans", "momentum_delta", "gated_delta", "delta", "linear_attention", "rwkv7")
    """Registered memories: run as functions if they are one, else as layers."""
    depths: Sequence[int] = (1, 2)
    """Matrices of `titans`."""
    backends: Sequence[str] = ("torch",)
    peers: str = "auto"
    against: str = ""
    """The row that `ratio` compares with, by the beginning of its name; empty: see COMPARED_WITH."""
    seconds: float = 1.0
    """Of timed calls, each row and direction."""
    keep_states: bool = False
    """Whether gradients find the memory's state before every chunk where the forward pass left it."""

    def settings(self) -> dict[str, Any]:
        """As the JSON file has them."""
        sizes = {
            **asdict(self.sizes),
            "dtype": str(self.sizes.dtype).removeprefix("torch."),
            "hidden": self.sizes.hidden,
        }
        return {**sizes, **self.plain_settings("sizes")}


def bench_layer(benchmark: LayerBenchmark, device: torch.device) -> Result:
    """Measures every row on a device; one that fails says why.

    Raises:
        ConfigError: an unknown memory, backend, peer, or row to compare with.
    """
    cases, notes = _cases(benchmark)
    against = _compared_with(benchmark.against, cases)
    benchmark.tell("ceilings of this device")
    ceilings = measure_ceilings(device, seconds=min(0.5, benchmark.seconds))
    facts = facts_of(device, benchmark.settings(), ceilings)
    rows: list[Row] = []
    title = f"Layers on {chip_of(device)}: {benchmark.sizes}"

    def result(*, finished: bool) -> Result:
        told = [*_legend(ceilings, benchmark, device), *notes, *_compare(rows, against)]
        return Result(title, COLUMNS, rows, facts, told, finished)

    benchmark.keep(result(finished=False))
    for case in cases:
        benchmark.tell(f"{case.name} ({case.backend})")
        rows.append(measured(case, benchmark, ceilings, device))
        benchmark.keep(result(finished=False))
    return result(finished=True)


def _cases(benchmark: LayerBenchmark) -> tuple[list[Case], list[str]]:
    for name in benchmark.memories:
        if name not in MEMORY_MODULES:
            raise ConfigError(Problem(f"--memory: {unknown_name('memory', name, MEMORY_MODULES)}"))
    for name in benchmark.backends:
        if name not in BACKENDS:
            raise ConfigError(Problem(f"--backend: {unknown_name('backend', name, BACKENDS)}"))
    peers, notes = peer_cases(chosen_peers(benchmark.peers), benchmark.sizes, benchmark.depths)
    own = [
        case
        for name in dict.fromkeys(benchmark.memories)
        for case in rule_cases(name, benchmark.sizes, benchmark.depths, benchmark.backends)
    ]
    return own + peers, notes


def measured(case: Case, benchmark: LayerBenchmark, ceilings: Ceilings, device: torch.device) -> Row:
    """A row; whatever the case raises becomes its remark."""
    row: Row = {"what": case.name, "package": case.package, "backend": case.backend, "remark": case.remark or None}
    try:
        with quiet(), states_kept(benchmark.keep_states):
            errors, first_s = exactness(case, benchmark.sizes, device)
            row |= errors
            row |= _times(case, benchmark, device, first_s)
    except (Exception, SystemExit) as error:  # a peer may fail in any way, and that is what its row says
        row["remark"] = f"failed: {reason(error)}"
    free_memory(device)
    tokens, took = benchmark.sizes.batch * benchmark.sizes.tokens, row.get("forward_and_backward_ms")
    if case.flops and isinstance(took, float):
        tflops = TRAINING * case.flops * tokens / (took / 1e3) / TERA
        row |= {"flops_per_token": case.flops, "tflops": tflops, "ceiling_share": tflops / ceilings.matrix_tflops}
    return row


def reason(error: BaseException) -> str:
    """Why a row has no figures, in a line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = "" if isinstance(error, TitanlabError) and lines else f"{type(error).__name__}: "
    return kind + (lines[0][:200] if lines else "(no message)")


def exactness(case: Case, sizes: Sizes, device: torch.device) -> tuple[Row, float]:
    """||came - exact|| / ||exact|| of outputs, and the largest one of gradients, on one short sequence.

    Returns:
        The row's errors, and the seconds of the two calls, which are the first ones: they compile.
    """
    if case.exact is None:
        return {"error_output": "not checked", "error_gradients": "not checked"}, 0.0
    tokens = min(sizes.tokens, SAMPLE_CHUNKS * sizes.chunk_size + SAMPLE_REST)
    call, leaves = case.prepare(Draw(replace(sizes, batch=1, tokens=tokens), device))
    began = time.perf_counter()
    with torch.no_grad():
        cotangent = torch.randn_like(call(*leaves))
    came = outputs_and_gradients(call, leaves, cotangent)
    away = float(came[0].sum())  # waits for the device
    seconds = time.perf_counter() - began
    if not math.isfinite(away):
        raise ArithmeticError(f"its outputs are not finite on a sample of {tokens} tokens")
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact = outputs_and_gradients(case.exact, doubles, cotangent)
    errors = [relative_error(one, other) for one, other in zip(came, exact, strict=True)]
    return {"error_output": errors[0], "error_gradients": max(errors[1:])}, seconds


def relative_error(came: Tensor, exact: Tensor) -> float:
    """||came - exact|| / ||exact||, in float64; of an exact 0, the length of what came."""
    exact = exact.detach()
    length = float(exact.norm())
    away = float((came.detach().double() - exact).norm())
    return away / length if length else away


def _times(case: Case, benchmark: LayerBenchmark, device: torch.device, first_s: float) -> Row:
    call, leaves = case.prepare(Draw(benchmark.sizes, device))
    with torch.no_grad():
        forward = time_call(lambda: call(*leaves), device, seconds=benchmark.seconds)
        y = call(*leaves)
        if not y.isfinite().all():
            raise ArithmeticError("its outputs are not finite at these sizes")
        cotangent = torch.randn_like(y)
        del y
    both = time_call(lambda: outputs_and_gradients(call, leaves, cotangent), device, seconds=benchmark.seconds)
    beyond = sum(max(0.0, timing.first_s - timing.median_ms / 1e3) for timing in (forward, both))
    return {
        "forward_ms": forward.median_ms,
        "forward_min_ms": forward.min_ms,
        "forward_and_backward_ms": both.median_ms,
        "forward_and_backward_min_ms": both.min_ms,
        "repeats": both.repeats,
        "first_call_s": first_s + beyond,
        "peak_gb": both.peak_gb,
    }


def outputs_and_gradients(call: Callable[..., Tensor], leaves: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    """One forward and backward pass: y, then the gradient of every leaf."""
    y = call(*leaves)
    found = torch.autograd.grad(y, list(leaves), cotangent.to(y.dtype), allow_unused=True)
    return [y.detach(), *(leaf.new_zeros(()) if one is None else one for one, leaf in zip(found, leaves, strict=True))]


def _compared_with(against: str, cases: Sequence[Case]) -> tuple[str, ...]:
    """Beginnings of names, the most wanted first."""
    names = [case.name for case in cases]
    if against and not any(name.startswith(against) for name in names):
        raise ConfigError(Problem(f"--against: {unknown_name('row', against, names)}"))
    return (against,) if against else COMPARED_WITH


def _compare(rows: Sequence[Row], against: Sequence[str]) -> list[str]:
    """Fills in the ratios, and says what they are over."""
    for wanted in against:
        for row in rows:
            base = row.get("forward_and_backward_ms")
            if str(row["what"]).startswith(wanted) and isinstance(base, float):
                for other in rows:
                    took = other.get("forward_and_backward_ms")
                    other["ratio"] = took / base if isinstance(took, float) else None
                name = f"{row['what']} ({row['backend']})"
                return [f"ratio: time of forward and backward over that of {name}, in this run; above 1 is slower"]
    return [f"no ratio: there is no time of any of {'; '.join(against)}"]


def states_note(device: torch.device) -> str:
    """What `keep_states` does on a device."""
    if device.type != "cuda":
        return f"no states are kept: only kernels on a GPU keep them, and this runs on {device.type}"
    return "gradients find the states that the forward pass left, in memories of two matrices on Triton's kernels"


def _legend(ceilings: Ceilings, benchmark: LayerBenchmark, device: torch.device) -> list[str]:
    return [
        f"the most that PyTorch reached in this run: {ceilings}",
        f"tflops: {TRAINING} times the operations of the forward pass (titanlab's formulas, docs/costs.md) over the "
        "time of forward and backward; ceiling share: that over the matrix products' above",
        "first call s: compilation and autotuning; errors: relative, against the same function in float64 on "
        f"{SAMPLE_CHUNKS} chunks and {SAMPLE_REST} tokens of one sequence",
        *([states_note(device)] if benchmark.keep_states else []),
    ]
