"""English words to make keys from, as in RULER: `adjective-noun`, from the lists of package `wonderwords`."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from titanlab.platform.corpora.sources import INSTALL, package_folder
from titanlab.platform.errors import DataError

LONGEST_WORD = 8
"""Letters; longer words are left out, so that the length of a key has a bound."""
LONGEST_KEY = 2 * LONGEST_WORD + 1


@lru_cache
def key_words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Adjectives and nouns of 3 to 8 lower-case letters, in alphabetical order.

    Raises:
        DataError: the package is not installed, or its lists are not where they were.
    """
    folder = package_folder("wonderwords") / "assets"
    return _words(folder / "adjectivelist.txt"), _words(folder / "nounlist.txt")


def _words(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}; reinstall its package: {INSTALL}") from None
    return tuple(sorted({line for line in lines if re.fullmatch(rf"[a-z]{{3,{LONGEST_WORD}}}", line)}))
