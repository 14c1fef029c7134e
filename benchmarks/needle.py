"""`titanlab bench needle`: whether a needle anywhere in a stream of up to millions of bytes is found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from titanlab.benchmarks.chip import chip_of, facts_of
from titanlab.benchmarks.followed import Followed
from titanlab.benchmarks.result import Result, Row
from titanlab.benchmarks.streamed_models import StreamedModels, settings_of
from titanlab.platform.precision import Precision, used_precision
from titanlab.platform.streaming.needle_search import Found, Needles, search
from titanlab.platform.streaming.stream import PIECE

COLUMNS = ["model", "length", "depth", "accuracy", "found", "asked", "tokens_per_second", "seconds", "remark"]


@dataclass(frozen=True)
class NeedleBenchmark(Followed):
    """What to measure."""

    needles: Needles
    models: StreamedModels = StreamedModels(architectures=("mac", "mag", "mal", "lmm"))
    piece: int = PIECE
    """Bytes of a call, over all rows."""
    precision: Precision = "auto"

    def settings(self) -> dict[str, Any]:
        """As the JSON file has them."""
        own: dict[str, Any] = {"piece": self.piece, "precision": self.precision}
        return {**own, **asdict(self.needles), **settings_of(self.models)}


def bench_needle(benchmark: NeedleBenchmark, device: torch.device) -> Result:
    """Looks for the needles with every model: one row for each length and depth.

    Raises:
        ConfigError: a model cannot be built or does not read bytes.
        DataError: the package of the filler or of the key words is missing.
    """
    used = {"used_precision": used_precision(benchmark.precision, device)}
    facts = facts_of(device, benchmark.settings() | used)
    rows: list[Row] = []
    what = f"{benchmark.models}, {used['used_precision']}"
    title = f"Needles ({benchmark.needles.variant}) in streams of bytes, on {chip_of(device)}: {what}"
    notes = ["accuracy: the whole answer said exactly, decoded greedily; rows are test rows of the task `needle`"]

    def result(*, finished: bool) -> Result:
        return Result(title, COLUMNS, rows, facts, notes, finished, naming=3)

    for streamed in benchmark.models.built(device):
        benchmark.keep(result(finished=False))
        benchmark.tell(f"{streamed.name}: needles in up to {max(benchmark.needles.lengths):,} bytes")
        if not streamed.trained:
            chance = f"a guess finds {benchmark.needles.chance:.0e} of them"
            notes.append(f"{streamed.name} was not trained: what it finds is chance ({chance}); see --checkpoint")

        def told(found: Found, name: str = streamed.name) -> None:
            benchmark.tell(f"  {name}, {found.length:,} bytes, depth {found.depth:g}: {found.found} of {found.asked}")
            rows.append(_row(name, found))
            benchmark.keep(result(finished=False))

        search(
            streamed.model,
            benchmark.needles,
            piece=benchmark.piece,
            precision=benchmark.precision,
            told=told,
        )
    return result(finished=True)


def _row(name: str, found: Found) -> Row:
    return {
        "model": name,
        "length": found.length,
        "depth": found.depth,
        "accuracy": found.accuracy,
        "found": found.found if found.asked else None,
        "asked": found.asked,
        "tokens_per_second": found.length * found.asked / found.seconds if found.asked else None,
        "seconds": found.seconds,
        "remark": found.remark or None,
    }
