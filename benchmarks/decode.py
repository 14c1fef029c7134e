"""`titanlab bench decode`: how long one token takes after contexts of up to millions of tokens."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from titanlab.benchmarks.chip import chip_of, facts_of
from titanlab.benchmarks.followed import Followed
from titanlab.benchmarks.result import Result, Row
from titanlab.benchmarks.streamed_models import StreamedModel, StreamedModels, period_of, settings_of
from titanlab.benchmarks.timing import free_memory
from titanlab.platform.decoding.choosing import most_likely
from titanlab.platform.decoding.computing import is_out_of_memory, wait_for
from titanlab.platform.decoding.session import Graphs, Session
from titanlab.platform.decoding.state_tree import copied, rows_repeated, state_bytes
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.precision import Precision, used_precision
from titanlab.platform.streaming.prefill import read_to
from titanlab.platform.streaming.stream import default_piece
from titanlab.platform.streaming.tokens import RandomTokens
from titanlab.platform.tasks.evaluation import device_of

COLUMNS = [
    "model", "context", "batch", "median_ms", "p90_ms", "tokens_per_second", "state_mb", "by", "prefill_s", "remark",
]  # fmt: skip
WARM_UP = 8
"""Tokens that are never timed; more where CUDA graphs are still recorded."""
MEGA = 1e6


@dataclass(frozen=True)
class DecodeBenchmark(Followed):
    """What to measure."""

    models: StreamedModels = StreamedModels()
    contexts: Sequence[int] = (1 << 10, 1 << 15, 1 << 21)
    """Tokens that were read before the first one that is timed, about: a warm-up of some tokens follows them."""
    batches: Sequence[int] = (1, 64)
    tokens: int = 64
    """Timed at each context and batch, at least."""
    piece: int | None = None
    precision: Precision = "auto"
    graphs: Graphs = "auto"
    seconds: float | None = None
    """Of reading contexts, each model; looked at between pieces, and longer contexts are left out then."""

    def __post_init__(self) -> None:
        for name in ("contexts", "batches"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise ConfigError(Problem(f"{name}: expected numbers from 1 on, got {list(values)}"))
        if self.tokens < 2:
            raise ConfigError(Problem(f"tokens: expected at least 2 to time, got {self.tokens}"))

    def settings(self) -> dict[str, Any]:
        """As the JSON file has them."""
        return {**self.plain_settings("models"), **settings_of(self.models)}


class Latency(NamedTuple):
    """Of one token, all rows at once."""

    median_ms: float
    p90_ms: float
    by: str
    """graphs, eager, or how many of both."""
    remark: str = ""


def bench_decode(benchmark: DecodeBenchmark, device: torch.device) -> Result:
    """Decodes greedily with every model after every context.

    Raises:
        ConfigError: a model cannot be built, or CUDA graphs are asked for on a CPU.
    """
    used = {"used_precision": used_precision(benchmark.precision, device)}
    facts = facts_of(device, benchmark.settings() | used)
    rows: list[Row] = []
    what = f"{benchmark.models}, {used['used_precision']}"
    title = f"Decoding, one token of every row at a time, on {chip_of(device)}: {what}"

    def result(*, finished: bool) -> Result:
        return Result(title, COLUMNS, rows, facts, _notes(benchmark, rows), finished, naming=3)

    for streamed in benchmark.models.built(device):
        benchmark.keep(result(finished=False))
        for row in model_rows(streamed, benchmark):
            rows.append(row)
            benchmark.keep(result(finished=False))
        free_memory(device)
    return result(finished=True)


def model_rows(streamed: StreamedModel, benchmark: DecodeBenchmark) -> Iterator[Row]:
    """One model at all contexts, one after another on the way through one stream; each row as it is measured."""
    return _Decoded(streamed, benchmark).rows()


class _Decoded:
    """One model."""

    def __init__(self, streamed: StreamedModel, benchmark: DecodeBenchmark) -> None:
        self.model, self.name, self.benchmark = streamed.model, streamed.name, benchmark
        self.tokens = RandomTokens(self.model.vocab_size, 1, benchmark.models.seed)
        # pieces of a long context are alike, too; without graphs `mac` waits for Python, thousands of kernels a piece
        records = benchmark.graphs != "none" and device_of(self.model).type == "cuda"
        self.reader = Session(self.model, precision=benchmark.precision, graphs="all" if records else "none")
        self.reached, self.ended, self.spent = 0, "", 0.0
        """Tokens read, why no more are, and seconds of reading."""
        self.piece = benchmark.piece or default_piece(self.model.vocab_size, 1)
        self.sessions = {
            batch: Session(self.model, precision=benchmark.precision, graphs=benchmark.graphs)
            for batch in benchmark.batches
        }
        """Of each batch: what was recorded after one context serves after the next."""

    def rows(self) -> Iterator[Row]:
        for context in sorted(set(self.benchmark.contexts)):
            self.benchmark.tell(f"{self.name}: reading {context:,} tokens")
            before = self.spent
            last = self._read_to(context)
            prefill = self.spent - before
            if last is None:
                yield {"model": self.name, "context": context, "remark": self.ended}
                continue
            for batch in self.benchmark.batches:
                self.benchmark.tell(f"{self.name}: decoding {batch} rows after {context:,} tokens")
                row = self._timed(last, batch)
                place: Row = {"model": self.name, "context": context, "batch": batch}
                yield {**place, "piece": self.piece, "prefill_s": prefill, **row}
                free_memory(self.reader.device)

    def _read_to(self, context: int) -> Tensor | None:
        """Reads on; None where memory or time does not reach so far, now and for all longer contexts."""
        last, limit = None, self.benchmark.seconds
        while not self.ended and self.reached < context:
            stop = min(self.reached + self.piece, context)
            if limit is not None and self.spent > limit:
                self.ended = f"not read: {limit:g} s were up at {self.reached:,} tokens"
                return None
            began = time.perf_counter()
            try:
                last = read_to(self.reader, self.tokens, self.reached, stop, self.piece)
                wait_for(self.reader.device)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.ended = f"out of memory after {self.reached:,} tokens"
                return None
            self.reached, self.spent = stop, self.spent + time.perf_counter() - began
        return last

    def _timed(self, last: Tensor, batch: int) -> Row:
        """Times one batch, every row of which goes on from the one state."""
        session = self.sessions[batch]
        try:
            with torch.no_grad():
                session.resume(copied(rows_repeated(self.reader.state, batch)))
            size = state_bytes(session.state)
            found = latency(session, last.repeat(batch, 1), period_of(self.model), self.benchmark.tokens)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return {"remark": "out of memory"}
        finally:
            session.resume(None)
        return {
            "median_ms": found.median_ms,
            "p90_ms": found.p90_ms,
            "tokens_per_second": batch / found.median_ms * 1e3,
            "state_mb": size / MEGA,
            "by": found.by,
            "remark": found.remark or None,
        }


def latency(session: Session, last: Tensor, period: int, tokens: int) -> Latency:
    """Milliseconds of a token: from handing it over until its successor is known on the device.

    Args:
        session: after its context.
        last: the last logits [b, vocab].
        period: tokens after which the state's shapes come again. Graphs are recorded within two of them, before the
            first token that is timed; at least one of them is timed, a chunk's end in it.
        tokens: to time, at least.
    """
    chosen = most_likely(last)
    for number in range(2 * period + WARM_UP):
        if number >= WARM_UP and (not session.records or session.recorded >= period):
            break
        chosen = most_likely(session.run(chosen[:, None])[:, -1])
    times, replays = [], 0
    for _ in range(max(tokens, period)):
        wait_for(session.device)
        began = time.perf_counter()
        chosen = most_likely(session.run(chosen[:, None])[:, -1])
        wait_for(session.device)
        times.append((time.perf_counter() - began) * 1e3)
        replays += session.replayed
    by = "graphs" if replays == len(times) else "eager" if not replays else f"graphs ({replays} of {len(times)})"
    failed = f"not recorded: {session.failure}" if session.failure else ""
    return Latency(statistics.median(times), statistics.quantiles(times, n=10)[-1], by, failed)


def _notes(benchmark: DecodeBenchmark, rows: Sequence[Row]) -> list[str]:
    notes = ["a token is timed from handing it to the model until the next one is chosen, greedily, on the device"]
    notes.append("prefill s: of reading on from the context before, in one process: all contexts lie in one stream")
    if max(benchmark.batches) > 1:
        notes.append("the rows of a batch go on from one context, which was read once and its state repeated")
    if any(row["model"] == "transformer" and row.get("by") == "eager" for row in rows):
        notes.append(
            "transformer: its cache grows with every token, so no step comes again and none is a CUDA graph; the cache "
            "is appended to by copying and its keys are rotated at every step, which a fixed one would spare it"
        )
    return notes
