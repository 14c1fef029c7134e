"""Language modelling on bytes: rows, windows and bits per byte, checked by hand."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titanlab.platform.corpora.documents import Document
from titanlab.platform.errors import DataError
from titanlab.platform.task import TASKS
from titanlab.platform.tasks.language_modeling import LanguageModelingTask, Text


class Uniform(nn.Module):
    def forward(self, ids: Tensor, state: None = None) -> tuple[Tensor, None]:
        return torch.zeros(*ids.shape, 256), None


class Counting(nn.Module):
    """Certain of the byte one above the last, and counts the bytes it is asked about."""

    def forward(self, ids: Tensor, state: None = None) -> tuple[Tensor, None]:
        return 50.0 * F.one_hot((ids + 1) % 256, 256), None


def task(**settings: object) -> LanguageModelingTask:
    return TASKS.resolve({"type": "language_modeling", **settings}).build()


def test_rows_are_pieces_of_one_document_padded_at_the_end() -> None:
    text = Text([Document("a", b"abcdef"), Document("b", b"xy")])
    ids, targets, mask = text.rows(torch.tensor([0, 4, 6, 7]).numpy(), 4)
    assert [bytes(row) for row in targets.tolist()] == [b"abcd", b"ef\0\0", b"xy\0\0", b"y\0\0\0"]
    assert [bytes(row) for row in ids.tolist()] == [b"\0abc", b"de\0\0", b"\0x\0\0", b"x\0\0\0"]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]


def test_windows_cover_every_byte_once() -> None:
    text = Text([Document("a", b"abcdef"), Document("b", b"xy"), Document("c", b"12345678")])
    starts = text.windows(4, 0)
    assert starts.tolist() == [0, 4, 6, 8, 12]
    rows = text.rows(starts, 4)
    assert bytes(rows.targets[rows.mask.bool()].tolist()) == b"abcdefxy12345678"
    assert text.windows(4, 8).tolist() == [0, 6]
    assert text.windows(4, 100).tolist() == starts.tolist()


def test_a_uniform_model_takes_eight_bits_a_byte() -> None:
    metrics = task(eval_tokens=4096).evaluate(Uniform(), "val")
    assert metrics["bits_per_byte"] == pytest.approx(8.0, abs=1e-5)
    assert metrics["loss"] == pytest.approx(8 * math.log(2), abs=1e-5)


def test_a_model_that_knows_the_next_byte_takes_no_bits(tmp_path: Path) -> None:
    (tmp_path / "alphabet.txt").write_bytes(bytes(range(1, 256)) * 80)
    metrics = task(path=str(tmp_path / "alphabet.txt"), eval_tokens=0, length=51).evaluate(Counting(), "test")
    # 1020 bytes; the model errs where 1 follows 255 (three times) and, within the document, nowhere else.
    assert metrics["loss"] == pytest.approx(50 * 3 / 1020, rel=1e-3)


def test_rows_are_drawn_from_the_training_documents_only() -> None:
    subject = task(length=64)
    held_out = b"\n\n".join(document.text for part in ("val", "test") for document in subject._documents[part])
    batch = next(subject.train_batches(0, 64))
    whole = [bytes(row) for row, mask in zip(batch.targets.tolist(), batch.mask, strict=True) if mask.all()]
    assert len(whole) > 50
    assert not any(row in held_out for row in whole)
    trained = b"\n\n".join(document.text for document in subject._documents["train"])
    assert all(row in trained for row in whole)


def test_a_folder_of_ones_own_is_read_by_file_and_its_digest_follows_the_bytes(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"document {number} " * 20)
    (tmp_path / ".hidden").write_text("not read")
    before = task(path=str(tmp_path))
    assert sum(len(documents) for documents in before._documents.values()) == 30
    assert [len(before._documents[part]) for part in ("train", "val", "test")] == [26, 2, 2]
    (tmp_path / "7.txt").write_text("document 8 " * 20)
    assert task(path=str(tmp_path)).digest != before.digest
    assert task(path=str(tmp_path), length=8).digest != task(path=str(tmp_path)).digest


def test_a_path_without_text_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder; a relative path starts at"):
        task(path="no/such/place")
    with pytest.raises(DataError, match="holds no text"):
        task(path=str(tmp_path))
    (tmp_path / "tiny.txt").write_text("abc")
    with pytest.raises(DataError, match="too little text for a val part: 1 documents of 3 bytes"):
        task(path=str(tmp_path))
