"""What changes on a GPU: nothing but the device. Run with `pytest -m gpu` on a machine that has one."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from titanlab import ARCHITECTURES, MEMORY_MODULES, RunConfig, build_model
from titanlab.memory_modules.functional import deep_memory, delta_rule

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RUN: dict[str, Any] = {
    "model": {"dim": 32, "layers": 2, "architecture": {"type": "mag", "heads": 2}, "memory": {"type": "titans"}},
    "task": {"type": "mqar", "vocab": 32, "pairs": 4, "length": 32, "eval_examples": 64},
    "train": {"steps": 30, "batch_size": 32, "learning_rate": 5.0e-3, "checkpoint_every": 10},
}


def rule_arguments(dtype: torch.dtype) -> dict[str, Any]:
    torch.manual_seed(0)
    b, t, h, d, hidden = 2, 77, 3, 16, 32
    q, k, v = (torch.nn.functional.normalize(torch.randn(b, t, h, d), dim=-1).to(dtype) for _ in range(3))
    gates = {name: torch.rand(b, t, h).to(dtype) for name in ("keep", "momentum", "step")}
    gates["step"] = gates["step"] * 0.1
    return {"q": q, "k": k, "v": v, **gates, "weights": [torch.randn(h, d, hidden) / 4, torch.randn(h, hidden, d) / 6]}


def to(arguments: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
    weights = [matrix.to(device, dtype) for matrix in arguments["weights"]]
    return {name: x.to(device, dtype) for name, x in arguments.items() if name != "weights"} | {"weights": weights}


def test_deep_memory_on_a_gpu_equals_float64_on_a_cpu() -> None:
    arguments = rule_arguments(torch.float32)
    expected, state = deep_memory(**to(arguments, "cpu", torch.float64), chunk_size=16)
    y, on_gpu = deep_memory(**to(arguments, "cuda", torch.float32), chunk_size=16)
    torch.testing.assert_close(y.double().cpu(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(on_gpu.weights[0].double().cpu(), state.weights[0], rtol=1e-4, atol=1e-5)


def test_gradients_on_a_gpu_equal_float64_on_a_cpu() -> None:
    def gradients(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
        arguments = to(rule_arguments(torch.float32), device, dtype)
        leaves = [x.requires_grad_() for name, x in arguments.items() if name != "weights"]
        leaves += [matrix.requires_grad_() for matrix in arguments["weights"]]
        y, _ = deep_memory(**arguments, chunk_size=16)
        return [g.double().cpu() for g in torch.autograd.grad(y.square().sum(), leaves)]

    for ours, expected in zip(gradients("cuda", torch.float32), gradients("cpu", torch.float64), strict=True):
        assert (ours - expected).norm() <= 1e-4 * expected.norm()


def test_delta_rule_on_a_gpu_equals_float64_on_a_cpu() -> None:
    a = rule_arguments(torch.float32)
    names = ("q", "k", "v", "step")
    expected, _ = delta_rule(*(a[name].double() for name in names), chunk_size=16)
    y, _ = delta_rule(*(a[name].cuda() for name in names), chunk_size=16)
    torch.testing.assert_close(y.double().cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", sorted(MEMORY_MODULES))
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_bf16_training_on_a_gpu_is_finite_and_causal(architecture: str, memory: str) -> None:
    torch.manual_seed(0)
    model = build_model({"dim": 64, "architecture": {"type": architecture}, "memory": {"type": memory}}, 50).cuda()
    ids = torch.randint(50, (2, 90), device="cuda")
    edited = ids.clone()
    edited[:, 60] = (edited[:, 60] + 1) % 50
    with torch.autocast("cuda", torch.bfloat16):
        logits, _ = model(ids)
        assert (model(edited)[0] - logits)[:, :60].abs().max() == 0.0
    logits.float().logsumexp(-1).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_run_trains_on_the_gpu_and_resumes(tmp_path: Path) -> None:
    from titanlab.platform.training.loop import train

    steps = []
    stopped = train(
        RunConfig.model_validate(RUN),
        tmp_path,
        observe=lambda p: steps.append(p.step),
        should_stop=lambda: len(steps) > 14,
    )
    assert stopped.status == "stopped"
    done = train(RunConfig.model_validate(RUN), tmp_path)
    assert done.status == "complete" and done.step == 30
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert lines[-1]["metrics"]["train/loss"] < lines[0]["metrics"]["train/loss"]


def test_ranks_over_nccl_give_the_losses_of_one_process(tmp_path: Path) -> None:
    ranks = torch.cuda.device_count()
    run = copy.deepcopy(RUN)
    run["train"] |= {"precision": "float32", "steps": 10}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    losses = []
    for processes in (1, ranks):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        store = tmp_path / f"store-{len(losses)}"
        command += ["-m", "titanlab", "train", "run.yaml", "--store", str(store)]
        subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        lines = next(store.glob("runs/*/metrics.jsonl")).read_text().splitlines()
        losses.append(json.loads(lines[-1])["metrics"]["train/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_trials_share_a_gpu_by_fractions(lab: Any) -> None:
    file = lab.write("shared-gpu", {"model.memory.keep": [0.5, 0.9]}, seeds=2, resources={"cpu": 1, "gpu": 0.25})
    done = lab.run(file)
    assert done.returncode == 0, done.stderr
    assert [run.info.status for run in lab.runs("shared-gpu")] == ["FINISHED"] * 4


def test_more_gpus_than_there_are_are_refused_before_anything_is_written(lab: Any) -> None:
    file = lab.write("greedy", {"model.memory.keep": [0.5]}, resources={"cpu": 1, "gpu": torch.cuda.device_count() + 1})
    done = lab.run(file)
    assert done.returncode == 2 and "gpu" in done.stderr.lower()
    assert not lab.store.exists()
