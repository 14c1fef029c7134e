"""`titanlab bench needle`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from titanlab.commands.bench_options import JsonFile, check_file, kept, names_of, present, teller
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


class Variant(StrEnum):
    """As of the task `needle`."""

    PASSKEY = "passkey"
    NUMBER = "number"
    UUID = "uuid"


class Filler(StrEnum):
    """As of the task `needle`."""

    AUTO = "auto"
    NOISE = "noise"
    KJV = "kjv"
    SHAKESPEARE = "shakespeare"


def needle(
    length: Annotated[str, typer.Option(help="Bytes of a row, commas between them.")] = "2K,32K,512K,2M",
    depths: Annotated[str, typer.Option(help="Where the needle is: parts of the text before it.")] = "0,0.5,1",
    examples: Annotated[int, typer.Option(min=1, help="Rows of each length and depth.")] = 1,
    variant: Annotated[Variant, typer.Option(help="What is hidden.")] = Variant.PASSKEY,
    filler: Annotated[Filler, typer.Option(help="What it is hidden in.")] = Filler.AUTO,
    checkpoints: Checkpoints = None,
    architectures: Architectures = "mac,mag,mal,lmm",
    size: Size = "small",
    memory: Memory = "titans",
    depth: Depth = 2,
    expansion: Expansion = 4.0,
    chunk_size: ChunkSize = 64,
    window: Window = 512,
    piece: Piece = "",
    precision: Precise = Precision.AUTO,
    device: Where = Device.AUTO,
    plugins: Plugins = None,
    json_file: JsonFile = None,
) -> None:
    """Hide a number anywhere in a long stream and ask for it at the end; models without training can only guess."""
    check_file(json_file)
    lengths, places = lengths_of(length, "--length"), _depths(depths)
    cut = length_of(piece, "--piece") if piece else None

    from titanlab.benchmarks.needle import NeedleBenchmark, bench_needle
    from titanlab.platform.decoding.computing import device_called
    from titanlab.platform.streaming.needle_search import Needles
    from titanlab.platform.streaming.stream import PIECE

    with kept(json_file) as keep:
        benchmark = NeedleBenchmark(
            Needles(lengths, places, examples, variant.value, filler.value),
            models=models_of(architectures, size, memory, depth, expansion, chunk_size, window, checkpoints, plugins),
            piece=cut or PIECE,
            precision=precision.value,
            tell=teller(),
            keep=keep,
        )
        result = bench_needle(benchmark, device_called(device.value))
    present(result, json_file)


def _depths(text: str) -> list[float]:
    """Parts from 0 to 1 with commas between them.

    Raises:
        ConfigError: one is no number.
    """
    from titanlab.platform.errors import ConfigError, Problem

    try:
        found = [float(word) for word in names_of(text)]
    except ValueError:
        found = []
    if not found:
        raise ConfigError(Problem(f"--depths: expected parts from 0 to 1 with commas between them, got '{text}'"))
    return found
