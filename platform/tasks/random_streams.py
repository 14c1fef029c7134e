"""Random numbers that depend on what they are for, and on nothing drawn before: the ground of exact resumption."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stream(*purpose: str | int | float) -> np.random.Generator:
    """The generator of one purpose, as in `stream("mqar", "train", seed, number)`; another purpose, other numbers.

    Philox, a counter-based generator, keyed with a sha256 of the purpose: making one costs the same for every number.
    """
    key = hashlib.sha256(repr(purpose).encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def distinct(random: np.random.Generator, rows: int, choices: int, count: int) -> NDArray[np.int64]:
    """`count` different numbers below `choices` for each row, in random order, all equally likely: [rows, count]."""
    if choices < 4 * count:
        return _first(random.random((rows, choices)), count)
    # Of many choices it is faster to draw with replacement and keep what is new; twice as many draws always suffice.
    draws = random.integers(choices, size=(rows, 2 * count + 16))
    order = np.argsort(draws, axis=1, kind="stable")
    ranked = np.take_along_axis(draws, order, axis=1)
    repeated = np.zeros(draws.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ranked[:, 1:] == ranked[:, :-1], axis=1)
    new = np.argsort(repeated, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(draws, new, axis=1)


def distinct_weighted(
    random: np.random.Generator, rows: int, weights: NDArray[np.float64], count: int
) -> NDArray[np.int64]:
    """`count` different indices for each row, drawn one after another by weight, without replacement: [rows, count].

    An exponential race (Efraimidis and Spirakis 2006): arrival times of rate `weights` come in just that order.
    """
    return _first(-np.log1p(-random.random((rows, len(weights)))) / weights, count)


def _first(times: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the `count` smallest of each row, smallest first."""
    indices = np.argpartition(times, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(times, indices, axis=1), axis=1)
    return np.take_along_axis(indices, order, axis=1)
