"""`titanlab bench decode`."""

from __future__ import annotations

from typing import Annotated

import typer

from titanlab.commands.bench_options import JsonFile, check_file, kept, numbers_of, present, teller
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
    lengths_of,
    models_of,
)
from titanlab.commands.options import Plugins


def decode(
    context: Annotated[str, typer.Option(help="Tokens read before, commas between them.")] = "1K,32K,2M",
    batch: Annotated[str, typer.Option(help="Rows decoded at once, commas between them.")] = "1,64",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens timed at each, at least.")] = 64,
    architectures: Architectures = "mac,mag,mal,lmm,transformer",
    checkpoints: Checkpoints = None,
    size: Size = "small",
    memory: Memory = "titans",
    depth: Depth = 2,
    expansion: Expansion = 4.0,
    chunk_size: ChunkSize = 64,
    window: Window = 128,
    piece: Piece = "",
    seconds: Annotated[
        float | None, typer.Option(min=0.01, help="Of reading, each model; a piece at least.", show_default=False)
    ] = None,
    graphs: Annotated[
        bool | None, typer.Option("--graphs/--no-graphs", help="CUDA graphs [default: on a GPU]", show_default=False)
    ] = None,
    precision: Precise = Precision.AUTO,
    device: Where = Device.AUTO,
    plugins: Plugins = None,
    json_file: JsonFile = None,
) -> None:
    """Time a token of greedy decoding after contexts of up to millions of tokens: median and 90th percentile."""
    check_file(json_file)
    contexts, batches = lengths_of(context, "--context"), numbers_of(batch, "--batch")
    cut = length_of(piece, "--piece") if piece else None

    from titanlab.benchmarks.decode import DecodeBenchmark, bench_decode
    from titanlab.platform.decoding.computing import device_called

    with kept(json_file) as keep:
        benchmark = DecodeBenchmark(
            models=models_of(architectures, size, memory, depth, expansion, chunk_size, window, checkpoints, plugins),
            contexts=contexts,
            batches=batches,
            tokens=tokens,
            piece=cut,
            precision=precision.value,
            graphs="auto" if graphs is None else "steps" if graphs else "none",
            seconds=seconds,
            tell=teller(),
            keep=keep,
        )
        result = bench_decode(benchmark, device_called(device.value))
    present(result, json_file)
