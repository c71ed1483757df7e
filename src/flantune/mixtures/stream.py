"""The stream's blocks: for 1,024 places at a time, which leaf, which row, which format, and the key of the rest.

A block is a pure function of its number. Reading blocks in order is cheaper only because the counts at a block's start
are then those at the last one's start plus its own; otherwise they are computed from nothing (`sequence.count_before`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

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


@dataclass(frozen=True, slots=True)
class _Phase:
    """A stretch of the stream from `first` on. `numbers`: of its leaves among all, in the order of their intervals."""

    first: int
    numbers: Counts
    starts: Words
    bounds: list[int]

    @classmethod
    def of(cls, first: int, leaves: Sequence[Leaf], numbers: Sequence[int]) -> _Phase:
        starts = [leaf.start for leaf in leaves]
        return cls(first, np.array(numbers, np.int64), np.array(starts, np.uint64), [*starts, WHOLE])

    def leaves_at(self, turns: Words) -> Counts:
        return self.numbers[np.searchsorted(self.starts, turns, side="right") - 1]


class Stream:
    """The leaves laid out without end. Holds a few blocks and the counts at one place, to save work only."""

    def __init__(
        self,
        leaves: Sequence[Leaf],
        sizes: Mapping[str, int],
        seed: int,
        order: RowOrder | None = None,
        phases: Sequence[tuple[int, Sequence[Leaf]]] = (),
    ) -> None:
        """`phases`: where each begins, and its leaves; `leaves` then names all of them, and its intervals say nothing.

        A block tells leaves by their number in `leaves`. Occurrences are counted over all phases.
        """
        tasks = sorted({leaf.task for leaf in leaves})
        number = {task: i for i, task in enumerate(tasks)}
        self._offset = name_key("offset", seed)
        self._block_key = name_key("block", seed)
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
        number_of = {(leaf.path, leaf.task): i for i, leaf in enumerate(leaves)}
        self._phases = [
            _Phase.of(first, own, [number_of[leaf.path, leaf.task] for leaf in own]) for first, own in phases
        ] or [_Phase.of(0, leaves, range(len(leaves)))]
        self._firsts = [phase.first for phase in self._phases]
        self._before = [np.zeros(len(leaves), dtype=np.int64)]  # counts by leaf where each phase begins
        for phase, stop in zip(self._phases, self._firsts[1:], strict=False):
            self._before.append(self._before[-1] + self._counted(phase, stop))
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
        place = number * BLOCK
        phase = bisect_right(self._firsts, place) - 1
        return np.asarray(self._before[phase] + self._counted(self._phases[phase], place))

    def _counted(self, phase: _Phase, stop: int) -> Counts:
        """(leaves,) how often each stands from the phase's first place up to `stop`, which is not beyond its last."""
        counts = np.array(count_before(self._offset, stop, phase.bounds), dtype=np.int64)
        if phase.first:
            counts -= np.array(count_before(self._offset, phase.first, phase.bounds), dtype=np.int64)
        out = np.zeros(len(self._leaf_task), dtype=np.int64)
        out[phase.numbers] = counts
        return out

    def _make_block(self, number: int) -> Block:
        leaf = self._leaves_of(number)
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

    def _leaves_of(self, number: int) -> Counts:
        """(BLOCK,) the leaf at each place of a block, in the order that they are read."""
        begin = number * BLOCK
        edges = [first - begin for first in self._firsts if begin < first < begin + BLOCK]
        places = shuffled_places(self._block_key, number, BLOCK, edges)
        turns = places * np.uint64(GOLDEN) + np.uint64(self._offset)
        phase = bisect_right(self._firsts, begin) - 1
        stretches = pairwise((0, *edges, BLOCK))
        return np.concatenate([self._phases[phase + i].leaves_at(turns[a:b]) for i, (a, b) in enumerate(stretches)])

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
