"""`titanlab bench layer` and `model` at tiny sizes: rows are whole, unknown names refused, a failing peer is a row."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from titanlab.__main__ import main
from titanlab.benchmarks import layer_peers, model
from titanlab.benchmarks.chip import measure_ceilings
from titanlab.benchmarks.layer import LayerBenchmark, bench_layer, outputs_and_gradients, relative_error
from titanlab.benchmarks.layer_case import Case, Draw, Prepared, Sizes
from titanlab.benchmarks.layer_rules import rule_cases
from titanlab.benchmarks.model import BASELINE, ModelBenchmark, _legend, random_batch
from titanlab.benchmarks.model_sizes import SIZES, Parts, model_of
from titanlab.benchmarks.result import Result, read_result
from titanlab.benchmarks.timing import time_call
from titanlab.memory_modules.reference import delta_rule_by_token
from titanlab.platform.costs import parameters_of
from titanlab.platform.run_config import TrainConfig

CPU = torch.device("cpu")
TINY = ["--batch", "1", "--tokens", "20", "--heads", "2", "--head-dim", "8", "--chunk-size", "8", "--quick"]
TINY_MODEL = [
    "--size", "tiny", "--context", "16,32", "--batch-tokens", "32", "--window", "16", "--chunk-size", "16",
    "--persistent", "2", "--expansion", "1", "--quick",
]  # fmt: skip
TINY_STREAM = ["--size", "tiny", "--window", "16", "--chunk-size", "16", "--device", "cpu"]

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """`titanlab bench ...` in this process, on the CPU: exit code, output, errors."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["titanlab", "bench", *arguments])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


def rows_of(file: Path) -> dict[str, dict[str, Any]]:
    """By name and backend."""
    return {f"{row['what']} ({row['backend']})": row for row in json.loads(file.read_text())["rows"]}


def test_layers_and_peers_stand_in_one_table_with_times_ratio_and_errors(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    words = ["--memory", "titans,delta,retnet", "--peers", "sdpa", "--backend", "torch,triton", "--json", str(file)]
    code, out, err = bench("layer", *TINY, *words)
    assert code == 0, err
    rows = rows_of(file)
    measured = {"titans, depth 1 (torch)", "titans, depth 2 (torch)", "retnet layer (auto)", "SDPA, causal (kernels)"}
    assert measured <= set(rows)
    for name in measured:
        row = rows[name]
        assert row["what"] in out
        assert 0 < row["forward_min_ms"] <= row["forward_ms"] and row["forward_and_backward_ms"] > 0
        assert row["error_output"] < 1e-4 and row["error_gradients"] < 1e-2
        assert row["tflops"] == pytest.approx(3 * row["flops_per_token"] * 20 / row["forward_and_backward_ms"] / 1e9)
    base = rows["SDPA, causal (kernels)"]
    for row in rows.values():
        if row["ratio"] is not None:
            assert row["ratio"] == pytest.approx(row["forward_and_backward_ms"] / base["forward_and_backward_ms"])
    assert base["ratio"] == 1
    refused = rows["titans, depth 1 (triton)"]  # no GPU here: the row says so
    assert "triton" in refused["remark"] and "forward_ms" not in refused and refused["remark"] in " ".join(out.split())


def test_the_file_says_how_it_came_about(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    assert bench("layer", *TINY, "--memory", "linear_attention", "--peers", "none", "--json", str(file))[0] == 0
    result = read_result(file)
    assert result.facts["command"].startswith("titanlab bench layer --batch 1") and result.facts["date"]
    assert result.facts["chip"]["kind"] == "cpu" and "thread" in result.facts["chip"]["capability"]
    assert result.facts["versions"]["torch"] == torch.__version__
    assert result.facts["ceilings"]["matrix_tflops"] > 0 and result.facts["ceilings"]["copy_gb_per_s"] > 0
    assert result.facts["settings"]["tokens"] == 20 and result.facts["settings"]["dtype"] == "float32"
    assert set(result.columns) >= set(result.rows[0]) - {
        "package", "forward_min_ms", "forward_and_backward_min_ms", "repeats", "flops_per_token",
    }  # fmt: skip
    assert any("no ratio" in note for note in result.notes)


def test_a_peer_that_fails_is_a_row_and_the_others_are_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(names: list[str], sizes: Sizes, depths: list[int]) -> tuple[list[Case], list[str]]:
        def refuses(draw: Draw) -> Prepared:
            raise RuntimeError("this chip is not mine\nand more of it")

        def overflows(draw: Draw) -> Prepared:
            return Prepared(lambda x: x / 0, [torch.ones(2, requires_grad=True)])

        def exits(draw: Draw) -> Prepared:
            raise SystemExit("bye")

        prepared = {"refuses": refuses, "overflows": overflows, "exits": exits}
        return [Case(name, "peer", prepare, None, None) for name, prepare in prepared.items()], ["a note of theirs"]

    monkeypatch.setattr("titanlab.benchmarks.layer.peer_cases", broken)
    file = tmp_path / "layers.json"
    code, out, _ = bench("layer", *TINY, "--memory", "delta", "--json", str(file), "--against", "delta")
    rows = rows_of(file)
    assert code == 0 and "a note of theirs" in out
    assert rows["refuses (torch)"]["remark"] == "failed: RuntimeError: this chip is not mine"
    assert "not finite" in rows["overflows (torch)"]["remark"] and "bye" in rows["exits (torch)"]["remark"]
    assert rows["delta (torch)"]["ratio"] == 1 and "this chip is not mine" in out


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["layer", *TINY, "--memory", "delta,linear_attention", "--peers", "sdpa"], 3),
        (["model", *TINY_MODEL, "--architectures", "transformer"], 2),
        (
            ["decode", *TINY_STREAM, "--architectures", "lmm", "--context", "16,32", "--batch", "1,2", "--tokens", "2"],
            4,
        ),
        (["needle", *TINY_STREAM, "--architectures", "lmm", "--length", "200", "--depths", "0,1"], 2),
    ],
)
def test_each_row_is_in_the_file_as_soon_as_it_is_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], rows: int
) -> None:
    seen, write = [], Result.write_json

    def watched(result: Result, path: Path) -> None:
        write(result, path)
        read = read_result(path)
        seen.append((len(read.rows), read.finished))

    monkeypatch.setattr(Result, "write_json", watched)
    code, out, err = bench(*words, "--json", str(tmp_path / "r.json"))
    assert code == 0 and "UNFINISHED" not in out, err
    assert seen == [*((number, False) for number in range(rows + 1)), (rows, True)]


