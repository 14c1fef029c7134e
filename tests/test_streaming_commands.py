"""`titanlab bench stream`, `needle` and `decode` at tiny sizes on a CPU: a table, JSON, and a picture."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from titanlab import RunConfig
from titanlab.__main__ import app
from titanlab.benchmarks import decode, stream_plot
from titanlab.benchmarks import result as benchmarks
from titanlab.benchmarks.stream import course_of
from titanlab.benchmarks.streamed_models import StreamedModel
from titanlab.commands.bench_streamed import length_of, lengths_of
from titanlab.platform.errors import CheckpointError, ConfigError, Problem
from titanlab.platform.model import Model
from titanlab.platform.streaming.stream import Course
from titanlab.platform.training.checkpoint import weights_metadata
from titanlab.platform.training.checkpoint_files import WEIGHTS

TINY = ["--size", "tiny", "--window", "16", "--chunk-size", "16", "--device", "cpu"]


def bench(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_stream_writes_table_json_and_picture(tmp_path: Path) -> None:
    told, picture = tmp_path / "stream.json", tmp_path / "stream.png"
    out = bench(
        "stream", "--length", "2K", "--piece", "256", "--architectures", "mac,lmm,transformer",
        "--state-limit", "0.003", "--json", str(told), "--plot", str(picture), *TINY,
    )  # fmt: skip
    result = json.loads(told.read_text())
    courses = result["facts"]["courses"]
    assert {name: (course["reached"], course["ended"]) for name, course in courses.items()} == {
        "mac": (2048, "length"), "lmm": (2048, "length"), "transformer": (1536, "memory")
    }  # fmt: skip
    assert {row["model"] for row in result["rows"]} == {"mac", "lmm", "transformer"}
    assert "larger than 3,000,000 bytes after 1,536 tokens" in result["rows"][-1]["remark"]
    states = {name: {each["state_bytes"] for each in course["stretches"]} for name, course in courses.items()}
    assert len(states["mac"]) == len(states["lmm"]) == 1 < len(states["transformer"])
    norms = courses["mac"]["stretches"][0]["norms"]
    assert {norm["part"] for norm in norms} == {"weights[0]", "weights[1]", "momentum[0]", "momentum[1]"}
    assert {norm["layer"] for norm in norms} == {0, 1}
    assert result["facts"]["settings"]["length"] == 2048 and result["facts"]["versions"]["torch"]
    assert result["finished"] and "UNFINISHED" not in out.stdout
    assert "Streaming 2,048 tokens" in out.stdout and picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_stream_that_is_cut_leaves_what_it_measured_and_the_models_that_it_finished(
    tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """Real processes, really ended while the second model reads; the first one ended where its state was too large."""
    told, picture = tmp_path / "stream.json", tmp_path / "stream.png"
    command = [
        sys.executable, "-m", "titanlab", "bench", "stream", "--length", "100M", "--piece", "256",
        "--architectures", "transformer,lmm", "--state-limit", "0.002", "--json", str(told), "--plot", str(picture),
        *TINY,
    ]  # fmt: skip
    process = started(command)
    try:
        while "lmm" not in courses_in(told) and process.poll() is None:
            time.sleep(0.01)
        drawn = picture.read_bytes() if picture.exists() else b""
        process.send_signal(sent)
        out, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == code, err
    result, courses = json.loads(told.read_text()), courses_in(told)
    assert not result["finished"] and result["facts"]["settings"]["length"] == 100 << 20
    assert courses["transformer"]["ended"] == "memory" and courses["transformer"]["stretches"]
    assert courses["lmm"]["ended"] == "reading" and courses["lmm"]["reached"] == courses["lmm"]["stretches"][-1]["stop"]
    assert [row["model"] for row in result["rows"]] == sorted((row["model"] for row in result["rows"]), reverse=True)
    assert result["rows"][-1]["remark"] == f"was still being read at {courses['lmm']['reached']:,} tokens"
    assert drawn[:4] == b"\x89PNG" and drawn.endswith(b"IEND\xaeB`\x82") and drawn == picture.read_bytes()
    assert (f"unfinished, in {told}" in err) == ("UNFINISHED: Streaming" in out) == (sent == signal.SIGINT)


def started(command: list[str]) -> subprocess.Popen[str]:
    """A process that SIGINT interrupts; where that is ignored here, it would be ignored there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        # None: whoever set it did not use Python, which cannot set it again
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def courses_in(file: Path) -> dict[str, Any]:
    """What the file has of each model by now."""
    return json.loads(file.read_text())["facts"]["courses"] if file.exists() else {}


