"""`titanlab bench`: what is measured here, beside the peers that are installed; one table and one JSON file each."""

import typer

from titanlab.commands import bench_decode, bench_layer, bench_model, bench_needle, bench_stream

bench = typer.Typer(
    help="Measure layers, models and streams beside their peers: a table, and JSON.", no_args_is_help=True
)
bench.command("layer", short_help="Forward and backward of memory rules, and how exact they are.")(bench_layer.layer)
bench.command("model", short_help="Training steps of whole models on random tokens.")(bench_model.model)
bench.command("decode", short_help="The time of one more token after long contexts.")(bench_decode.decode)
bench.command("stream", short_help="Millions of tokens in constant memory.")(bench_stream.stream)
bench.command("needle", short_help="A number hidden anywhere in a long stream.")(bench_needle.needle)
