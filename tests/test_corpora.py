"""The corpora: what they hold, and that their parts are disjoint and independent of order."""

import random

import pytest

from titanlab.platform.corpora.documents import Document, digest_of, split_documents
from titanlab.platform.corpora.key_words import key_words
from titanlab.platform.corpora.sources import corpus_documents


@pytest.mark.parametrize(
    ("corpus", "least_documents", "least_bytes"),
    [("speeches", 240, 12e6), ("kjv", 66, 4e6), ("shakespeare", 37, 5e6), ("python", 300, 4e6)],
)
def test_a_corpus_splits_into_disjoint_documents_that_make_the_whole(corpus, least_documents, least_bytes) -> None:
    documents = corpus_documents(corpus)
    assert len(documents) >= least_documents
    assert sum(len(document.text) for document in documents) >= least_bytes
    assert not any(b"\0" in document.text for document in documents)
    parts = split_documents(documents, corpus)
    names = [document.name for part in parts.values() for document in part]
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(document.name for document in documents if document.text)
    whole = sum(len(document.text) for document in documents)
    assert sum(len(document.text) for document in parts["train"]) > 0.75 * whole


def test_the_split_depends_on_names_alone() -> None:
    documents = [Document(f"speech {number}", b"text" * number) for number in range(1, 60)]
    shuffled = documents.copy()
    random.Random(0).shuffle(shuffled)
    changed = [Document(name, text + b"!") for name, text in documents]

    def names(of: list[Document]) -> dict:
        return {part: [document.name for document in kept] for part, kept in split_documents(of, "x").items()}

    assert names(documents) == names(shuffled) == names(changed)
    assert [len(kept) for kept in names(documents).values()] == [53, 3, 3]
    assert digest_of(split_documents(documents, "x")) == digest_of(split_documents(shuffled, "x"))
    assert digest_of(split_documents(documents, "x")) != digest_of(split_documents(changed, "x"))


def test_a_few_documents_are_cut_inside() -> None:
    text = bytes(range(200))
    parts = split_documents([Document("only", text)], "x")
    assert [piece.text for part in ("train", "val", "test") for piece in parts[part]] == [
        text[:180],
        text[180:190],
        text[190:],
    ]


def test_the_bible_has_its_books() -> None:
    books = corpus_documents("kjv")
    assert len(books) == 66
    assert books[0].text.startswith(b"In the beginning God created the heaven and the earth.")
    assert books[1].text.startswith(b"Now these are the names of the children of Israel")
    assert books[-1].text.endswith(b"The grace of our Lord Jesus Christ be with you all. Amen.")


def test_key_words_are_plain_and_short() -> None:
    adjectives, nouns = key_words()
    assert len(adjectives) > 500 and len(nouns) > 3000
    assert all(word.isalpha() and word.islower() and 3 <= len(word) <= 8 for word in (*adjectives, *nouns))