TWO_MODELS = ["stream", "--length", "512", "--piece", "256", "--architectures", "lmm,transformer", *TINY]


def test_a_stream_replaces_an_older_file_before_it_reads_and_an_error_leaves_the_models_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, picture = tmp_path / "stream.json", tmp_path / "stream.png"
    told.write_text('{"finished": true}')
    seen: list[list[str]] = []

    def fails_at_the_second(streamed: StreamedModel, *arguments: Any) -> Course:
        assert not json.loads(told.read_text())["finished"]
        seen.append(list(courses_in(told)))
        if streamed.name == "transformer":
            raise RuntimeError("nobody expected this")
        return course_of(streamed, *arguments)

    monkeypatch.setattr("titanlab.benchmarks.stream.course_of", fails_at_the_second)
    with pytest.raises(RuntimeError, match="nobody expected this"):
        bench(*TWO_MODELS, "--json", str(told), "--plot", str(picture))
    assert seen == [[], ["lmm"]] and picture.read_bytes()[:4] == b"\x89PNG"
    assert not json.loads(told.read_text())["finished"] and courses_in(told)["lmm"]["ended"] == "length"


def test_drawing_takes_its_memory_before_the_first_model_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def drawn(result: Any) -> bytes:
        done.append(f"drawn {len(result.facts['courses'])}")
        return png(result)

    def read(streamed: StreamedModel, *arguments: Any) -> Course:
        done.append(streamed.name)
        return course_of(streamed, *arguments)

    png = stream_plot._png
    monkeypatch.setattr(stream_plot, "_png", drawn)
    monkeypatch.setattr("titanlab.benchmarks.stream.course_of", read)
    bench(*TWO_MODELS, "--plot", str(tmp_path / "stream.png"))
    assert done == ["drawn 0", "drawn 0", "lmm", "drawn 1", "transformer", "drawn 2", "drawn 2"]


def test_the_last_picture_is_drawn_although_the_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(result: benchmarks.Result, path: Path) -> None:
        raise ConfigError(Problem("no room"))

    def drawn(result: benchmarks.Result, path: Path) -> None:
        finished.append(result.finished)

    finished: list[bool] = []
    monkeypatch.setattr(benchmarks.Result, "write_json", fails)
    monkeypatch.setattr(stream_plot, "plot_stream", drawn)
    with pytest.raises(ConfigError, match="no room"):
        bench(*TWO_MODELS, "--json", str(tmp_path / "stream.json"), "--plot", str(tmp_path / "stream.png"))
    assert finished == [False, False, True]


