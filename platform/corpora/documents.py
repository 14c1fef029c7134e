"""Documents and their split: by a hash of their names, so that no document is trained on and tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from titanlab.platform.errors import DataError

Part: TypeAlias = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")

HELD_OUT = 0.05
"""Fraction of the documents in each of val and test."""
FEW_DOCUMENTS = 20
"""Below this number, every document is cut into its first 90 %, next 5 % and last 5 % instead."""


class Document(NamedTuple):
    """One text; `name` tells it from the others of its corpus."""

    name: str
    text: bytes


def split_documents(documents: Sequence[Document], source: str) -> dict[Part, list[Document]]:
    """Splits a corpus 90/5/5; the same names give the same split, whatever order they come in.

    Args:
        documents: all texts of the corpus.
        source: what the corpus is called in an error.

    Raises:
        DataError: a part would be empty.
    """
    if len(documents) < FEW_DOCUMENTS:
        parts = _cut_each(documents)
    else:
        ranked = sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest())
        held_out = max(1, round(HELD_OUT * len(ranked)))
        val, test, train = ranked[:held_out], ranked[held_out : 2 * held_out], ranked[2 * held_out :]
        parts = {"train": train, "val": val, "test": test}
    parts = {part: sorted(document for document in parts[part] if document.text) for part in PARTS}
    for part, kept in parts.items():
        if not kept:
            size = sum(len(document.text) for document in documents)
            raise DataError(
                f"{source}: too little text for a {part} part: {len(documents)} documents of {size} bytes together"
            )
    return parts


def _cut_each(documents: Sequence[Document]) -> dict[Part, list[Document]]:
    parts: dict[Part, list[Document]] = {part: [] for part in PARTS}
    for name, text in documents:
        first, second = round((1 - 2 * HELD_OUT) * len(text)), round((1 - HELD_OUT) * len(text))
        for part, piece in zip(PARTS, (text[:first], text[first:second], text[second:]), strict=True):
            parts[part].append(Document(f"{name}:{part}", piece))
    return parts


def digest_of(parts: dict[Part, list[Document]]) -> str:
    """sha256 (hex) over every part's names and bytes."""
    total = hashlib.sha256()
    for part in PARTS:
        for name, text in parts[part]:
            total.update(f"{part} {len(name)} {name} {len(text)} ".encode())
            total.update(text)
    return total.hexdigest()
