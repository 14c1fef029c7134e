"""`titanlab bench layer`."""

from enum import StrEnum
from typing import Annotated

import typer

from titanlab.commands.bench_options import (
    JsonFile,
    Quick,
    check_file,
    kept,
    names_of,
    numbers_of,
    present,
    some_names_of,
    teller,
)
from titanlab.commands.options import Plugins, load_plugins

MEMORIES = "titans,momentum_delta,gated_delta,delta,linear_attention,mamba2,gla,rwkv7"


class DType(StrEnum):
    """Of queries, keys and values."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


def layer(
    memory: Annotated[str, typer.Option(help="Registered memories, commas between them.")] = MEMORIES,
    depth: Annotated[str, typer.Option(help="Matrices of the memory titans, commas between them.")] = "1,2",
    backend: Annotated[
        str, typer.Option(help="auto, torch, triton, commas between them [default: triton,torch; on a CPU: torch]")
    ] = "",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Sequences [default: 16; on a CPU: 2]", show_default=False)
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Of a sequence [default: 2048; on a CPU: 512]")] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Heads [default: 16; on a CPU: 2]", show_default=False)
    ] = None,
    head_dim: Annotated[int, typer.Option(min=2, max=1024, help="Width of a head.")] = 64,
    expansion: Annotated[float, typer.Option(min=0.1, max=64, help="Hidden width of a deep memory over it.")] = 4.0,
    chunk_size: Annotated[int, typer.Option(min=1, help="Tokens computed together.")] = 64,
    dtype: Annotated[DType, typer.Option(help="auto: bfloat16, on a CPU float32.")] = DType.AUTO,
    peers: Annotated[
        str, typer.Option(help="auto: those installed; none; or sdpa,flash-attn,titans-pytorch,fla.")
    ] = "auto",
    against: Annotated[
        str,
        typer.Option(help="The row that `ratio` compares with, by how its name begins.", show_default=False),
    ] = "",
    keep_states: Annotated[
        bool, typer.Option("--keep-states", help="Gradients find the memory's states: see `train.keep_states`.")
    ] = False,
    plugins: Plugins = None,
    quick: Quick = False,
    json_file: JsonFile = None,
) -> None:
    """Time forward and backward of memory rules beside their peers, in one run, with errors against float64."""
    check_file(json_file)
    depths = numbers_of(depth, "--depth")
    load_plugins(plugins)

    import torch

    from titanlab.benchmarks.chip import best_device
    from titanlab.benchmarks.layer import LayerBenchmark, bench_layer
    from titanlab.benchmarks.layer_case import Sizes

    device = best_device()
    on_gpu = device.type == "cuda"
    name = ("bfloat16" if on_gpu else "float32") if dtype is DType.AUTO else dtype.value
    sizes = Sizes(
        batch=batch or (16 if on_gpu else 2),
        tokens=tokens or (2048 if on_gpu else 512),
        heads=heads or (16 if on_gpu else 2),
        head_dim=head_dim,
        expansion=expansion,
        chunk_size=chunk_size,
        dtype={"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[name],
    )
    with kept(json_file) as keep:
        benchmark = LayerBenchmark(
            sizes,
            memories=some_names_of(memory, "--memory"),
            depths=depths,
            backends=names_of(backend) or (["triton", "torch"] if on_gpu else ["torch"]),
            peers=peers,
            against=against,
            seconds=0.05 if quick else 1.0,
            keep_states=keep_states,
            tell=teller(),
            keep=keep,
        )
        result = bench_layer(benchmark, device)
    present(result, json_file)
