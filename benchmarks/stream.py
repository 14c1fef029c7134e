"""`titanlab bench stream`: tokens a second, memory and memory norms over a stream of up to millions of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from titanlab.benchmarks.chip import GIGA, chip_of, facts_of
from titanlab.benchmarks.followed import Followed
from titanlab.benchmarks.result import Result, Row
from titanlab.benchmarks.streamed_models import StreamedModel, StreamedModels, settings_of
from titanlab.platform.corpora.byte_ids import BYTES
from titanlab.platform.errors import ConfigError, Problem
from titanlab.platform.precision import Precision, used_precision
from titanlab.platform.streaming.schedule import EARLIEST
from titanlab.platform.streaming.stream import Course, StreamSettings, Stretch, default_piece, stream
from titanlab.platform.streaming.tokens import RandomTokens, TextTokens, Tokens

COLUMNS = [
    "model", "tokens", "tokens_per_second", "loss", "state_mb", "memory_gb", "peak_gb", "memory_norm", "largest_norm",
    "momentum_norm", "remark",
]  # fmt: skip
MOMENTUM = ("momentum", "surprise")
"""Parts of a state that hold past surprise; all others are what a memory knows."""
MEGA = 1e6
READING = "reading"
"""In place of why a course ended, as long as it has not."""


@dataclass(frozen=True)
class StreamBenchmark(Followed):
    """What to measure; `keep` is given each stretch, and each model when it has ended."""

    models: StreamedModels = StreamedModels()
    length: int = 1 << 21
    """Tokens of a row."""
    batch: int = 1
    piece: int | None = None
    """Tokens of a call at most; None: see `default_piece`."""
    text: bytes | None = None
    """What is read, over and over; None: random bytes."""
    precision: Precision = "auto"
    graphs: bool = False
    seconds: float | None = None
    """Of reading, each model."""
    state_limit: int | None = None

    def settings(self) -> dict[str, Any]:
        """As the JSON file has them."""
        text = "random bytes" if self.text is None else f"{len(self.text):,} bytes of text"
        return {**self.plain_settings("models", "text"), "tokens_are": text, **settings_of(self.models)}


def bench_stream(benchmark: StreamBenchmark, device: torch.device) -> Result:
    """Reads the stream with every model.

    The result's table has the places at which the length doubled; `facts["courses"]` has every stretch, with the norms
    of every layer and part.

    Raises:
        ConfigError: a model cannot be built, or the length is none.
    """
    found = _Found(benchmark, device)
    for streamed in benchmark.models.built(device):
        benchmark.keep(found.result(finished=False))
        benchmark.tell(f"{streamed.name}: {benchmark.length:,} tokens")
        name = found.free_name(streamed.name)
        found.end(name, course_of(streamed, benchmark, partial(found.read_on, name)))
    return found.result(finished=True)


class _Found:
    """What the models came to so far."""

    def __init__(self, benchmark: StreamBenchmark, device: torch.device) -> None:
        used = {"used_precision": used_precision(benchmark.precision, device)}
        self.keep, self.facts = benchmark.keep, facts_of(device, benchmark.settings() | used)
        what = f"{benchmark.models}, {used['used_precision']}"
        self.title = f"Streaming {benchmark.length:,} tokens, batch {benchmark.batch}, on {chip_of(device)}: {what}"
        self.rows: dict[str, list[Row]] = {}
        self.courses: dict[str, Any] = {}

    def free_name(self, name: str) -> str:
        """A name that no other model has."""
        return f"{name} {len(self.courses)}" if name in self.courses else name

    def read_on(self, name: str, stretches: Sequence[Stretch]) -> None:
        """A model has read so far."""
        reached = stretches[-1].stop
        course = Course(list(stretches), reached, reason=f"was still being read at {reached:,} tokens")
        self._take(name, course, READING)

    def end(self, name: str, course: Course) -> None:
        """A model has read to its end."""
        self._take(name, course, course.ended)

    def result(self, *, finished: bool) -> Result:
        """All of it."""
        rows = [row for rows in self.rows.values() for row in rows]
        facts = self.facts | {"courses": self.courses}
        return Result(self.title, COLUMNS, rows, facts, _notes(self.courses), finished)

    def _take(self, name: str, course: Course, ended: str) -> None:
        self.courses[name], self.rows[name] = told(course, ended), table_rows(name, course, ended)
        self.keep(self.result(finished=False))


def course_of(
    streamed: StreamedModel, benchmark: StreamBenchmark, read_on: Callable[[Sequence[Stretch]], None]
) -> Course:
    """One model reads the stream; a piece before it, from another state, warms up.

    Args:
        streamed: the model.
        benchmark: what is measured.
        read_on: is given all stretches so far as each one ends.
    """
    vocab_size, batch = streamed.model.vocab_size, benchmark.batch
    piece = benchmark.piece or default_piece(vocab_size, batch)
    tokens: Tokens = RandomTokens(vocab_size, batch, benchmark.models.seed)
    if benchmark.text is not None:
        if vocab_size != BYTES:
            message = f"{streamed.name} has {vocab_size} token ids and reads no bytes; leave --text out"
            raise ConfigError(Problem(message))
        tokens = TextTokens(benchmark.text, batch=batch)
    settings = StreamSettings(
        benchmark.length,
        piece=piece,
        precision=benchmark.precision,
        graphs=benchmark.graphs,
        seconds=benchmark.seconds,
        state_limit=benchmark.state_limit,
    )
    warm_up = StreamSettings(min(piece, benchmark.length), piece=piece, precision=benchmark.precision)
    stream(streamed.model, tokens, warm_up)

    stretches: list[Stretch] = []

    def tell(stretch: Stretch) -> None:
        rate, peak = f"{stretch.tokens_per_second:,.0f} tokens/s", stretch.peak_bytes or stretch.memory_bytes
        benchmark.tell(f"  {streamed.name} at {stretch.stop:,}: {rate}, {peak / GIGA:.2f} GB")
        stretches.append(stretch)
        read_on(stretches)

    return stream(streamed.model, tokens, settings, tell)


def table_rows(name: str, course: Course, ended: str) -> list[Row]:
    """The places at which the length doubled, and the last one with why it is the last."""
    doublings = {EARLIEST << k for k in range(64)}
    shown = [stretch for stretch in course.stretches if stretch.stop in doublings or stretch is course.stretches[-1]]
    rows = [_row(name, stretch) for stretch in shown]
    if ended != "length":
        if not rows:
            rows.append({"model": name, "tokens": course.reached})
        rows[-1]["remark"] = course.reason
    elif flat := flatness(course.stretches):
        rows[-1]["remark"] = f"slowest stretch of whole pieces at {flat:.0%} of the fastest"
    return rows


def flatness(stretches: Sequence[Stretch]) -> float | None:
    """Tokens a second of the slowest stretch over those of the fastest, of those with pieces as long as any."""
    longest = max(((each.stop - each.start) / each.pieces for each in stretches), default=0.0)
    whole = [each.tokens_per_second for each in stretches if (each.stop - each.start) / each.pieces >= 0.75 * longest]
    return min(whole) / max(whole) if len(whole) > 1 else None


def told(course: Course, ended: str) -> dict[str, Any]:
    """A course as JSON."""
    stretches = [
        {**stretch._asdict(), "norms": [norm._asdict() for norm in stretch.norms]} for stretch in course.stretches
    ]
    kept = {"reached": course.reached, "ended": ended, "reason": course.reason}
    return {**kept, "flatness": flatness(course.stretches), "stretches": stretches}


def _row(name: str, stretch: Stretch) -> Row:
    known = [norm for norm in stretch.norms if not norm.part.startswith(MOMENTUM)]
    carried = [norm for norm in stretch.norms if norm.part.startswith(MOMENTUM)]
    return {
        "model": name,
        "tokens": stretch.stop,
        "tokens_per_second": stretch.tokens_per_second,
        "loss": stretch.loss,
        "state_mb": stretch.state_bytes / MEGA,
        "memory_gb": stretch.memory_bytes / GIGA,
        "peak_gb": None if stretch.peak_bytes is None else stretch.peak_bytes / GIGA,
        "memory_norm": _mean([norm.mean for norm in known]),
        "largest_norm": max((norm.largest for norm in known), default=None),
        "momentum_norm": _mean([norm.mean for norm in carried]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _notes(courses: dict[str, Any]) -> list[str]:
    notes = [
        "tokens/second of the stretch that ends at `tokens`, logits of every token included; its first stretches "
        "consist of shorter pieces",
        "norms are Frobenius norms a head, averaged over heads, layers and matrices; the JSON file has each layer's",
    ]
    ends = {
        "memory": "memory was full or the state at its limit",
        "time": "time was up",
        "numbers": "a number was not finite",
    }
    for name, course in courses.items():
        if course["ended"] == READING:
            notes.append(f"{name} {course['reason']}")
        elif course["ended"] != "length":
            notes.append(f"{name} ends where {ends[course['ended']]}: {course['reason']}")
    return notes
