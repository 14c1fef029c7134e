"""The rows of the needle task: filler, the needle in it, the question and the answer, to the byte."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from titanlab.platform.config import digest
from titanlab.platform.corpora.byte_ids import START
from titanlab.platform.corpora.documents import PARTS, Part, digest_of, split_documents
from titanlab.platform.corpora.key_words import LONGEST_KEY, key_words
from titanlab.platform.corpora.sources import corpus_documents
from titanlab.platform.task import Batch

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
PASS_KEY = "pass-key"
LEAST_FILLER = 16
"""Bytes."""

Variant: TypeAlias = Literal["passkey", "number", "uuid"]
Filler: TypeAlias = Literal["auto", "noise", "kjv", "shakespeare"]


class Row(NamedTuple):
    """One row: `prompt` ends where the answer begins."""

    prompt: bytes
    answer: bytes

    @property
    def text(self) -> bytes:
        """The whole row."""
        return self.prompt + self.answer


class Haystack:
    """Makes rows of one variant.

    Args:
        variant: what is hidden, and under which key.
        filler: where the text around it comes from. A corpus is split by document, so that no part shares its filler
            with another; noise is the same everywhere.

    Raises:
        DataError: the package of the filler or of the key words is missing.
    """

    def __init__(self, variant: Variant, filler: Filler) -> None:
        self.variant = variant
        self._words = None if variant == "passkey" else key_words()
        source = filler if filler != "auto" else "noise" if variant == "passkey" else "kjv"
        if source == "noise":
            text: dict[Part, bytes] = dict.fromkeys(PARTS, f" {NOISE}".encode())
            self._filler_digest = digest(NOISE)
        else:
            parts = split_documents(corpus_documents(source), f"corpus '{source}'")
            text = {
                part: b" " + b" ".join(word for document in parts[part] for word in document.text.split())
                for part in PARTS
            }
            self._filler_digest = digest_of(parts)
        self._text = text

    @property
    def digest(self) -> str:
        """sha256 (hex) of the filler and the key words."""
        return digest([self._filler_digest, self._words])

    def row(self, random: np.random.Generator, part: Part, length: int, depth: float) -> Row:
        """A row of `length` bytes with the needle `depth` (0 .. 1) of the way through the filler."""
        key, value = self._key(random), _value(self.variant, random)
        needle, question = _needle(self.variant, key, value), _question(self.variant, key)
        room = length - len(needle) - len(question) - len(value)
        filler = self._filler(random, part, room)
        cut = _cut(filler, depth)
        return Row(filler[:cut] + needle + filler[cut:] + question, value)

    def _key(self, random: np.random.Generator) -> str:
        if self._words is None:
            return PASS_KEY
        return "-".join(words[random.integers(len(words))] for words in self._words)

    def _filler(self, random: np.random.Generator, part: Part, size: int) -> bytes:
        """`size` bytes of running text that begin at a space; text shorter than that is repeated."""
        text = self._text[part]
        last_start = len(text) - size
        if last_start < 1:
            text = text * (2 + size // len(text))
            last_start = len(self._text[part]) - 1
        start = text.rfind(b" ", 0, int(random.integers(last_start + 1)) + 1)
        return text[start : start + size]


def shortest_row(variant: Variant) -> int:
    """Bytes that the longest needle, its question and its answer take, with a little filler."""
    key = PASS_KEY if variant == "passkey" else "x" * LONGEST_KEY
    value = _value(variant, np.random.default_rng(0))
    return len(_needle(variant, key, value)) + len(_question(variant, key)) + len(value) + LEAST_FILLER


def batch_of(rows: Sequence[Row]) -> Batch:
    """Rows of one length as a batch [rows, length], the input one byte late; the answer alone counts."""
    text = bytearray(b"".join(row.text for row in rows))
    targets = torch.frombuffer(text, dtype=torch.uint8).long().view(len(rows), -1)
    ids = targets.roll(1, dims=1)
    ids[:, 0] = START
    mask = torch.zeros(targets.shape)
    mask[:, -len(rows[0].answer) :] = 1.0
    return Batch(ids, targets, mask)


def _value(variant: Variant, random: np.random.Generator) -> bytes:
    """Seven digits, or a random (version 4) UUID: the same number of bytes in every row of a variant."""
    if variant == "uuid":
        return str(uuid.UUID(bytes=random.bytes(16), version=4)).encode()
    return str(random.integers(1_000_000, 10_000_000)).encode()


def _kind(variant: Variant) -> str:
    return "uuid" if variant == "uuid" else "number"


def _needle(variant: Variant, key: str, value: bytes) -> bytes:
    return f" One of the special magic {_kind(variant)}s for {key} is: {value.decode()}.".encode()


def _question(variant: Variant, key: str) -> bytes:
    return f"\nWhat is the special magic {_kind(variant)} for {key}? It is: ".encode()


def _cut(filler: bytes, depth: float) -> int:
    """Where the needle goes in: at a sentence's end if one is shortly before the depth, else at a word's end."""
    target = round(depth * len(filler))
    if target == len(filler):
        return target
    sentence = filler.rfind(b". ", max(0, target - len(filler) // 20), target + 1)
    return sentence + 1 if sentence >= 0 else filler.rfind(b" ", 0, target + 1)
