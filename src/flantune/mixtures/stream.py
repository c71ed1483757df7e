"""The stream's blocks: for 1,024 places at a time, which leaf, which row, which format, and the key of the rest.

A block is a pure function of its number. Reading blocks in order is cheaper only because the counts at a block's start
are then those at the last one's start plus its own; otherwise they are computed from nothing (`sequence.count_before`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from flantune.mixtures.row_order import RowOrder
from flantune.mixtures.sequence import (
    GOLDEN,
    WORD,
    Counts,
    Words,
    count_before,
    mix_words,
    name_key,
    permute,
    shuffled_places,
)
from flantune.mixtures.weights import WHOLE, Leaf, cut_interval

BLOCK = 1024
_KEPT_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Block:
    """Plain lists, (BLOCK,) each: read place by place."""

    first: int
    leaf: list[int]
    occurrence: list[int]  # of the task, over all its leaves
    row: list[int]
    format: list[int]  # place in the leaf's formats
    key: list[int]


class Stream:
    """The leaves laid out without end. Holds a few blocks and the counts at one place, to save work only."""

    def __init__(
        self, leaves: Sequence[Leaf], sizes: Mapping[str, int], seed: int, order: RowOrder | None = None
    ) -> None:
        tasks = sorted({leaf.task for leaf in leaves})
        number = {task: i for i, task in enumerate(tasks)}
        self._offset = name_key("offset", seed)
        self._block_key = name_key("block", seed)
        self._bounds = [leaf.start for leaf in leaves] + [WHOLE]
        self._starts = np.array([leaf.start for leaf in leaves], dtype=np.uint64)
        self._leaf_task = np.array([number[leaf.task] for leaf in leaves], dtype=np.int64)
        self._sizes = np.array([sizes[task] for task in tasks], dtype=np.uint64)
        self._row_keys = np.array([name_key("rows", seed, task) for task in tasks], dtype=np.uint64)
        self._draw_keys = np.array([name_key("draw", seed, task) for task in tasks], dtype=np.uint64)
        self._format_keys = np.array(
            [name_key("format", seed, leaf.path, leaf.task) for leaf in leaves], dtype=np.uint64
        )
        self._format_starts = _format_starts(leaves)
        self._num_formats = np.array([len(leaf.formats) for leaf in leaves], dtype=np.int64)
        self._order = order.laid_out(tasks) if order is not None else None  # else rows come in random order
        self._blocks: dict[int, Block] = {}
        self._last_counts: tuple[int, Counts] | None = None

    def block(self, number: int) -> Block:
        known = self._blocks.get(number)
        if known is None:
            known = self._make_block(number)
            while len(self._blocks) >= _KEPT_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)), None)
            self._blocks[number] = known
        return known

    def leaf_counts(self, number: int) -> Counts:
        """(leaves,) how often each leaf stands before block `number`."""
        return np.array(count_before(self._offset, number * BLOCK, self._bounds), dtype=np.int64)

    def _make_block(self, number: int) -> Block:
        places = shuffled_places(self._block_key, number, BLOCK)
        leaf = self._leaves_at(places)
        before = self._counts(number)
        task_before = np.zeros(len(self._sizes), dtype=np.int64)
        np.add.at(task_before, self._leaf_task, before)
        task = self._leaf_task[leaf]
        occurrence = (task_before[task] + _earlier_equals(task)).astype(np.uint64)
        leaf_occurrence = (before[leaf] + _earlier_equals(leaf)).astype(np.uint64)
        self._last_counts = (number + 1, before + np.bincount(leaf, minlength=len(before)))
        epoch, place = occurrence // self._sizes[task], occurrence % self._sizes[task]
        epoch_key = mix_words(self._row_keys[task] + epoch * np.uint64(GOLDEN))
        if self._order is None:
            row = permute(place, self._sizes[task], epoch_key).astype(np.int64)
        else:
            row = self._order.rows(task, place, epoch_key)
        # A second golden sequence, over the leaf's own occurrences, shares its formats as evenly.
        turn = self._format_keys[leaf] + leaf_occurrence * np.uint64(GOLDEN)
        format = np.minimum((turn[:, None] >= self._format_starts[leaf]).sum(axis=1), self._num_formats[leaf]) - 1
        key = mix_words(self._draw_keys[task] + occurrence * np.uint64(GOLDEN))
        return Block(
            first=number * BLOCK,
            leaf=leaf.tolist(),
            occurrence=occurrence.tolist(),
            row=row.tolist(),
            format=format.tolist(),
            key=key.tolist(),
        )

    def _leaves_at(self, places: Words) -> Counts:
        turns = places * np.uint64(GOLDEN) + np.uint64(self._offset)
        return np.searchsorted(self._starts, turns, side="right").astype(np.int64) - 1

    def _counts(self, number: int) -> Counts:
        last = self._last_counts
        return last[1] if last is not None and last[0] == number else self.leaf_counts(number)


def _earlier_equals(values: Counts) -> Counts:
    """How many earlier entries equal each: [5 3 5 5] -> [0 0 1 2]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    firsts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[firsts, len(values)])
    ranks = np.empty_like(values)
    ranks[order] = np.arange(len(values)) - np.repeat(firsts, lengths)
    return ranks


def _format_starts(leaves: Sequence[Leaf]) -> Words:
    """(leaves, most formats) where each format's interval starts; rows with fewer end in the largest word."""
    most = max(len(leaf.formats) for leaf in leaves)
    starts = np.full((len(leaves), most), WORD, dtype=np.uint64)
    for i, leaf in enumerate(leaves):
        bounds = cut_interval(0, WHOLE, [Fraction(p) for _, p in leaf.formats])
        starts[i, : len(leaf.formats)] = bounds[:-1]
    return starts
