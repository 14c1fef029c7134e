"""`titanlab bench model`."""

from enum import StrEnum
from typing import Annotated

import typer

from titanlab.commands.bench_options import (
    JsonFile,
    Quick,
    check_file,
    kept,
    numbers_of,
    present,
    some_names_of,
    teller,
)
from titanlab.commands.options import Plugins, load_plugins


class Precision(StrEnum):
    """As `train.precision`."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


def model(
    architectures: Annotated[
        str, typer.Option(help="Registered architectures, commas between them.")
    ] = "transformer,mac,mag,mal,lmm",
    size: Annotated[
        str, typer.Option(help="tiny, 60M, 170M, 340M or 760M [default: 340M; on a CPU: tiny]", show_default=False)
    ] = "",
    context: Annotated[
        str,
        typer.Option(help="Tokens of a row, commas between [default: 4096,16384; CPU: 256]", show_default=False),
    ] = "",
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a step [default: 16384; on a CPU: 512]", show_default=False)
    ] = None,
    memory: Annotated[str, typer.Option(help="The memory of each block.")] = "titans",
    depth: Annotated[int, typer.Option(min=1, help="Matrices of the memory titans.")] = 2,
    expansion: Annotated[float, typer.Option(min=0.1, help="Hidden width of it over its head's.")] = 4.0,
    chunk_size: Annotated[int, typer.Option(min=1, help="Tokens that a memory computes together.")] = 64,
    window: Annotated[int, typer.Option(min=1, help="Segment of mac, window of mag and mal.")] = 1024,
    persistent: Annotated[int, typer.Option(min=0, help="Persistent tokens.")] = 16,
    attention: Annotated[
        str, typer.Option(help="auto, sdpa, flex or flash, in every architecture that attends.")
    ] = "auto",
    precision: Annotated[Precision, typer.Option(help="auto: bfloat16, on a CPU float32.")] = Precision.AUTO,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts that a step's rows are computed in.")] = 1,
    loss: Annotated[str, typer.Option(help="auto, whole, chunked or liger: `train.loss`.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Fuse small kernels: `train.compile`.")] = False,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Replay steps: `train.cuda_graph`.")] = False,
    checkpoint_blocks: Annotated[
        bool, typer.Option("--checkpoint-blocks", help="Save memory: `train.checkpoint_blocks`.")
    ] = False,
    wavefront: Annotated[
        int, typer.Option(min=0, help="Tokens of pieces that are computed at once: `train.wavefront`; 0: whole rows.")
    ] = 0,
    keep_states: Annotated[
        bool, typer.Option("--keep-states", help="Gradients find the memories' states: `train.keep_states`.")
    ] = False,
    matched: Annotated[
        bool, typer.Option(help="Give each as many parameters as the transformer, by its feed-forward layer's width.")
    ] = True,
    plugins: Plugins = None,
    quick: Quick = False,
    json_file: JsonFile = None,
) -> None:
    """Train whole models for some steps on random tokens, as `titanlab train` would, beside the transformer."""
    check_file(json_file)
    contexts = numbers_of(context, "--context") if context else []
    load_plugins(plugins)

    from titanlab.benchmarks.chip import best_device
    from titanlab.benchmarks.model import ModelBenchmark, bench_model
    from titanlab.benchmarks.model_sizes import Parts

    device = best_device()
    on_gpu = device.type == "cuda"
    with kept(json_file) as keep:
        benchmark = ModelBenchmark(
            size=size or ("340M" if on_gpu else "tiny"),
            architectures=some_names_of(architectures, "--architectures"),
            contexts=contexts or ([4096, 16384] if on_gpu else [256]),
            batch_tokens=batch_tokens or (16384 if on_gpu else 512),
            parts=Parts(memory, depth, expansion, chunk_size, window, persistent, attention, matched),
            training={
                "precision": precision.value,
                "accumulate": accumulate,
                "loss": loss,
                "compile": compiled,
                "cuda_graph": cuda_graph,
                "checkpoint_blocks": checkpoint_blocks,
                "wavefront": wavefront,
                "keep_states": keep_states,
            },
            seconds=0.2 if quick else 5.0,
            tell=teller(),
            keep=keep,
        )
        result = bench_model(benchmark, device)
    present(result, json_file)