def test_a_course_without_stretches_is_a_picture_without_lines(tmp_path: Path) -> None:
    course = {"reached": 0, "ended": "memory", "reason": "memory was full at 0 tokens", "stretches": []}
    result = benchmarks.Result("t", [], facts={"courses": {"mac": course}, "date": "today"}, finished=False)
    stream_plot.plot_stream(result, tmp_path / "stream.png")
    assert (tmp_path / "stream.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, option: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match=f"{option} .*: exists and is no regular file"):
        bench("stream", option, str(pipe))
    assert pipe.is_fifo()


def test_decode_times_every_context_and_batch(tmp_path: Path) -> None:
    told = tmp_path / "decode.json"
    out = bench(
        "decode", "--context", "32,128", "--batch", "1,3", "--tokens", "4", "--architectures", "mag",
        "--json", str(told), *TINY,
    )  # fmt: skip
    rows = json.loads(told.read_text())["rows"]
    assert [(row["context"], row["batch"]) for row in rows] == [(32, 1), (32, 3), (128, 1), (128, 3)]
    assert all(0 < row["median_ms"] <= row["p90_ms"] and row["by"] == "eager" for row in rows)
    assert rows[1]["state_mb"] == pytest.approx(3 * rows[0]["state_mb"], rel=0.01)
    assert "one context" in out.stdout


def test_decode_leaves_out_what_takes_too_long(tmp_path: Path) -> None:
    told = tmp_path / "decode.json"
    bench(
        "decode", "--context", "16,1M", "--batch", "1", "--tokens", "2", "--architectures", "lmm", "--piece", "16",
        "--seconds", "0.5", "--json", str(told), *TINY,
    )  # fmt: skip
    first, second = json.loads(told.read_text())["rows"]
    assert first["median_ms"] > 0 and second["context"] == 1 << 20 and "were up at" in second["remark"]


def test_needle_says_that_a_model_without_training_guesses(tmp_path: Path) -> None:
    told = tmp_path / "needle.json"
    out = bench("needle", "--length", "256", "--depths", "0,1", "--architectures", "lmm", "--json", str(told), *TINY)
    rows = json.loads(told.read_text())["rows"]
    assert [(row["length"], row["depth"], row["accuracy"]) for row in rows] == [(256, 0.0, 0.0), (256, 1.0, 0.0)]
    assert "was not trained" in out.stdout and "chance" in out.stdout


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's directory with a checkpoint of a model of bytes."""
    from safetensors import torch as safetensors

    settings: dict[str, Any] = {
        "model": {"dim": 16, "layers": 1, "architecture": {"type": "lmm"}},
        "task": {"type": "needle", "length": 200},
        "train": {"steps": 1},
    }
    config = RunConfig.model_validate(settings)
    model = Model(config.model, 256)
    folder = tmp_path / "some-run" / "checkpoint"
    folder.mkdir(parents=True)
    safetensors.save_model(model, str(folder / WEIGHTS), weights_metadata(config, model, 1))
    return folder.parent


def test_a_trained_run_is_looked_at_by_its_name(run: Path) -> None:
    out = bench("needle", "--length", "200", "--depths", "0.5", "--checkpoint", str(run), "--device", "cpu")
    assert "some-run" in out.stdout and "was not trained" not in out.stdout
    text = run.parent / "text.txt"
    text.write_text("Over and over. ")
    out = bench("stream", "--length", "96", "--checkpoint", str(run), "--text", str(text), "--device", "cpu")
    assert "some-run" in out.stdout


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (["stream", "--length", "2X"], ConfigError, "--length: expected numbers of tokens"),
        (["stream", "--length", "1K,2K"], ConfigError, "--length: expected one number of tokens, got 2"),
        (["stream", "--architectures", "mak"], ConfigError, "unknown architecture 'mak'; did you mean 'mal'"),
        (["stream", "--memory", "titan"], ConfigError, "unknown memory 'titan'; did you mean 'titans'"),
        (["stream", "--plot", "/no/such/folder/x.png"], ConfigError, "--plot .*: there is no folder /no/such"),
        (["stream", "--plot", "x.svg"], ConfigError, r"--plot x\.svg: expected a name that ends with \.png"),
        (["stream", "--plot", "x.png", "--json", "./x.png"], ConfigError, "--plot x.png: is the file of --json, too"),
        (["stream", "--text", "x.json", "--json", "x.json"], ConfigError, "--text x.json: is the file of --json, too"),
        (["stream", "--text", os.devnull], ConfigError, "--text .*: is empty"),
        (["stream", "--architectures", ""], ConfigError, "--architectures: expected names"),
        (["stream", "--chunk-size", "8192"], ConfigError, "--chunk-size: expected a number of at most 4096, got 8192"),
        (["needle", "--depth", "5"], ConfigError, "--depth: expected a number of at most 4, got 5"),
        (["stream", "--text", "/no/such/text"], ConfigError, "--text .*: cannot be read"),
        (["stream", "--checkpoint", "/no/such/run"], CheckpointError, "there is no checkpoint"),
        (["needle", "--depths", "high"], ConfigError, "--depths: expected parts from 0 to 1"),
        (["needle", "--length", "30"], ConfigError, "takes at least 137 bytes"),
        (["decode", "--graphs", "--device", "cpu", "--size", "tiny"], ConfigError, "need a model on a GPU"),
        (["decode", "--context", ""], ConfigError, "--context: expected at least one number"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(arguments: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bench(*arguments)


def test_contexts_are_left_out_where_reading_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, own = [0.0], decode.read_to

    def slow(*given: Any) -> Any:
        clock[0] += 1.0  # a second a piece; decoding, whose tokens take ten, counts for nothing
        return own(*given)

    def latency(*given: Any) -> decode.Latency:
        clock[0] += 10.0
        return decode.Latency(1.0, 1.0, "eager")

    monkeypatch.setattr(decode, "read_to", slow)
    monkeypatch.setattr(decode, "latency", latency)
    monkeypatch.setattr(decode, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    told, words = tmp_path / "decode.json", ["--context", "32,64,128", "--batch", "1", "--piece", "16"]
    bench("decode", "--architectures", "lmm", *words, "--seconds", "3.5", "--json", str(told), *TINY)
    short, middle, long = json.loads(told.read_text())["rows"]
    assert (short["prefill_s"], middle["prefill_s"], short["piece"]) == (2.0, 2.0, 16)
    assert long["remark"] == "not read: 3.5 s were up at 64 tokens" and "median_ms" not in long


def test_lengths_are_read_as_people_write_them() -> None:
    assert lengths_of("1K,32k, 2M,10M,7", "--context") == [1024, 32768, 2_097_152, 10_485_760, 7]
    assert length_of("64K", "--piece") == 65_536
