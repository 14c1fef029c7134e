"""What `bench stream`, `bench needle` and `bench decode` share: which models, how long, where and how precisely."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from titanlab.commands.bench_options import names_of, some_names_of
from titanlab.commands.options import load_plugins

if TYPE_CHECKING:
    from titanlab.benchmarks.streamed_models import StreamedModels

FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20}


class Precision(StrEnum):
    """As `train.precision`."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Device(StrEnum):
    """As `train.device`."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Checkpoints: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint", metavar="RUN", help="A trained run's directory, instead of new models; may be given again."
    ),
]
Architectures: TypeAlias = Annotated[str, typer.Option(help="Of new models, commas between them.")]
Size: TypeAlias = Annotated[
    str, typer.Option(help="Of new models: small (4 layers, dim 512), tiny, 60M, 170M, 340M or 760M.")
]
Memory: TypeAlias = Annotated[str, typer.Option(help="The memory of each block.")]
Depth: TypeAlias = Annotated[int, typer.Option(min=1, help="Matrices of the memory titans.")]
Expansion: TypeAlias = Annotated[float, typer.Option(min=0.1, help="Hidden width of it over its head's.")]
ChunkSize: TypeAlias = Annotated[int, typer.Option(min=1, help="Tokens that a memory computes together.")]
Window: TypeAlias = Annotated[int, typer.Option(min=1, help="Segment of mac, window of mag and mal.")]
Piece: TypeAlias = Annotated[
    str, typer.Option(help="Tokens of a call, as 64K [default: 64K, less with many token ids]", show_default=False)
]
Precise: TypeAlias = Annotated[Precision, typer.Option(help="auto: bfloat16, on a CPU float32.")]
Where: TypeAlias = Annotated[Device, typer.Option(help="auto: a GPU if there is one.")]


def lengths_of(text: str, option: str) -> list[int]:
    """Lengths with commas between them, K for 1,024 and M for 1,048,576 tokens: `1K,32K,2M`.

    Raises:
        ConfigError: naming the option.
    """
    from titanlab.platform.errors import ConfigError, Problem

    lengths = []
    for word in names_of(text):
        matched = re.fullmatch(r"([0-9]{1,12})([kKmM]?)", word)
        length = int(matched[1]) * FACTORS[matched[2].lower()] if matched else 0
        if length < 1:
            message = f"{option}: expected numbers of tokens with commas between them, as 1K,32K,2M; got '{word}'"
            raise ConfigError(Problem(message))
        lengths.append(length)
    if not lengths:
        raise ConfigError(Problem(f"{option}: expected at least one number of tokens"))
    return lengths


def length_of(text: str, option: str) -> int:
    """One length.

    Raises:
        ConfigError: naming the option.
    """
    from titanlab.platform.errors import ConfigError, Problem

    lengths = lengths_of(text, option)
    if len(lengths) > 1:
        raise ConfigError(Problem(f"{option}: expected one number of tokens, got {len(lengths)}"))
    return lengths[0]


def models_of(
    architectures: str,
    size: str,
    memory: str,
    depth: int,
    expansion: float,
    chunk_size: int,
    window: int,
    checkpoints: list[Path] | None,
    plugins: list[str] | None,
) -> StreamedModels:
    """The models that the options name, their plug-ins loaded first.

    Raises:
        ConfigError: a name that nobody knows.
    """
    from titanlab.benchmarks.model_sizes import Parts
    from titanlab.benchmarks.streamed_models import StreamedModels

    load_plugins(plugins)
    parts = Parts(memory, depth, expansion, chunk_size, window, persistent=4, matched=False)
    names = some_names_of(architectures, "--architectures")
    return StreamedModels(tuple(names), size, parts, tuple(checkpoints or ()))
