"""Language modelling on bytes of real text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from titanlab.platform.config import digest
from titanlab.platform.corpora.byte_ids import BYTES, START
from titanlab.platform.corpora.documents import Document, Part, digest_of, split_documents
from titanlab.platform.corpora.sources import Corpus, corpus_documents, own_documents
from titanlab.platform.task import TASKS, Batch, Split, Task, TaskConfig
from titanlab.platform.tasks.evaluation import over_ranks, rows_a_batch, score
from titanlab.platform.tasks.random_streams import stream

VERSION = 1
"""Raised when the choice of rows changes, so that the digest does."""


@TASKS.register("language_modeling")
class LanguageModelingConfig(TaskConfig):
    """Language modelling on real text, byte by byte: speeches, the Bible, Shakespeare, Python, or your own files.

    A row is a piece of one document; it starts at a byte drawn uniformly from the training part and is padded where
    its document ends. Evaluation cuts each held-out document into windows and scores each byte once.
    """

    corpus: Corpus = "speeches"
    """Text to model: State of the Union speeches, the King James Bible, Shakespeare's plays, Python's own library."""
    path: str = ""
    """A text file, or a folder of them, to model instead of `corpus`; each file is a document."""
    length: int = Field(256, ge=2, le=1 << 20)
    """Bytes in a row, in training and in evaluation."""
    eval_tokens: int = Field(65_536, ge=0)
    """About how many bytes of a split to evaluate, in windows spread over it; 0: all of them."""

    @property
    def vocab_size(self) -> int:
        return BYTES

    @property
    def row_length(self) -> int:
        return self.length

    def metrics(self) -> tuple[str, ...]:
        return ("loss", "bits_per_byte")

    def build(self) -> LanguageModelingTask:
        return LanguageModelingTask(self)


class LanguageModelingTask(Task):
    """The three parts of a corpus, in memory.

    Raises:
        DataError: the corpus's package is missing, or `path` holds no text.
    """

    vocab_size = BYTES

    def __init__(self, config: LanguageModelingConfig) -> None:
        self.config = config
        documents = own_documents(config.path) if config.path else corpus_documents(config.corpus)
        self._documents = split_documents(
            documents, f"path '{config.path}'" if config.path else f"corpus '{config.corpus}'"
        )
        self._texts: dict[Part, Text] = {part: Text(kept) for part, kept in self._documents.items()}

    @cached_property
    def _digest(self) -> str:
        settings = {"length": self.config.length, "eval_tokens": self.config.eval_tokens}
        return digest({"rows": f"bytes {VERSION}", "settings": settings, "documents": digest_of(self._documents)})

    @property
    def digest(self) -> str:
        return self._digest

    def train_batches(self, seed: int, batch_size: int, start: int = 0) -> Iterator[Batch]:
        text = self._texts["train"]
        for number in itertools.count(start):
            random = stream("language modeling", VERSION, seed, batch_size, number)
            yield text.rows(random.integers(len(text.data), size=batch_size), self.config.length)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        text, length = self._texts[split], self.config.length
        starts = text.windows(length, self.config.eval_tokens)
        rows = rows_a_batch(length, BYTES)

        def batch(number: int) -> Batch:
            return text.rows(starts[number * rows : (number + 1) * rows], length)

        (total,) = over_ranks([score(model, -(-len(starts) // rows), batch)])
        # A token is a byte, so bits a byte are nats a token over ln 2.
        return {"loss": total.mean_loss, "bits_per_byte": total.mean_loss / math.log(2)}


class Text:
    """Documents end to end, cut into rows that never reach into the next one."""

    def __init__(self, documents: list[Document]) -> None:
        self.data = np.frombuffer(b"".join(document.text for document in documents), dtype=np.uint8)
        self.ends = np.cumsum([len(document.text) for document in documents])
        self.begins = np.concatenate([[0], self.ends[:-1]])

    def windows(self, length: int, tokens: int) -> NDArray[np.int64]:
        """First bytes of windows that cover each document once, or of some of them, about `tokens` bytes in all."""
        spans = zip(self.begins, self.ends, strict=True)
        starts = np.concatenate([np.arange(begin, end, length) for begin, end in spans])
        wanted = max(1, tokens // length)
        if tokens and wanted < len(starts):
            starts = starts[np.arange(wanted) * len(starts) // wanted]
        return starts

    def rows(self, starts: NDArray[np.int64], length: int) -> Batch:
        """Rows [rows, length] whose targets begin at `starts`; the first input is the byte before, if there is one."""
        document = np.searchsorted(self.begins, starts, side="right") - 1
        places = starts[:, None] + np.arange(length)
        inside = places < self.ends[document][:, None]
        last = len(self.data) - 1
        targets = np.where(inside, self.data[places.clip(0, last)], START)
        follows = inside & (places > self.begins[document][:, None])
        before = np.where(follows, self.data[(places - 1).clip(0, last)], START)
        arrays = (before.astype(np.int64), targets.astype(np.int64), inside.astype(np.float32))
        return Batch(*map(torch.from_numpy, arrays))