def test_an_older_file_is_replaced_before_anything_is_measured(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("titanlab.benchmarks.layer.measured", interrupted)
    file = tmp_path / "layers.json"
    Result("of yesterday", ["what"], [{"what": "delta"}]).write_json(file)
    code, out, err = bench("layer", *TINY, "--memory", "delta", "--peers", "none", "--json", str(file))
    result = read_result(file)
    assert result.title.startswith("Layers on") and not result.rows and not result.finished
    assert code == 130 and "UNFINISHED: Layers on" in out and f"unfinished, in {file}" in err


def test_an_error_in_mid_run_leaves_the_rows_before_it_as_unfinished(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_at_the_second(case: Case, *arguments: object) -> dict[str, object]:
        if case.name != "delta":
            raise RuntimeError("nobody expected this")
        return {"what": case.name, "backend": case.backend}

    monkeypatch.setattr("titanlab.benchmarks.layer.measured", fails_at_the_second)
    file = tmp_path / "layers.json"
    with pytest.raises(RuntimeError, match="nobody expected this"):
        bench("layer", *TINY, "--memory", "delta,linear_attention", "--peers", "none", "--json", str(file))
    result = read_result(file)
    assert [row["what"] for row in result.rows] == ["delta"] and not result.finished


def test_what_was_measured_before_the_keyboard_interrupted_is_shown_and_in_the_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(draw: Draw) -> Prepared:
        raise KeyboardInterrupt

    case = Case("interrupted", "peer", interrupted, None, None)
    monkeypatch.setattr("titanlab.benchmarks.layer.peer_cases", lambda names, sizes, depths: ([case], []))
    file = tmp_path / "layers.json"
    code, out, err = bench("layer", *TINY, "--memory", "delta", "--json", str(file), "--against", "delta")
    assert code == 130 and "UNFINISHED: Layers on" in out and f"unfinished, in {file}" in err
    result = read_result(file)
    assert [row["what"] for row in result.rows] == ["delta"] and not result.finished
    assert result.rows[0]["ratio"] == 1 and any(note.startswith("ratio:") for note in result.notes)


def test_a_peer_that_is_not_installed_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_peers, "find_spec", lambda module: None if module != "torch" else object())
    sizes = Sizes(1, 8, 1, 8, 2.0, 4, torch.float32)
    cases, notes = layer_peers.peer_cases(layer_peers.chosen_peers("auto"), sizes, [2])
    assert [case.name for case in cases] == ["SDPA, causal"]
    assert len(notes) == 3 and all("pip install" in note for note in notes)


def test_attention_is_held_against_an_exact_form() -> None:
    case = layer_peers.peer_cases(["sdpa"], Sizes(2, 9, 2, 8, 2.0, 4, torch.float32), [2])[0][0]
    call, leaves = case.prepare(Draw(Sizes(2, 9, 2, 8, 2.0, 4, torch.float32), CPU))
    assert case.exact is not None
    assert relative_error(call(*leaves).detach(), case.exact(*(leaf.double() for leaf in leaves))) < 1e-6


def test_an_error_of_a_rule_would_be_seen() -> None:
    sizes = Sizes(1, 12, 1, 8, 2.0, 4, torch.float32)
    (case,) = rule_cases("delta", sizes, [2], ["torch"])
    call, leaves = case.prepare(Draw(sizes, CPU))
    exact = delta_rule_by_token(*(leaf.double() for leaf in leaves))[0]
    assert relative_error(call(*leaves), exact) < 1e-6
    assert relative_error(call(*leaves) * 1.01, exact) == pytest.approx(0.01, rel=1e-3)
    gradients = outputs_and_gradients(call, leaves, torch.ones_like(leaves[0]))
    assert len(gradients) == 1 + len(leaves) and all(torch.is_tensor(one) for one in gradients)


def test_every_rule_is_run_as_titanlab_computes_it() -> None:
    sizes = Sizes(1, 12, 2, 8, 2.0, 4, torch.float32)
    for name in ("titans", "momentum_delta", "gated_delta", "delta", "linear_attention", "mamba2", "gla", "rwkv7"):
        for case in rule_cases(name, sizes, [1, 2], ["torch"]):
            call, leaves = case.prepare(Draw(sizes, CPU))
            again = case.prepare(Draw(sizes, CPU)).leaves
            assert all(torch.equal(one, other) for one, other in zip(leaves, again, strict=True)), case.name
            assert call(*leaves).shape == (1, 12, 2, 8) and case.flops


def test_models_are_trained_beside_the_transformer(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    code, out, err = bench("model", *TINY_MODEL, "--architectures", "mac,transformer", "--json", str(file))
    assert code == 0, err
    result = read_result(file)
    assert [row["architecture"] for row in result.rows] == [BASELINE, "mac"] * 2
    for row in result.rows:
        base = next(r for r in result.rows if (r["architecture"], r["context"]) == (BASELINE, row["context"]))
        assert row["rows"] == 32 // row["context"] and row["remark"] is None
        assert row["ratio"] == pytest.approx(row["tokens_per_second"] / base["tokens_per_second"])
        assert row["tflops"] == pytest.approx(3 * row["flops_per_token"] * row["tokens_per_second"] / 1e12)
        assert 0 < row["loss"] < 20 and row["step_ms"] > 0 and row["steps"] >= 3
        assert abs(row["parameters"] / base["parameters"] - 1) < 0.03
        assert str(row["architecture"]) in out
    assert not any("DIFFER" in note for note in result.notes)
    assert result.facts["settings"]["size"] == "tiny" and result.facts["settings"]["window"] == 16


def test_models_are_trained_with_the_loss_and_the_attention_that_were_asked_for(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    words = ["--architectures", "transformer,mac,lmm", "--attention", "sdpa", "--loss", "chunked", "--json", str(file)]
    code, _, err = bench("model", *TINY_MODEL, "--context", "16", *words)
    assert code == 0, err
    result = read_result(file)
    assert [row["remark"] for row in result.rows] == [None] * 3
    settings = result.facts["settings"]
    assert settings["attention"] == "sdpa" and settings["training"]["loss"] == "chunked"


def test_every_architecture_that_attends_takes_the_attention_by_name() -> None:
    parts = Parts(attention="flex", matched=False)
    for name in ("transformer", "sliding_window", "mac", "mag", "mal"):
        assert getattr(model_of(name, SIZES["tiny"], parts).architecture, "attention") == "flex"  # noqa: B009
    assert not hasattr(model_of("lmm", SIZES["tiny"], parts).architecture, "attention")


def test_on_a_gpu_mac_without_a_recorded_step_is_remarked_on() -> None:
    ceilings, gpu = measure_ceilings(CPU, seconds=0.001), torch.device("cuda")

    def remarked(device: torch.device, architecture: str = "mac", **training: bool) -> bool:
        benchmark = ModelBenchmark(architectures=["transformer", architecture], training=training)
        return any("--cuda-graph" in note for note in _legend(ceilings, benchmark, device))

    assert remarked(gpu) and remarked(gpu, cuda_graph=False)
    assert not remarked(gpu, cuda_graph=True) and not remarked(gpu, "lmm") and not remarked(CPU)


def test_the_transformer_takes_whole_rows_beside_a_wavefront(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pieces, own = tmp_path / "models.json", [], model.training_speed

    def noted(config: Any, vocabulary: int, context: int, train: TrainConfig, *rest: Any) -> Any:
        pieces.append((train.wavefront, train.keep_states))
        return own(config, vocabulary, context, train, *rest)

    monkeypatch.setattr(model, "training_speed", noted)
    words = ["--architectures", "mac,transformer", "--wavefront", "8", "--keep-states", "--json", str(file)]
    code, _, err = bench("model", *TINY_MODEL, "--context", "16", *words)
    assert code == 0, err
    result = read_result(file)
    assert [row["architecture"] for row in result.rows] == [BASELINE, "mac"] and pieces == [(0, True), (8, True)]
    told = "\n".join(result.notes)
    assert "pieces of 8 tokens" in told and f"the {BASELINE}, whose state grows with the row, takes whole rows" in told
    assert "no states are kept: only kernels on a GPU keep them" in told


def test_a_model_that_does_not_fit_is_a_row(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from titanlab.architectures.lmm import Lmm

    def no_room(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB")

    monkeypatch.setattr(Lmm, "forward", no_room)
    file = tmp_path / "models.json"
    code, out, _ = bench(
        "model", *TINY_MODEL, "--context", "16", "--architectures", "lmm,transformer", "--json", str(file)
    )
    rows = read_result(file).rows
    assert code == 0 and "out of memory" in out
    assert [row["remark"] for row in rows] == [None, "failed: out of memory"]
    assert rows[0]["ratio"] == 1 and rows[1]["ratio"] is None


def test_models_of_a_size_have_equally_many_parameters() -> None:
    for name in ("60M", "170M", "340M"):
        counts = [
            parameters_of(model_of(kind, SIZES[name], Parts()), SIZES[name].vocabulary)
            for kind in ("transformer", "mac", "mag", "mal", "lmm")
        ]
        assert max(counts) / min(counts) < 1.02, (name, counts)
    unmatched = model_of("mac", SIZES["60M"], Parts(matched=False))
    assert parameters_of(unmatched, SIZES["60M"].vocabulary) > 1.2 * counts[0] / 369 * 57


def test_random_rows_are_targets_of_themselves() -> None:
    drawn = torch.Generator().manual_seed(0)
    batch, other = random_batch(2, 8, 16, drawn), random_batch(2, 8, 16, drawn)
    assert torch.equal(batch.ids[:, 1:], batch.targets[:, :-1]) and batch.mask.all()
    assert not torch.equal(batch.ids, other.ids)


@pytest.mark.parametrize(
    "words, said",
    [
        (["layer", "--memory", "titns"], "did you mean 'titans'?"),
        (["layer", "--backend", "cuda"], "unknown backend 'cuda'"),
        (["layer", "--peers", "flah"], "did you mean 'fla'?"),
        (["layer", "--depth", "1,x"], "--depth: expected whole numbers"),
        (["layer", "--against", "nobody"], "unknown row 'nobody'"),
        (["layer", "--json", "no/such/folder.json"], "--json no/such/folder.json: there is no folder no/such"),
        (["layer", "--json", "."], "--json .: is a folder; expected a file's name"),
        (["layer", "--memory", ""], "--memory: expected names with commas between them"),
        (["layer", "--memory", "yaad", "--chunk-size", "5000"], "--memory yaad: --chunk-size: expected a number of at"),
        (["layer", "--peers", "auto,none"], "--peers: 'auto' stands alone"),
        (["layer", "--plugin", "no_such_plugin_anywhere"], "no_such_plugin_anywhere"),
        (["model", "--architectures", ""], "--architectures: expected names with commas between them"),
        (["model", "--depth", "5"], "--depth: expected a number of at most 4, got 5"),
        (["layer", "--json", os.devnull], f"--json {os.devnull}: exists and is no regular file"),
        (["model", "--architectures", "macc"], "did you mean 'mac'?"),
        (["model", "--size", "340m"], "did you mean '340M'?"),
        (["model", "--memory", "titns"], "did you mean 'titans'?"),
        (["model", "--attention", "flsh"], "--attention: unknown backend 'flsh'; did you mean 'flash'?"),
        (["model", "--loss", "chunkd"], "--loss: expected 'auto', 'whole', 'chunked' or 'liger'"),
        (["model", "--loss", "chunkd"], "did you mean 'chunked'?"),
        (["model", "--accumulate", "3"], "must be a multiple of accumulate (3), got 2"),
        (["model", "--cuda-graph", "--checkpoint-blocks"], "--cuda-graph: cannot be used with"),
        (["model", "--cuda-graph"], "--cuda-graph: needs one process with one CUDA device"),
        (["model", "--loss", "liger"], "--loss: liger needs a CUDA device"),
        (["model", "--context", "4k"], "--context: expected whole numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(bench: Bench, words: list[str], said: str) -> None:
    code, out, err = bench(*words)
    assert code == 2 and not out
    assert err.startswith("error: ") and said in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("words", [["--cuda-graph"], ["--attention", "flash"]])
def test_settings_that_cannot_run_leave_an_older_file_as_it_was(
    bench: Bench, tmp_path: Path, words: list[str], older: bool
) -> None:
    file = tmp_path / "models.json"
    if older:
        Result("of yesterday", ["what"], [{"what": "delta"}]).write_json(file)
    code, out, err = bench("model", *TINY_MODEL, "--architectures", "transformer", *words, "--json", str(file))
    assert code == 2 and not out and err.splitlines()[-1].startswith("error: ")
    assert file.exists() == older and (not older or read_result(file).title == "of yesterday")


def test_an_error_after_some_rows_shows_them(bench: Bench, tmp_path: Path) -> None:
    file, words = tmp_path / "models.json", ["--architectures", "lmm,mac", "--attention", "flash"]
    code, out, err = bench("model", *TINY_MODEL, *words, "--json", str(file))
    assert code == 2 and "UNFINISHED: Training" in out and "lmm" in out and f"unfinished, in {file}" in err
    assert [row["architecture"] for row in read_result(file).rows] == ["lmm"]


def test_every_step_of_a_model_is_of_other_tokens(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, own = [], model.random_batch

    def noted(*given: Any) -> Any:
        batch = own(*given)
        seen.append(batch.ids)
        return batch

    monkeypatch.setattr(model, "random_batch", noted)
    code, out, err = bench("model", *TINY_MODEL, "--architectures", "lmm", "--context", "63", "--batch-tokens", "10")
    assert code == 0, err
    assert len(seen) >= 5 and len({tuple(ids.flatten().tolist()) for ids in seen}) == len(seen)
    assert "63 tokens a step, float32" in out


def test_the_first_call_is_timed_apart() -> None:
    import time

    calls: list[float] = []

    def call() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.05 if len(calls) == 1 else 0.001)

    timing = time_call(call, CPU, seconds=0.02)
    assert timing.first_s >= 0.05 and 1 <= timing.min_ms <= timing.median_ms < 40 and timing.peak_gb is None
    assert timing.repeats == len(calls) - 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_memory_is_measured_and_errors_stay_small() -> None:
    sizes = Sizes(1, 256, 2, 32, 2.0, 32, torch.bfloat16)
    benchmark = LayerBenchmark(sizes, memories=["titans", "delta"], backends=["auto"], peers="sdpa", seconds=0.05)
    for row in bench_layer(benchmark, torch.device("cuda", 0)).rows:
        assert row["remark"] is None, row
        assert float(row["peak_gb"] or 0) > 0 and float(row["error_output"] or 1) < 1e-2
