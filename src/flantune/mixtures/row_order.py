"""A task's rows in an order of which every stretch holds short and long ones as the whole task does.

Tokens per row have heavy tails: among 10,000 rows drawn in random order, a few long summaries too many move a mixture's
share of the target tokens by two points. So the rows are ranked by length and the ranks visited at even steps:

    occurrence k -> rank (k * step + shift) mod size        step / size is near sqrt(2) - 1, coprime to size
                 -> one of its 16 neighbours in rank, permuted by a key

Each row stands once in an epoch, every epoch has another shift and other neighbours, and nothing but the task's own
rows decides. The step is not the golden ratio: a leaf's formats follow that, and short rows would meet one format only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import gcd, sqrt

import numpy as np
import numpy.typing as npt

from flantune.mixtures.sequence import GOLDEN, Counts, Words, mix_words, name_key, permute

STRATUM = 16  # neighbours in rank among which chance decides; fewer where a task has less than 256 rows
_STEP = sqrt(2) - 1

Lengths = npt.NDArray[np.int64]


class RowOrder:
    """The rows of each task by length. `lengths[task]`, (rows,), in any unit; equal ones stand in random order."""

    def __init__(self, lengths: Mapping[str, Lengths], seed: int) -> None:
        self._rows = {task: _by_length(own, name_key("ties", seed, task)) for task, own in lengths.items()}
        self._lengths = {task: np.sort(own).astype(np.int32) for task, own in lengths.items()}

    def row(self, task: str, number: int, of: int) -> int:
        """Row `number` of `of` that are spread evenly over the task's lengths; `number` < `of`."""
        rows = self._rows[task]
        return int(rows[_rank(number, of, len(rows))])

    def longer(self, task: str, of: int) -> Fraction:
        """The mean length of all the task's rows over that of the `of` that `row` names; 1 where those have none.

        What goes with length and was measured on the few is known of all by this ratio (a ratio estimator: it errs by
        how far tokens stray from lengths, not by which of a heavy tail's rows were among the few).
        """
        lengths = self._lengths[task]
        few = int(lengths[[_rank(number, of, len(lengths)) for number in range(of)]].sum(dtype=np.int64))
        return Fraction(int(lengths.sum(dtype=np.int64)) * of, few * len(lengths)) if few else Fraction(1)

    def laid_out(self, tasks: Sequence[str]) -> LaidOut:
        return LaidOut([self._rows[task] for task in tasks])

    def fingerprint(self, *tasks: str) -> str:
        """32 hex digits over the order of the tasks' rows; of all tasks where none is named."""
        digest = hashlib.blake2b(digest_size=16)
        for task in sorted(tasks or self._rows):
            digest.update(task.encode() + b"\0" + self._rows[task].tobytes())
        return digest.hexdigest()


class LaidOut:
    """The orders of numbered tasks, looked up for many places at once."""

    def __init__(self, rows: Sequence[npt.NDArray[np.int32]]) -> None:
        sizes = [len(own) for own in rows]
        self._flat = np.concatenate(rows)
        self._starts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        self._sizes = np.array(sizes, dtype=np.uint64)
        self._steps = np.array([coprime_near(_STEP * size, size) for size in sizes], dtype=np.uint64)
        self._strata = np.array([max(4, min(STRATUM, size // 16)) for size in sizes], dtype=np.uint64)

    def rows(self, task: Counts, place: Words, keys: Words) -> Counts:
        """(n,) the row at each `place` of an epoch; `task` is a number, and `keys` names the task's epoch."""
        size, strata = self._sizes[task], self._strata[task]
        shift = ((keys >> np.uint64(32)) * size) >> np.uint64(32)
        rank = (place * self._steps[task] + shift) % size  # sizes are below 2**32: no product wraps
        first = rank // strata * strata
        inner = permute(rank - first, np.minimum(strata, size - first), mix_words(keys + first * np.uint64(GOLDEN)))
        return self._flat[self._starts[task] + (first + inner).astype(np.int64)].astype(np.int64)


def coprime_near(value: float, size: int) -> int:
    """The number from 1 to size coprime to `size` that is nearest to `value`; multiples of it visit every rank."""
    near = min(size, max(1, round(value)))
    for distance in range(size):
        for candidate in (near - distance, near + distance):
            if 1 <= candidate <= size and gcd(candidate, size) == 1:
                return candidate
    return 1


def _rank(number: int, of: int, size: int) -> int:
    return (2 * number + 1) * size // (2 * of)


def _by_length(lengths: Lengths, key: int) -> npt.NDArray[np.int32]:
    ties = mix_words(np.arange(len(lengths), dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(key))
    return np.lexsort((ties, lengths)).astype(np.int32)
