"""`titanlab bench stream`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from titanlab.commands.bench_options import JsonFile, check_file, kept, present, teller
from titanlab.commands.bench_streamed import (
    Architectures,
    Checkpoints,
    ChunkSize,
    Depth,
    Device,
    Expansion,
    Memory,
    Piece,
    Precise,
    Precision,
    Size,
    Where,
    Window,
    length_of,
    models_of,
)
from titanlab.commands.options import Plugins

if TYPE_CHECKING:
    from titanlab.benchmarks.result import Result

GIGA = 1_000_000_000


def stream(
    length: Annotated[str, typer.Option(help="Tokens of the stream: 2M is 2,097,152, 10M 10,485,760.")] = "2M",
    architectures: Architectures = "mac,mag,mal,lmm,transformer",
    checkpoints: Checkpoints = None,
    size: Size = "small",
    memory: Memory = "titans",
    depth: Depth = 2,
    expansion: Expansion = 4.0,
    chunk_size: ChunkSize = 64,
    window: Window = 512,
    batch: Annotated[int, typer.Option(min=1, help="Streams read at once.")] = 1,
    piece: Piece = "",
    text: Annotated[
        Path | None, typer.Option(help="Read this file over and over, instead of random bytes.", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.01, help="Let each model read so long at most.", show_default=False)
    ] = None,
    state_limit: Annotated[
        float | None,
        typer.Option(min=1e-6, metavar="GB", help="End where the state is larger; default: where memory is full."),
    ] = None,
    graphs: Annotated[bool, typer.Option("--graphs", help="Record pieces as CUDA graphs.")] = False,
    precision: Precise = Precision.AUTO,
    device: Where = Device.AUTO,
    plugins: Plugins = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Also draw it into this file, after every model.", show_default=False),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Read a stream of any length in pieces: tokens a second, memory and memory norms along the way."""
    check_file(json_file)
    _check_plot(plot)
    _refuse_same({"--json": json_file, "--plot": plot, "--text": text})
    tokens, cut = length_of(length, "--length"), length_of(piece, "--piece") if piece else None

    from titanlab.benchmarks.stream import StreamBenchmark, bench_stream
    from titanlab.platform.decoding.computing import device_called
    from titanlab.platform.errors import ConfigError, Problem

    try:
        read = None if text is None else text.read_bytes()
    except OSError as error:
        raise ConfigError(Problem(f"--text {text}: cannot be read ({error.strerror or error})")) from error
    if read == b"":
        raise ConfigError(Problem(f"--text {text}: is empty; give a file with something in it"))
    picture = _Picture(plot)
    with kept(json_file, picture.follow) as keep:
        benchmark = StreamBenchmark(
            models=models_of(architectures, size, memory, depth, expansion, chunk_size, window, checkpoints, plugins),
            length=tokens,
            batch=batch,
            piece=cut,
            text=read,
            precision=precision.value,
            graphs=graphs,
            seconds=seconds,
            state_limit=None if state_limit is None else round(state_limit * GIGA),
            tell=teller(),
            keep=keep,
        )
        picture.warm_up()
        result = bench_stream(benchmark, device_called(device.value))
    try:
        present(result, json_file)
    finally:
        picture.draw(result)


def _check_plot(path: Path | None) -> None:
    """Refuses a picture that could not be written, or would not be one.

    Raises:
        ConfigError: naming the file.
    """
    from titanlab.platform.errors import ConfigError, Problem

    check_file(path, "--plot")
    if path is not None and path.suffix.lower() != ".png":
        raise ConfigError(Problem(f"--plot {path}: expected a name that ends with .png, which it is drawn as"))


def _refuse_same(files: dict[str, Path | None]) -> None:
    """Refuses a file that stands for two things.

    Raises:
        ConfigError: naming both options.
    """
    from titanlab.platform.errors import ConfigError, Problem

    seen: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        if (other := seen.setdefault(path.resolve(), option)) != option:
            raise ConfigError(Problem(f"{option} {path}: is the file of {other}, too; name another"))


class _Picture:
    """The picture of a run; drawn again whenever a model has read to its end."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.models = path, 0

    def warm_up(self) -> None:
        """Takes the memory that drawing takes, before any model is measured."""
        from titanlab.benchmarks.stream_plot import warm_up

        if self.path is not None:
            warm_up()

    def follow(self, result: Result) -> None:
        """Draws if there is a model more than last time."""
        from titanlab.benchmarks.stream import READING

        ended = sum(course["ended"] != READING for course in result.facts["courses"].values())
        if ended > self.models:
            self.models = ended
            self.draw(result)

    def draw(self, result: Result) -> None:
        """Draws it."""
        from titanlab.benchmarks.stream_plot import plot_stream

        if self.path is not None:
            plot_stream(result, self.path)
